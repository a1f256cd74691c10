"""Bounds and their gradients against the linear-Gaussian VAE, where all of them have closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import linear_gaussian
from vae import distributions as dist
from vae import evaluate, models, objectives
from vae.diagnostics import expectations
from vae.estimators import BY_NAME, Estimate, bind, integrand, mean, stateless

MODEL, PARAMS, X = linear_gaussian.example()
f64 = lambda array: np.asarray(array, np.float64)
_reparam = functools.cache(lambda num_samples: BY_NAME["reparam"].make(num_samples=num_samples))


def _bound(objective, estimator, params, key, x=X, model=MODEL):
    """The objective's value, `[B]`, by an estimator that learns and counts nothing."""
    return objective(model.apply, params, x, bind(estimator, {}, {}, key)).value


NUM_DRAWS = 20_000


@functools.cache
def _values(objective, num_samples):
    """Independent draws of the bounds, `[draws, B]`."""
    draw = lambda key: _bound(objective, _reparam(num_samples), PARAMS, key)
    return f64(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), NUM_DRAWS)))


def _gradients(objective, estimator):
    """Independent draws of the gradient of the sum of the bounds."""
    gradient = jax.grad(lambda params, key: jnp.sum(_bound(objective, estimator, params, key)))
    draws = lambda keys: jax.lax.map(lambda key: gradient(PARAMS, key), keys, batch_size=2000)
    return _leaves(jax.jit(draws)(jax.random.split(jax.random.key(1), NUM_DRAWS)))


def _z_scores(draws, truth):
    """Standard errors between the mean over axis 0 and the truth, and the norm of those errors over the truth's."""
    draws = f64(draws).reshape(len(draws), -1)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    scores = np.abs(draws.mean(axis=0) - np.ravel(truth)) / error
    return scores.max(), np.linalg.norm(error) / np.linalg.norm(truth)


def _leaves(params):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _true_gradient(beta=1.0):
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), linear_gaussian.elbo_gradients(PARAMS, X, beta))


