"""Evaluation against the linear-Gaussian VAE, and its independence of how it is cut into chunks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.helpers import linear_gaussian
from vae import distributions as dist
from vae import estimators, evaluate, models, objectives, pareto
from vae.devices import mesh
from vae.hierarchy import Markov

MODEL, PARAMS, _ = linear_gaussian.example()
EXACT = linear_gaussian.with_exact_posterior(PARAMS)
X = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4, 1, 1)), jnp.float32)
MLP = models.make_vae((4, 4, 1), latent_dim=3, hidden=(8,))
IMAGES = np.float32(np.random.default_rng(0).uniform(size=(7, 4, 4, 1)))
MLP_PARAMS = jax.jit(MLP.init)(jax.random.key(1), IMAGES, jax.random.key(2))


@functools.partial(jax.jit, static_argnames=("function", "apply", "num_samples", "batch_size", "chunk_size"))
def _run(function, apply, params, x, key, **options):
    return function(apply, params, x, key, **options)


def _values(function, x=IMAGES, key=3, batch_size=100, chunk_size=50, **options):
    sizes = {"num_samples": 23, "batch_size": batch_size, "chunk_size": chunk_size}
    return jax.device_get(_run(function, MLP.apply, MLP_PARAMS, x, jax.random.key(key), **sizes, **options))


@pytest.mark.parametrize("function", [evaluate.importance_weights, evaluate.rate_distortion])
def test_chunks_do_not_show_in_the_result(function):
    whole = _values(function)
    cut = _values(function, batch_size=3, chunk_size=5)  # neither divides 7 images nor 23 samples
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), cut, whole)
    # A datum's number does not depend on the data beside it.
    beside = _values(function, np.concatenate([IMAGES[:4], 0 * IMAGES[4:]]), batch_size=3, chunk_size=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:4], b[:4], rtol=1e-5, atol=1e-4), beside, whole)
    # Control: other samples do show.
    other = _values(function, key=4)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (other, whole)), strict=True))


def test_devices_that_know_the_index_of_their_data_give_the_numbers_of_one_device():
    x, devices = np.concatenate([IMAGES, IMAGES[:1]]), mesh.make(1, 8, jax.devices()[:2])
    whole = lambda x, first: evaluate.log_likelihood(MLP.apply, MLP_PARAMS, x, jax.random.key(0), 5, first=first)
    part = lambda x: whole(x, jax.lax.axis_index("data") * len(x))
    parts = jax.shard_map(part, mesh=devices, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    np.testing.assert_allclose(jax.jit(parts)(x), jax.jit(whole)(x, 0), rtol=1e-5)


@pytest.mark.parametrize("function", [evaluate.importance_weights, evaluate.rate_distortion])
def test_no_images_have_no_values(function):
    assert all(leaf.shape == (0,) for leaf in jax.tree.leaves(_values(function, IMAGES[:0])))


def test_the_data_may_come_in_parts():
    whole = _values(evaluate.log_likelihood)
    for first in (0, 3):
        part = _values(evaluate.log_likelihood, IMAGES[first : first + 3], first=first)
        np.testing.assert_allclose(part, whole[first : first + 3], rtol=1e-5)
    assert np.all(_values(evaluate.log_likelihood, IMAGES[3:6], first=0) != whole[3:6])  # the control


@pytest.mark.parametrize("function", [evaluate.importance_weights, evaluate.rate_distortion])
@pytest.mark.parametrize("method", ["log_likelihood", "prior_distribution"])
def test_a_term_that_is_a_mean_over_the_batch_is_refused(function, method):
    class Scalar:
        log_prob = staticmethod(lambda z: jnp.zeros(()))

    def apply(params, *args, method):
        if method != own:
            return MLP.apply(params, *args, method=method)
        return Scalar if method == "prior_distribution" else jnp.mean(MLP.apply(params, *args, method=method))

    own, key = method, jax.random.key(3)
    expect = estimators.bind(estimators.make("reparam", num_samples=2), {}, {}, key)
    evaluated = lambda params: function(apply, params, IMAGES, key, num_samples=2)
    trained = lambda params: objectives.elbo(apply, params, IMAGES, expect)
    for compute in (evaluated, trained):
        with pytest.raises(ValueError, match=r"must have one shape, .*, got log p\(x\|z\) \["):
            jax.eval_shape(compute, MLP_PARAMS)


@pytest.mark.parametrize("log_weight", [-3.0, -2e5, 2e5, -np.inf])
def test_equal_weights_of_any_size_are_all_effective(log_weight):
    """Without a density, the bound is -inf and no weight counts."""
    answers = {
        "encode": lambda x: dist.Normal(jnp.zeros((len(x), 2)), jnp.zeros(2)),
        "prior_distribution": lambda: dist.Normal(jnp.zeros(2), jnp.zeros(2)),
        "log_likelihood": lambda x, z: jnp.full(z.shape[:-1], log_weight),
    }
    apply = lambda params, *args, method: answers[method](*args)
    compute = jax.jit(lambda x: evaluate.importance_weights(apply, {}, x, jax.random.key(0), 1000, chunk_size=50))
    values = compute(IMAGES[:2])
    np.testing.assert_array_equal(values["log_likelihood"], np.float32(log_weight))
    np.testing.assert_array_equal(values["ess_share"], 1.0 if np.isfinite(log_weight) else np.nan)


def test_data_have_noise_of_their_own():
    """The same image seven times: seven different estimates."""
    same = np.repeat(IMAGES[:1], 7, axis=0)
    values = np.asarray(_run(evaluate.log_likelihood, MLP.apply, MLP_PARAMS, same, jax.random.key(5), num_samples=1))
    assert len(np.unique(values)) == 7


@pytest.mark.parametrize("num_samples", [1, 23])
def test_the_exact_posterior_gives_the_exact_log_likelihood(num_samples):
    value = _run(
        evaluate.log_likelihood, MODEL.apply, EXACT, X, jax.random.key(6), num_samples=num_samples, chunk_size=10
    )
    np.testing.assert_allclose(value, linear_gaussian.log_marginal(EXACT, X), rtol=1e-5, atol=1e-4)


def test_the_figures_of_the_weights_are_those_of_all_weights_at_once():
    """K = 40 weights of each datum in NumPy, where the evaluation has chunks of 7."""
    K, key = 40, jax.random.key(12)
    values = _run(evaluate.importance_weights, MODEL.apply, PARAMS, X, key, num_samples=K, batch_size=3, chunk_size=7)

    def log_weight(n, k):
        q = MODEL.apply(PARAMS, X[n][None], method="encode")
        z = q.sample(jax.random.fold_in(jax.random.fold_in(key, n), k), 1)
        return sum(evaluate.posterior_terms(MODEL.apply, PARAMS, X[n][None], q, z))[0, 0]

    each = jax.jit(jax.vmap(jax.vmap(log_weight, (None, 0)), (0, None)))
    log_weights = np.asarray(each(jnp.arange(len(X)), jnp.arange(K)), np.float64)  # [N, K]
    weights = np.exp(log_weights)
    np.testing.assert_allclose(values["log_likelihood"], np.log(weights.mean(axis=1)), rtol=1e-5)
    np.testing.assert_allclose(values["ess_share"], weights.sum(1) ** 2 / (weights**2).sum(1) / K, rtol=1e-4)
    largest = np.sort(log_weights, axis=1)[:, ::-1][:, :9]  # the 8 largest, and the threshold
    ks = jax.jit(jax.vmap(pareto.pareto_k))(jnp.asarray(largest, jnp.float32))
    np.testing.assert_allclose(values["pareto_k"], ks, atol=1e-4)
    # Control: other weights have another ESS, and a posterior that is exact has equal weights.
    assert np.ptp(values["ess_share"]) > 0.05
    equal = _run(evaluate.importance_weights, MODEL.apply, EXACT, X, key, num_samples=K, batch_size=3, chunk_size=7)
    np.testing.assert_allclose(equal["ess_share"], 1, atol=1e-4)


def test_a_wrong_posterior_converges_from_below():
    truth = linear_gaussian.log_marginal(PARAMS, X)
    run = functools.partial(_run, evaluate.log_likelihood, MODEL.apply, PARAMS)
    keys = jax.random.split(jax.random.key(7), 200)
    gaps = []
    for k in (1, 30):
        values = np.asarray(jax.vmap(lambda key, k=k: run(X, key, num_samples=k))(keys), np.float64)  # [200, N]
        error = values.mean(axis=1).std(ddof=1) / np.sqrt(len(keys))
        gaps.append((truth.mean() - values.mean(), error))
    for (gap, error), (closer, its_error) in zip(gaps, gaps[1:], strict=False):
        assert gap - closer > 4.5 * np.hypot(error, its_error)
    assert gaps[-1][0] > -4.5 * gaps[-1][1]
    np.testing.assert_allclose(gaps[0][0], np.mean(truth - linear_gaussian.elbo(PARAMS, X)), atol=4.5 * gaps[0][1])
    value = run(X, jax.random.key(8), num_samples=50_000, chunk_size=5000)
    np.testing.assert_allclose(value, truth, atol=0.03)


def test_rate_and_distortion_have_their_closed_forms():
    keys = jax.random.split(jax.random.key(10), 1000)
    draws = jax.jit(jax.vmap(lambda key: evaluate.rate_distortion(MODEL.apply, PARAMS, X, key, num_samples=50)))(keys)
    np.testing.assert_allclose(draws["elbo"], -(draws["rate"] + draws["distortion"]), rtol=1e-6)
    truths = {
        "rate": linear_gaussian.rate(PARAMS, X).sum(-1),
        "distortion": linear_gaussian.distortion(PARAMS, X),
        "elbo": linear_gaussian.elbo(PARAMS, X),
    }
    for name, truth in truths.items():
        values = np.asarray(draws[name], np.float64)  # [draws, N]
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        assert np.all(np.abs(values.mean(axis=0) - truth) < 4.5 * error), name
        assert np.linalg.norm(error) < 0.01 * np.linalg.norm(truth), name
    # Control: rate and distortion are not each other.
    assert np.abs(truths["rate"] - truths["distortion"]).min() > 0.1


def test_samples_of_discrete_latents_are_hard():
    """One fair-coin latent and a decoder that is only defined at 0 and 1: log p(x) is a sum of two terms."""

    class Encoder(nn.Module):
        def __call__(self, x):
            return dist.Bernoulli(0.0 * x.reshape(len(x), -1)[:, :1] + 0.8)

    class Decoder(nn.Module):
        def __call__(self, z):
            soft = (z != 0) & (z != 1)
            return dist.Normal(jnp.where(soft, jnp.nan, 2 * z - 1), jnp.zeros_like(z))

    model = models.VAE(Encoder(), Decoder(), models.Prior(1, models.POSTERIORS["bernoulli"]()))
    x = jnp.array([[-1.0], [0.3]])
    value = _run(evaluate.log_likelihood, model.apply, {}, x, jax.random.key(11), num_samples=20_000, chunk_size=5000)
    normal = lambda centre: np.exp(-0.5 * (np.asarray(x)[:, 0] - centre) ** 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(value, np.log(0.5 * normal(-1) + 0.5 * normal(1)), atol=0.02)


def test_active_units_counts_the_means_that_vary():
    """Means with variances 4, 0.02, 0.005 and 0 over the data; log-variances that vary do not count."""
    signs = np.tile([1.0, -1.0], 50)
    means = signs[:, None] * np.sqrt([4.0, 0.02, 0.005, 0.0]) + 3.0

    def apply(params, x, method):
        assert method == "encode"
        return dist.Normal(x, 5 * x)

    x, key = np.float32(means), jax.random.key(0)
    active_units = jax.jit(evaluate.active_units, static_argnames=("apply", "threshold"))
    for options, active in [({"threshold": 0.001}, 3), ({}, 2), ({"threshold": 0.03}, 1)]:
        assert tuple(map(int, active_units(apply, {}, x, key, **options))) == (active,)
    # As logits of three classes: of a dimension several vary, and it counts once.
    classes = lambda params, x, method: dist.Categorical(jnp.stack([x - 3, 3 - x, 0 * x], axis=-1))
    assert tuple(map(int, active_units(classes, {}, x, key, 1e-4))) == (3,)
    # In a model: two latents read the image, one does not.
    weight = np.zeros((3, 16), np.float32)
    weight[0], weight[1, :8] = 1, 1
    params = {"params": {"encoder": {"weight": weight, "offset": np.float32([0, 1, 2]), "log_scale": np.zeros(3)}}}
    (active,) = active_units(linear_gaussian.make(16, 3).apply, params, IMAGES, key)
    assert int(active) == 2


def test_a_code_is_used_if_it_is_expected_at_least_once():
    """Three data choose from four codes, which are expected 1.5, 1, 0.5 and 0 times."""
    probabilities = np.float32([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 1, 0, 0]])
    apply = lambda params, x, method: dist.Categorical(jnp.log(x)[:, None])
    usage = jax.jit(lambda x: evaluate.code_usage(apply, {}, x))(probabilities)
    assert int(usage["codes_used"]) == 2
    shares = np.array([1 / 2, 1 / 3, 1 / 6])
    np.testing.assert_allclose(usage["code_perplexity"], np.exp(-np.sum(shares * np.log(shares))), rtol=1e-5)


@dist.family
class WithoutMean:
    """A Normal that does not know its mean, as a flow does not."""

    normal: dist.Normal

    @property
    def batch_shape(self):
        return self.normal.batch_shape

    def sample(self, key, num_samples):
        return self.normal.sample(key, num_samples)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_means_of_a_family_without_a_mean_are_averages_of_draws(layers):
    x = np.float32(np.tile([1.0, -1.0], 50)[:, None] * np.sqrt([4.0, 0.5, 0.0]))

    def apply(params, x, method):
        q = WithoutMean(dist.Normal(x, jnp.zeros_like(x)))
        further = (lambda w, z: WithoutMean(dist.Normal(w * z, jnp.zeros_like(z))),) * (layers - 1)
        return q if layers == 1 else Markov(q, (jnp.ones(3),), further)

    counts = jax.jit(lambda x: evaluate.active_units(apply, {}, x, jax.random.key(0), threshold=0.1))(x)
    assert tuple(map(int, counts)) == (2,) * layers
    means = jax.jit(lambda x: evaluate.latent_means(apply({}, x, "encode"), jax.random.key(1), 2500))(x)
    np.testing.assert_allclose(np.stack(means), np.stack(layers * [x]), atol=0.15)  # five standard errors


def test_the_errors_of_averages_of_draws_do_not_make_units_active():
    """All means are 0. The errors vary over the data with the scale, which is 1 or 9; those of two averages have a
    covariance below 0 for half of the units."""
    x = np.float32(np.tile([1.0, 9.0], 50)[:, None] * np.ones(400))
    apply = lambda params, x, method: WithoutMean(dist.Normal(jnp.zeros_like(x), 2 * jnp.log(x)))
    (count,) = jax.jit(lambda x: evaluate.active_units(apply, {}, x, jax.random.key(0)))(x)
    assert count < 240  # four standard deviations above a half


def test_a_layer_that_passes_on_noise_is_not_active():
    """The second layer's mean is the first's sample, whose distribution does not depend on x."""
    x = jnp.zeros((400, 1))

    def apply(params, x, method):
        first = dist.Normal(jnp.zeros((len(x), 5)), jnp.zeros((len(x), 5)))
        return Markov(first, (jnp.ones(5),), (lambda w, z: dist.Normal(w * z, jnp.zeros_like(z)),))

    counts = jax.jit(lambda x: evaluate.active_units(apply, {}, x, jax.random.key(0)))(x)
    assert tuple(map(int, counts)) == (0, 0)


@pytest.mark.parametrize("family", [name for name, make in sorted(models.POSTERIORS.items()) if not make().codebook()])
def test_active_units_of_every_posterior(family):
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(8,), posterior=family)
    shapes = jax.eval_shape(lambda key: model.init(key, IMAGES, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    count = jax.jit(lambda params: evaluate.active_units(model.apply, params, IMAGES, jax.random.key(0), 1e-3)[0])
    assert int(count(params)) == 0
    # The first parameter of the first latent reads the first pixel, and nothing else reads anything.
    encoder = params["params"]["encoder"]
    encoder["network"]["hidden_0"]["kernel"][0, 0] = 1
    encoder["parameters"]["kernel"][0, 0] = 4
    # The parts of dirichlet sum to one, and only the direction of a location matters.
    assert int(count(params)) == {"dirichlet": 3, "power_spherical": 0, "von_mises_fisher": 0}.get(family, 1)


@pytest.mark.parametrize("function", [evaluate.importance_weights, evaluate.rate_distortion, evaluate.active_units])
def test_images_without_channels_and_empty_batches_are_refused(function):
    sizes = {} if function is evaluate.active_units else {"num_samples": 2}
    call = lambda x, **options: function(MLP.apply, MLP_PARAMS, x, jax.random.key(0), **sizes | options)
    with pytest.raises(ValueError, match=r"inputs need a batch axis and 3 more, got shape \[\d, 4, 4\]"):
        call(IMAGES[..., 0])
    for name in ["batch_size", *(["num_samples", "chunk_size"] if sizes else [])]:
        for size in (0, -3):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got {size}"):
                call(IMAGES, **{name: size})


@pytest.mark.parametrize(
    "function",
    [
        evaluate.log_likelihood,
        evaluate.importance_weights,
        evaluate.rate_distortion,
        evaluate.active_units,
        evaluate.code_usage,
    ],
)
def test_floats_that_the_likelihood_cannot_have_are_refused(function):
    options = {} if function is evaluate.code_usage else {"key": jax.random.key(0)}
    options |= {"num_samples": 1} if function in (evaluate.log_likelihood, evaluate.importance_weights) else {}
    with pytest.raises(ValueError, match=r"values from 0\.\d+ to 2\d+\.\d+; floats must be 0 to 1"):
        function(MLP.apply, MLP_PARAMS, x=255 * IMAGES, **options)


@pytest.mark.parametrize(
    ("likelihood", "x", "refused"),
    [
        ("bernoulli", 1.5 * IMAGES, True),
        ("categorical", -IMAGES, True),
        ("discretized_logistic", np.nan * IMAGES, True),
        ("poisson", -IMAGES, True),
        ("poisson", np.round(255 * IMAGES), False),
        ("poisson", np.zeros_like(IMAGES), False),
        ("bernoulli", np.round(IMAGES), False),
        ("gaussian", 3 * IMAGES - 1, False),  # its density has all real numbers, such as data that it simulates
    ],
)
def test_what_a_likelihood_cannot_have_depends_on_it(likelihood, x, refused):
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(8,), likelihood=likelihood, levels=4)
    if refused:
        with pytest.raises(ValueError, match=r"^images have values from .*; (floats must be 0 to 1|counts must be)"):
            evaluate.check_images(model.apply, x)
    else:
        evaluate.check_images(model.apply, x)


@pytest.mark.parametrize("number", [0, 1, 3, 6, 7, 8])
def test_all_batches_are_one_program_whatever_the_number_of_data(number):
    traces = []

    def double(x):
        traces.append(x)
        return 2 * x

    data = np.arange(number, dtype=np.float32)
    np.testing.assert_array_equal(evaluate.in_batches(double, data, batch_size=3), 2 * data)
    assert len(traces) == 1
