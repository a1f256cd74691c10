"""The functions of vae/estimators/tools.py: their values, and which derivatives they have and do not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import ENTRIES
from tests.helpers.pairs import family_of
from vae.distributions import Bernoulli, Categorical, Normal, Poisson, Quantized
from vae.estimators import (
    BY_NAME,
    attach,
    held,
    inject,
    integrand,
    isolated_loss,
    log_mean_exp,
    mean,
    scale_cotangent,
)

A = np.float32([0.5, -1.0, 2.0])


def test_attach_has_the_value_of_one_argument_and_the_derivative_of_the_other():
    @jax.jit
    def value_and_slope(x):
        out, pull = jax.vjp(lambda x: attach(jnp.sin(x), x**3), x)
        return out, pull(jnp.ones(3))[0]

    out, slope = value_and_slope(A)
    np.testing.assert_array_equal(out, jax.jit(jnp.sin)(A))
    np.testing.assert_allclose(slope, 3 * A**2, rtol=1e-6)


@pytest.mark.parametrize("surrogate", [jnp.inf, -jnp.inf, jnp.nan])
def test_an_infinite_surrogate_leaves_the_value(surrogate):
    value = lambda x: attach(2 * x, x * surrogate)
    np.testing.assert_array_equal(jax.jit(value)(A), 2 * A)
    np.testing.assert_array_equal(jax.jit(jax.value_and_grad(lambda x: jnp.sum(value(x))))(A)[0], np.sum(2 * A))
    without_attach = jax.jit(lambda x: x + surrogate - jax.lax.stop_gradient(surrogate))
    assert not np.isfinite(without_attach(A)).any()


def test_attach_under_jit_and_vmap():
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: attach(jnp.sin(x), x**3))))
    np.testing.assert_allclose(gradient(A), 3 * A**2, rtol=1e-6)


TREE = (np.float32([[0, 1, 2], [3, 4, 5]]), {"b": np.float32([[1], [2]]), "c": np.float32([5, 7])})
GRADS = (np.float32([[1, -2, 3], [1, -2, 3]]), {"b": np.float32([[4], [-5]]), "c": np.float32([6, 8])})


def test_inject_is_zero_with_the_given_gradients():
    value, grads = jax.jit(jax.value_and_grad(lambda tree: 10 * inject(tree, GRADS)))(TREE)
    assert value == 0
    assert value.shape == ()
    jax.tree.map(lambda got, given: np.testing.assert_allclose(got, 10 * given), grads, GRADS)


def test_inject_keeps_batch_axes_apart():
    by_datum = lambda tree: inject(tree, GRADS, batch_ndim=1)
    assert jax.eval_shape(by_datum, TREE).shape == (2,)
    jacobian = jax.device_get(jax.jit(jax.jacrev(by_datum))(TREE))
    for got, given in zip(jax.tree.leaves(jacobian), jax.tree.leaves(GRADS), strict=True):
        for b in range(2):
            np.testing.assert_array_equal(got[b, b], given[b])
            np.testing.assert_array_equal(got[b, 1 - b], np.zeros_like(given[b]))


def test_inject_with_two_batch_axes():
    x, g = np.ones((2, 3, 4), np.float32), np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    jacobian = np.asarray(jax.jit(jax.jacrev(lambda x: inject(x, g, batch_ndim=2)))(x))  # [2, 3, 2, 3, 4]
    assert jacobian.shape == (2, 3, 2, 3, 4)
    np.testing.assert_array_equal(np.einsum("ijijd->ijd", jacobian), g)
    np.testing.assert_array_equal(np.sum(jacobian, (0, 1)), g)


def test_inject_is_zero_where_tree_or_gradients_are_infinite():
    assert jax.jit(inject)((A, A * np.inf), (A * np.nan, A)) == 0


def test_inject_does_not_differentiate_the_gradients():
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda g: inject(A, g)))(A), np.zeros(3))


def test_scale_cotangent_weighs_each_leaf_over_the_leading_axes():
    z = (np.ones((4, 2, 3), np.float32), np.ones((4, 2, 5, 2), np.float32))  # [K, B, D], [K, B, D, C]
    weight = np.arange(8, dtype=np.float32).reshape(4, 2)

    @jax.jit
    def value_and_pulled_back(z, weight):
        out, pull = jax.vjp(lambda z: scale_cotangent(z, weight), z)
        return out, pull((jnp.full((4, 2, 3), 2.0), jnp.full((4, 2, 5, 2), -3.0)))[0]

    out, (first, second) = value_and_pulled_back(z, weight)
    jax.tree.map(np.testing.assert_array_equal, out, z)
    np.testing.assert_array_equal(first, np.broadcast_to(2 * weight[:, :, None], (4, 2, 3)))
    np.testing.assert_array_equal(second, np.broadcast_to(-3 * weight[:, :, None, None], (4, 2, 5, 2)))


def test_scale_cotangent_weighs_a_chain_of_layers_once():
    """z2 depends on z1. Scaled as one tuple, the path from z2 through z1 carries the weight once, not twice."""
    weight = jnp.array([3.0])

    def value(m):
        z1 = m * jnp.ones((1,))
        z = scale_cotangent((z1, 2 * z1), weight)
        return jnp.sum(5 * z[0] + 7 * z[1])

    assert jax.jit(jax.grad(value))(1.0) == 3 * (5 + 2 * 7)


def test_scale_cotangent_does_not_differentiate_the_weight():
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda w: jnp.sum(scale_cotangent(A, w))))(A), np.zeros(3))


def test_isolated_loss_has_a_derivative_only_in_its_params():
    loss = lambda params, other: isolated_loss(lambda p: jnp.sum(jnp.square(p["w"] * other - p["b"])), params)
    params = {"w": np.float32([2.0, 3.0]), "b": np.float32(0.5)}
    other = np.float32([1.0, -1.0])
    value, (grad_params, grad_other) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, other)
    residual = params["w"] * other - params["b"]
    np.testing.assert_allclose(value, np.sum(np.square(residual)), rtol=1e-6)
    np.testing.assert_allclose(grad_params["w"], 2 * residual * other, rtol=1e-6)
    np.testing.assert_allclose(grad_params["b"], -2 * np.sum(residual), rtol=1e-6)
    np.testing.assert_array_equal(grad_other, np.zeros(2))


def test_isolated_loss_without_params_is_a_constant():
    value, grad = jax.jit(jax.value_and_grad(lambda x: isolated_loss(lambda p: jnp.sum(x**2), {})))(A)
    assert value == np.sum(A**2)
    np.testing.assert_array_equal(grad, np.zeros(3))


def test_reductions_of_small_large_and_infinite_values():
    values = np.float32([[0.0, 1e4], [np.log(3.0), 1e4]])
    np.testing.assert_allclose(jax.jit(mean)(values), [np.log(3.0) / 2, 1e4], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(log_mean_exp)(values), [np.log(2.0), 1e4], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(log_mean_exp)(np.full((3, 1), -np.inf, np.float32)), [-np.inf])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_everything_is_in_the_precision_of_q(dtype):
    """float64 is enabled, and silent promotion from one precision to the other is an error."""
    members = {
        "normal": lambda: Normal(jnp.array([0.3, -1.0], dtype), jnp.array([-0.2, 0.4], dtype)),
        "bernoulli": lambda: Bernoulli(jnp.array([0.4, -1.3], dtype)),
        "categorical": lambda: Categorical(jnp.array([[0.4, -1.3, 0.2], [1.0, 0.1, -0.5]], dtype)),
        "vq": lambda: Quantized(jnp.array([[0.4, -1.3]], dtype), jnp.array([[0.3, -1.0], [1.0, 0.5]], dtype)),
        "poisson": lambda: Poisson(jnp.array([0.4, -1.3], dtype)),
    }
    f = lambda z: jnp.sum(jnp.sin(z), axis=tuple(range(1, z.ndim)))
    for name, entry in ENTRIES.items():
        estimator = entry.make(num_samples=max(2, entry.min_samples))
        reduce = mean if "mean" in entry.reductions else log_mean_exp

        def outputs(q, context, estimator=estimator, reduce=reduce):
            params, state = estimator.init(jax.random.key(0), q, context)

            def value_and_rest(q):
                estimate = estimator.estimate(params, state, jax.random.key(1), q, f, reduce, 1.0, context)
                return estimate.value, estimate

            grad, estimate = jax.grad(value_and_rest, has_aux=True)(q)
            return (grad, estimate, params), (state, estimate.state)

        with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
            results, states = jax.eval_shape(outputs, members[family_of(entry)](), jnp.ones(3, dtype))
        numbers = [leaf for leaf in jax.tree.leaves(results) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert {leaf.dtype for leaf in numbers} == {jnp.dtype(dtype)}, name
        assert len(set(map(str, states))) == 1, name


def test_held_freezes_the_density_only_for_the_mean():
    q = Normal(np.float32([0.3]), np.float32([-0.2]))
    z = jnp.ones((1, 1))
    density = lambda q, reduce: integrand(lambda z: jnp.zeros(len(z)), held(q, reduce), 1.0)(z)[0]
    slope = jax.jit(jax.grad(density), static_argnums=1)
    assert not np.any(jax.tree.leaves(slope(q, mean)))
    assert np.all(jax.tree.leaves(slope(q, log_mean_exp)))


def test_a_held_density_keeps_its_derivative_in_z():
    q = Bernoulli(np.float32([0.4, -1.3]))
    z = np.ones((1, 2), np.float32)
    pull = jax.jit(jax.grad(lambda z: integrand(lambda z: jnp.sum(z, axis=-1), held(q, mean), 0.5)(z)[0]))
    np.testing.assert_allclose(pull(z), 1 - 0.5 * q.logits[None], rtol=1e-6)


# These estimators have noise even where q is the posterior. The score function multiplies scores by f, or by f minus a
# baseline, and not by a difference of values of f. `reparam` and its variants keep the derivative of log q by
# definition (without it they would be `stl`). Gumbel-softmax keeps it because log q at a relaxed sample is no density.
_NOISY_AT_THE_POSTERIOR = {"reparam", "reparam_antithetic", "reparam_rqmc", "reinforce", "reinforce_ema", "nvil"}
_NOISY_AT_THE_POSTERIOR |= {"gumbel_softmax", "eat"}


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if "mean" in entry.reductions])
def test_estimators_that_use_differences_of_f_have_no_noise_at_the_posterior(name):
    """There, log p(x, z) - log q(z|x) is the constant log p(x), so its differences and derivatives are zero."""
    entry = BY_NAME[name]
    q = {
        "normal": Normal(jnp.array([[0.3, -1.0]]), jnp.array([[-0.2, 0.4]])),
        "bernoulli": Bernoulli(jnp.array([[0.4, -1.3]])),
        "categorical": Categorical(jnp.array([[[0.4, -1.3, 0.2], [1.0, 0.1, -0.5]]])),
        "vq": Quantized(jnp.array([[[0.4, -1.3]]]), jnp.array([[0.3, -1.0], [1.0, 0.5]])),
        "poisson": Poisson(jnp.array([[0.4, -1.3]])),
    }[family_of(entry)]
    estimator = entry.make(num_samples=max(2, entry.min_samples))
    f = lambda z: q.log_prob(z) - 3.0

    @jax.jit
    @jax.vmap
    def gradient(key):
        params, state = estimator.init(jax.random.key(0), q)
        return jax.grad(lambda moved: estimator.estimate(params, state, key, moved, f, mean, 1.0).value[0])(q)

    noise = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient(jax.random.split(jax.random.key(1), 8))))
    assert (noise > 0.1) if name in _NOISY_AT_THE_POSTERIOR else (noise < 1e-5)