@pytest.mark.parametrize(
    ("objective", "beta"),
    [
        (objectives.elbo, 1.0),
        (objectives.make("elbo"), 1.0),
        (objectives.weighted_elbo(kl_warmup=10, epoch=3.0), 0.3),
        (objectives.weighted_elbo(kl_warmup=10, epoch=11.0), 1.0),
        (objectives.weighted_elbo(beta=4.0, kl_warmup=10, epoch=3.0), 1.2),
        (objectives.weighted_elbo(beta=4.0), 4.0),
        (objectives.elbo_analytic(), 1.0),
        (objectives.elbo_analytic(0.3), 0.3),
    ],
)
def test_the_exact_expectation_is_the_closed_form(objective, beta):
    exact = BY_NAME["exact"].make(order=6)  # exact for polynomials of degree 11; the integrand is quadratic

    def total(params):
        value = _bound(objective, exact, params, jax.random.key(0))
        return jnp.sum(value), value

    (_, value), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(PARAMS)
    truth = -linear_gaussian.distortion(PARAMS, X) - beta * linear_gaussian.rate(PARAMS, X).sum(-1)
    np.testing.assert_allclose(value, truth, rtol=1e-5)
    truth = _leaves(_true_gradient(beta))
    for name, leaf in _leaves(gradient).items():
        np.testing.assert_allclose(leaf, truth[name], rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("objective", [objectives.elbo, objectives.elbo_analytic()], ids=["elbo", "elbo_analytic"])
def test_reparameterized_gradient_is_the_closed_form(objective):
    score, error = _z_scores(_values(objective, 8), linear_gaussian.elbo(PARAMS, X))
    assert score < 4.5
    assert error < 0.01
    truth = _leaves(_true_gradient())
    for name, draws in _gradients(objective, _reparam(8)).items():
        score, error = _z_scores(draws, truth[name])
        assert score < 4.5, name
        assert error < 0.01, name


def test_control_without_the_path_the_encoder_gets_no_gradient():
    """The same assertion fails for samples that carry no gradient: only the direct term, of mean zero, is left."""
    blocked = stateless(lambda key, q, f, reduce, c: reduce(integrand(f, q, c)(q.sample(key, 8))))
    truth = _leaves(_true_gradient())
    for name, draws in _gradients(objectives.elbo, blocked).items():
        score, _ = _z_scores(draws, truth[name])
        assert score > 20 if "encoder" in name else score < 4.5, name


def test_more_samples_tighten_the_bound():
    log_marginal = linear_gaussian.log_marginal(PARAMS, X)
    rows = [(objectives.elbo, 8), (objectives.iwae, 2), (objectives.iwae, 8)]
    means = [*(_values(*row).mean(axis=0) for row in rows), log_marginal]
    variances = [*(_values(*row).var(axis=0) / NUM_DRAWS for row in rows), 0 * log_marginal]
    for i in range(3):
        margin = (means[i + 1] - means[i]) / np.sqrt(variances[i] + variances[i + 1])
        assert np.all(margin > 4.5), (rows[i], margin)
    # One sample of the importance-weighted bound is the ELBO.
    np.testing.assert_allclose(_values(objectives.elbo, 1), _values(objectives.iwae, 1), rtol=1e-6)


@pytest.mark.parametrize(("objective", "k"), [(objectives.elbo, 1), (objectives.iwae, 5)])
def test_every_bound_is_tight_at_the_posterior(objective, k):
    params = linear_gaussian.with_exact_posterior(PARAMS)
    value = jax.jit(lambda params: _bound(objective, _reparam(k), params, jax.random.key(2)))(params)
    np.testing.assert_allclose(value, linear_gaussian.log_marginal(PARAMS, X), rtol=1e-5, atol=1e-5)


def test_other_reductions_of_the_same_weights():
    """Renyi's bounds are power means of the weights, ordered pointwise; the thermodynamic one is its Riemann sum."""
    k, key = 6, jax.random.key(6)

    @jax.jit
    def program(params):
        def log_weights(q, f, reduce, log_q_weight):
            return Estimate(integrand(f, q, log_q_weight)(q.rsample(key, k)), 0.0, {})

        named = {
            "weights": objectives.elbo(MODEL.apply, params, X, log_weights).value,
            "thermodynamic": _bound(objectives.thermodynamic(3, first=0.1), _reparam(k), params, key),
            "one partition": _bound(objectives.thermodynamic(1), _reparam(k), params, key),
        }
        bounds = [objectives.elbo, *map(objectives.renyi, (0.999, 0.5, 0.0)), objectives.iwae]
        return named, jnp.stack([_bound(bound, _reparam(k), params, key) for bound in bounds])

    named, bounds = jax.tree.map(f64, program(PARAMS))
    log_w = named["weights"]  # [K, B]
    elbo, near_elbo, half, zero, iwae = bounds
    np.testing.assert_allclose(elbo, log_w.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(near_elbo, elbo, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(half, 2 * np.log(np.mean(np.exp(0.5 * log_w), axis=0)), rtol=1e-5)
    np.testing.assert_allclose([zero, iwae], [np.log(np.mean(np.exp(log_w), axis=0))] * 2, rtol=1e-5)
    assert np.all(elbo < half)
    assert np.all(half < iwae)
    np.testing.assert_allclose(named["one partition"], elbo, rtol=1e-6)
    betas, truth = [0.0, 0.1, 0.1**0.5, 1.0], 0.0
    for beta, after in zip(betas[:-1], betas[1:], strict=True):
        tempered = np.exp(beta * log_w) / np.exp(beta * log_w).sum(axis=0)
        truth = truth + (after - beta) * np.sum(tempered * log_w, axis=0)
    np.testing.assert_allclose(named["thermodynamic"], truth, rtol=1e-5)


def test_a_name_stands_for_its_objective():
    assert objectives.make("iwae") is objectives.iwae


def test_beta_scales_the_kl_and_nothing_else():
    estimator, key = _reparam(3), jax.random.key(3)
    kl = lambda params: MODEL.apply(params, MODEL.apply(params, X, method="encode"), method="kl_to_prior")
    rate = jax.jit(kl)(PARAMS)
    np.testing.assert_allclose(rate, linear_gaussian.rate(PARAMS, X).sum(-1), rtol=1e-5)
    value = jax.jit(lambda beta: _bound(objectives.elbo_analytic(beta), estimator, PARAMS, key))
    reconstruction = value(0.0)
    for beta in (1.0, 4.0, np.float32(0.25)):
        np.testing.assert_allclose(value(beta), reconstruction - beta * rate, rtol=1e-6)
    # As in a warm-up, beta is traced: the derivative in beta is minus the KL.
    slope = jax.jit(jax.grad(lambda beta: jnp.sum(value(beta))))(2.0)
    np.testing.assert_allclose(slope, -np.sum(rate), rtol=1e-6)


def _value_and_gradient(objective):
    """The bounds, and the gradient of their sum."""

    def total(params):
        value = _bound(objective, _reparam(3), params, jax.random.key(4))
        return jnp.sum(value), value

    (_, value), gradient = jax.device_get(jax.jit(jax.value_and_grad(total, has_aux=True))(PARAMS))
    return value, _leaves(gradient)


@functools.cache
def _without_free_bits(beta):
    return _value_and_gradient(objectives.elbo_analytic(beta))


def test_a_kl_that_is_a_mean_over_the_batch_is_refused():
    def apply(params, *args, method):
        value = MODEL.apply(params, *args, method=method)
        return jnp.mean(value) if method == "kl_to_prior" else value

    expect = bind(_reparam(1), {}, {}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"must have one shape, .* log p\(x\|z\) \[3\], KL\(.*\) \[\]"):
        jax.eval_shape(lambda params: objectives.elbo_analytic()(apply, params, X, expect), PARAMS)


@pytest.mark.parametrize("none", [0, 0.0, np.float32(0), jnp.zeros(())])
def test_no_free_bits_change_nothing(none):
    for got, expected in zip(
        _value_and_gradient(objectives.elbo_analytic(1.5, free_bits=none)),
        _without_free_bits(1.5),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), got, expected)
        if isinstance(none, int | float):
            jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_more_free_bits_than_there_are_take_the_kl_gradient_away():
    value, gradient = _value_and_gradient(objectives.elbo_analytic(2.0, free_bits=100.0))
    free, free_gradient = _without_free_bits(0.0)
    np.testing.assert_allclose(value, free - 2.0 * 2 * 100.0, rtol=1e-6)  # beta times L dimensions
    jax.tree.map(np.testing.assert_array_equal, gradient, free_gradient)
    # Control: the KL has a gradient that is missed.
    paid = _without_free_bits(2.0)[1]
    assert all(np.abs(paid[name] - gradient[name]).max() > 0.01 for name in paid if "encoder" in name)


def test_free_bits_are_counted_by_dimension_on_the_average_over_the_batch():
    rates = linear_gaussian.rate(PARAMS, X)  # [B, L]
    low, high = np.argsort(rates.mean(axis=0))
    between = float(rates.mean(axis=0).mean())
    assert np.any(rates[:, low] > between) or np.any(rates[:, high] < between)  # by datum, the answer would differ
    value, gradient = _value_and_gradient(objectives.elbo_analytic(1.0, free_bits=between))
    reconstruction, free_gradient = _without_free_bits(0.0)
    np.testing.assert_allclose(value, reconstruction - rates[:, high] - between, rtol=1e-5)
    offset = "['params']['encoder']['offset']"
    assert gradient[offset][low] == free_gradient[offset][low]
    paid = _without_free_bits(1.0)[1]
    np.testing.assert_allclose(gradient[offset][high], paid[offset][high], rtol=1e-5)
    assert gradient[offset][high] != free_gradient[offset][high]


def _with_three_categories(family):
    return models.POSTERIORS[family](**({"categories": 3} if family == "categorical" else {}))


@pytest.mark.parametrize("family", ["normal", "laplace", "gamma", "beta", "bernoulli", "categorical"])
def test_the_kl_of_the_dimensions_sums_to_the_kl(family):
    posterior = _with_three_categories(family)
    model = models.make_vae((4, 4, 1), latent_dim=3, posterior=posterior)
    flat = np.float32(0.5 * np.random.default_rng(0).normal(size=(4, posterior.num_parameters(3))))

    @jax.jit
    def program(flat):
        q, prior = posterior.distribution(flat, 3), models.Prior(3, posterior).apply({})
        first = jax.tree.map(lambda leaf: leaf[:, :1], q), jax.tree.map(lambda leaf: leaf[:1], prior)
        whole, rates = (model.apply({}, q, per_dimension=per, method="kl_to_prior") for per in (False, True))
        return rates, whole, dist.kl(q, prior), dist.kl(*first)

    rates, whole, kl, first = program(flat)
    assert rates.shape == (4, 3)
    assert np.all(rates > 0)
    np.testing.assert_allclose(rates.sum(axis=-1), kl, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(whole, kl, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(
        rates[:, 0], first, rtol=1e-5, atol=2e-5
    )  # a dimension's KL depends on that dimension alone


@pytest.mark.parametrize("family", ["full_covariance", "dirichlet"])
def test_free_bits_refuse_what_does_not_factorize(family):
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(5,), posterior=family)
    x = jnp.ones((2, 4, 4, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))
    bound = lambda objective: jax.eval_shape(
        lambda params: _bound(objective, BY_NAME["reparam"].make(), params, jax.random.key(0), x, model), params
    )
    with pytest.raises(ValueError, match="free_bits needs .* independent dimensions.*; leave out free_bits, or"):
        bound(objectives.elbo_analytic(free_bits=0.5))
    assert bound(objectives.elbo_analytic()).shape == (2,)


def test_the_analytic_kl_is_refused_where_there_is_none():
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(5,), posterior="student_t")
    with pytest.raises(NotImplementedError, match="StudentT.*Normal.*elbo"):
        model.apply({}, dist.StudentT(*np.zeros((3, 4, 3), np.float32)), method="kl_to_prior")


def test_posterior_terms_sum_to_the_log_importance_weight():
    @jax.jit
    def program(params):
        q = MODEL.apply(params, X, method="encode")
        z = q.sample(jax.random.key(5), 6)
        log_weight = objectives.log_joint(MODEL.apply, params, X)(z) - q.log_prob(z)
        return evaluate.posterior_terms(MODEL.apply, params, X, q, z), log_weight, z

    (likelihood, ratio), log_weight, z = program(PARAMS)
    np.testing.assert_allclose(likelihood + ratio, log_weight, rtol=1e-5, atol=1e-5)
    decoder = jax.tree.map(f64, PARAMS["params"]["decoder"])
    residual = f64(X).reshape(len(X), -1) - decoder["offset"] - f64(z) @ decoder["weight"].T
    var = np.exp(decoder["log_var"])
    np.testing.assert_allclose(likelihood, -0.5 * np.sum(residual**2 / var + np.log(2 * np.pi * var), -1), rtol=1e-5)


def test_the_closed_forms_agree_with_each_other():
    """The oracle itself: finite differences of the closed ELBO, Bayes' rule, and that no bound passes log p(x)."""
    truth = _leaves(linear_gaussian.elbo_gradients(PARAMS, X))
    flat, tree = jax.tree.flatten(jax.tree.map(f64, PARAMS))
    elbo = lambda leaves: linear_gaussian.elbo(jax.tree.unflatten(tree, leaves), X)
    for i, name in enumerate(truth):
        for index in np.ndindex(flat[i].shape):
            shift = np.zeros_like(flat[i])
            shift[index] = 1e-5
            above, below = ([*flat[:i], flat[i] + s * shift, *flat[i + 1 :]] for s in (1, -1))
            np.testing.assert_allclose(truth[name][(..., *index)], (elbo(above) - elbo(below)) / 2e-5, rtol=1e-6)
    exact = linear_gaussian.with_exact_posterior(PARAMS)
    log_marginal = linear_gaussian.log_marginal(PARAMS, X)
    np.testing.assert_allclose(linear_gaussian.elbo(exact, X), log_marginal, rtol=1e-6)
    assert np.all(linear_gaussian.elbo(PARAMS, X) < log_marginal - 0.1)
    mean, covariance = linear_gaussian.posterior(PARAMS, X)
    q = exact["params"]["encoder"]
    np.testing.assert_allclose(f64(X).reshape(len(X), -1) @ f64(q["weight"]).T + f64(q["offset"]), mean, rtol=1e-5)
    np.testing.assert_allclose(np.exp(2 * f64(q["log_scale"])), np.diag(covariance), rtol=1e-6)


@pytest.mark.parametrize("kl_warmup", [10, 10.0, np.float32(10), jnp.float32(10)])
def test_a_warm_up_needs_the_epoch(kl_warmup):
    with pytest.raises(ValueError, match="kl_warmup needs epoch, the epoch of the present step"):
        objectives.elbo_analytic(kl_warmup=kl_warmup)
    key, estimator = jax.random.key(3), _reparam(1)
    warmed, half = objectives.elbo_analytic(kl_warmup=kl_warmup, epoch=jnp.float32(5)), objectives.elbo_analytic(0.5)
    both = jax.jit(lambda params: [_bound(objective, estimator, params, key) for objective in (warmed, half)])
    np.testing.assert_allclose(*both(PARAMS), rtol=1e-6)
    for zero in (0, np.float32(0), np.int32(0)):
        objectives.elbo_analytic(kl_warmup=zero)
        objectives.weighted_elbo(kl_warmup=zero)
    with pytest.raises(ValueError, match="kl_warmup needs epoch, the epoch of the present step"):
        objectives.weighted_elbo(kl_warmup=kl_warmup)


def test_a_traced_warm_up_of_zero_epochs_is_none():
    """So a sweep may have warm-ups of 0 and of 10 epochs."""
    weights = jax.jit(jax.vmap(lambda kl_warmup, epoch: objectives._kl_weight(kl_warmup, epoch, 0.7), (0, None)))
    np.testing.assert_allclose(weights(jnp.float32([0, 10]), 0.0), [0.7, 0])
    np.testing.assert_allclose(weights(jnp.float32([0, 0.5, 10]), 0.25), [0.7, 0.7 / 2, 0.7 / 40], rtol=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_integrand_is_log_p_of_x_and_z_and_shows_the_prior(weight):
    objective = objectives.from_log_weights(mean, kl_weight=weight)

    @jax.jit
    def program(params):
        [recorded] = expectations.record(lambda expect: objective(MODEL.apply, params, X, expect))
        assert recorded.f.prior_weight == recorded.log_q_weight == weight
        z = recorded.q.sample(jax.random.key(0), 3)
        log_prior = MODEL.apply(params, method="prior_distribution").log_prob(z)
        log_likelihood = MODEL.apply(params, X, z, method="log_likelihood")
        return recorded.f(z), recorded.f.prior.log_prob(z), log_prior, log_likelihood

    integrand, shown, log_prior, log_likelihood = program(PARAMS)
    np.testing.assert_array_equal(shown, log_prior)
    np.testing.assert_allclose(integrand, log_likelihood + weight * log_prior, rtol=1e-5)


def test_the_weight_of_a_warm_up_is_recorded_as_one():
    """The recorded expectation is read after the trace in which the weight was computed."""
    bound = lambda epoch: objectives.weighted_elbo(kl_warmup=10, epoch=epoch)

    def shapes(epoch):
        recorded.extend(expectations.record(lambda expect: bound(epoch)(MODEL.apply, PARAMS, X, expect)))

    recorded = []
    jax.eval_shape(shapes, 3.0)
    assert [expectation.log_q_weight for expectation in recorded] == [1.0]


@pytest.mark.parametrize("option", ["beta", "free_bits", "kl_warmup"])
def test_a_weight_below_zero_is_refused_where_it_is_a_number(option):
    for number in (-1, -0.5, np.float32(-2)):
        with pytest.raises(ValueError, match=f"{option}=-.* is below 0"):
            objectives.elbo_analytic(**{option: number}, epoch=1.0)
    objectives.elbo_analytic(**{option: jnp.float32(-1)}, epoch=1.0)
    with pytest.raises(ValueError, match="beta=-1 is below 0"):
        objectives.weighted_elbo(beta=-1)
