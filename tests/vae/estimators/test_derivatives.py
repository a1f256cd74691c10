"""Derivatives of an estimate: the second, through `lax.map`, and under settings of jax that people use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import ENTRIES
from tests.helpers.oracle import REDUCE, make_estimator
from tests.helpers.pairs import family_of
from vae import distributions
from vae.distributions import Bernoulli, Categorical, Normal, Poisson, Quantized
from vae.estimators import BY_NAME

TWICE_DIFFERENTIABLE = [name for name, entry in BY_NAME.items() if entry.twice_differentiable]


def _posterior(name, scale=1.0):
    match family_of(BY_NAME[name]):
        case "normal":
            return Normal(scale * jnp.array([[0.3, -1.0]]), jnp.array([[-0.2, 0.4]]))
        case "bernoulli":
            return Bernoulli(scale * jnp.array([[0.4, -1.3]]))
        case "poisson":
            return Poisson(scale * jnp.array([[0.4, -1.3]]))
        case "categorical":
            return Categorical(scale * jnp.array([[[0.4, -1.3, 0.2], [1.0, 0.1, -0.5]]]))
        case "vq":
            return Quantized(scale * jnp.array([[[0.4, -1.3]]]), jnp.array([[0.3, -1.0], [1.0, 0.5]]))


def _f(z, theta=1.0):
    return jnp.sum(jnp.sin(theta * z), axis=tuple(range(2, z.ndim)))


def _estimate(name, q, key, f=_f):
    bound = BY_NAME[name].reductions[0]
    estimator, _ = make_estimator(name, bound)
    context = jnp.ones((1, 3))
    params, state = estimator.init(key, q, context)
    return estimator.estimate(params, state, key, q, f, REDUCE[bound], 1.0, context)


def _value(name, scale, key, theta=1.0):
    return _estimate(name, _posterior(name, scale), key, lambda z: _f(z, theta)).value[0]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_second_derivative_is_refused_unless_it_is_right(name):
    second = jax.grad(jax.grad(lambda scale: _value(name, scale, jax.random.key(1))))
    if name in TWICE_DIFFERENTIABLE:
        assert jax.eval_shape(second, 1.0).shape == ()
    else:
        with pytest.raises(NotImplementedError, match="only the first derivative .*; for second derivatives use"):
            jax.eval_shape(second, 1.0)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_derivative_in_f_of_the_gradient_in_q_is_refused_unless_it_is_right(name):
    """Bilevel problems and influence functions need it."""

    def mixed(theta):
        return jax.grad(lambda scale: _value(name, scale, jax.random.key(1), theta))(1.0)

    if name in TWICE_DIFFERENTIABLE:
        assert jax.eval_shape(jax.jacfwd(mixed), 1.0).shape == ()
    else:
        with pytest.raises(NotImplementedError, match="only the first derivative "):
            jax.eval_shape(jax.jacfwd(mixed), 1.0)


IMPLICIT = {
    "Gamma": lambda x: distributions.Gamma(jnp.full((1, 2), x), jnp.zeros((1, 2))),
    "Beta": lambda x: distributions.Beta(jnp.full((1, 2), x), jnp.zeros((1, 2))),
    "Dirichlet": lambda x: distributions.Dirichlet(jnp.array([[x, 0.3, 1.0]])),
    "StudentT": lambda x: distributions.StudentT(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.full((1, 2), x)),
    "PowerSpherical": lambda x: distributions.PowerSpherical(jnp.array([[0.6, 0.8]]), jnp.array([[x]])),
    "VonMisesFisher": lambda x: distributions.VonMisesFisher(jnp.array([[0.6, 0.8]]), jnp.array([[x]])),
    "MixtureOfNormals": lambda x: distributions.MixtureOfNormals(
        jnp.array([[[0.0], [x]]]), jnp.zeros((1, 2, 1)), jnp.zeros((1, 2))
    ),
}


@pytest.mark.parametrize("family", IMPLICIT)
def test_a_second_derivative_of_samples_with_an_implicit_gradient_is_refused(family):
    value = lambda x: jnp.sum(IMPLICIT[family](x).rsample(jax.random.key(0), 3) ** 2)
    assert jax.eval_shape(jax.grad(value), 0.7).shape == ()
    for second in (jax.hessian(value), jax.grad(jax.grad(value)), jax.jacfwd(jax.jacfwd(value))):
        with pytest.raises(
            NotImplementedError, match="no family whose samples have an implicit gradient, such as Gamma"
        ):
            jax.eval_shape(second, 0.7)


def test_second_derivatives_of_pathwise_estimators_are_unbiased():
    """The second derivative in a scale of the mean of q, with log q(z) in the integrand, agrees with the exact one."""

    def second(name, key):
        return jax.grad(jax.grad(lambda scale: _value(name, scale, key)))(1.0)

    @jax.jit
    def draws(keys):
        names = [name for name in TWICE_DIFFERENTIABLE if name.startswith("reparam")]
        return {name: jax.vmap(lambda key: second(name, key))(keys) for name in names}  # noqa: B023

    exact = jax.jit(jax.grad(jax.grad(_exact_value)))(1.0)
    for seconds in draws(jax.random.split(jax.random.key(2), 2**16)).values():
        stderr = np.std(seconds) / np.sqrt(len(seconds))
        assert stderr < 0.02 * abs(exact)
        assert abs(np.mean(seconds) - exact) < 4.5 * stderr


def _exact_value(scale):
    return BY_NAME["exact"].make().estimate({}, {}, None, _posterior("reparam", scale), _f, log_q_weight=1.0).value[0]


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "auto"])  # which refuses a batch of one datum
def test_estimates_in_chunks_of_lax_map_have_gradients(name):
    """The 12 draws do not fill chunks of 5, so `lax.map` runs a loop over chunks and a rest."""
    total = lambda scale, keys: jnp.sum(jax.lax.map(lambda key: _value(name, scale, key), keys, batch_size=5))
    assert jax.eval_shape(jax.grad(total), 1.0, jax.random.split(jax.random.key(0), 12)).shape == ()


def test_gradients_in_chunks_of_lax_map_are_those_of_vmap():
    keys = jax.random.split(jax.random.key(0), 12)

    def both(scale):
        value = lambda key: _value("disarm", scale, key)
        return jnp.sum(jax.lax.map(value, keys, batch_size=5)), jnp.sum(jax.vmap(value)(keys))

    in_chunks, at_once = jax.jit(jax.jacrev(both))(1.0)
    np.testing.assert_allclose(in_chunks, at_once, rtol=1e-5)
    assert in_chunks != 0


def _loss_and_gradient(name, key):
    def loss(q):
        estimate = _estimate(name, q, key)
        return jnp.sum(estimate.value) + estimate.cv_loss, estimate.state

    return jax.value_and_grad(loss, has_aux=True)(_posterior(name))


def test_every_estimator_works_where_jax_refuses_to_promote_ranks():
    """`test_everything_is_in_the_precision_of_q` tests strict promotion of dtypes and float64."""
    with jax.numpy_rank_promotion("raise"):
        for name in ENTRIES:
            (loss, _), gradient = jax.eval_shape(lambda key: _loss_and_gradient(name, key), jax.random.key(0))  # noqa: B023
            assert loss.shape == ()
            assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, _posterior(name))


def test_no_estimator_makes_a_nan_that_jax_debug_nans_reports():
    with jax.debug_nans(True):
        for name in ("measure_valued", "disarm_iw", "rebar", "reparam_rqmc", "rao_blackwell_top_k"):
            result = jax.jit(lambda key: _loss_and_gradient(name, key))(jax.random.key(0))  # noqa: B023
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result)), name
