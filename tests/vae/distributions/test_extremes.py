"""Bits, grey levels, Gaussians and small concentrations at the ends of float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit

from tests.helpers.families import (
    LEVELS,
    MEMBERS,
    ask,
    float64,
)
from vae import distributions as dist


def _bernoulli(x, l):
    return dist.Bernoulli(l[None]).log_prob(x[None])


def _naive(x, l):
    p = jax.nn.sigmoid(l)
    return x * jnp.log(p) + (1 - x) * jnp.log(1 - p)


@functools.partial(jax.jit, static_argnums=0)
def _derivatives(log_prob, x, l):
    """The value, both first and all four second derivatives, a row each."""
    every = lambda x, l: [transform(log_prob, (0, 1))(x, l) for transform in (jax.grad, jax.hessian)]
    return jnp.stack(jax.tree.leaves((log_prob(x, l), every(x, l))))


_grid = lambda x, l: [axis.ravel() for axis in np.meshgrid(np.float32(x), np.float32(l))]


def test_bernoulli_is_finite_for_large_logits():
    x, l = _grid([0, 0.3, 1], [-1e4, -300, 300, 1e4])
    got = np.asarray(jax.vmap(lambda x, l: _derivatives(_bernoulli, x, l))(x, l)).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    expected = [x * l - np.maximum(l, 0), l, x - (l > 0), zero, one, one, zero]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Control: the naive formula is not finite here.
    naive = np.asarray(jax.vmap(lambda x, l: _derivatives(_naive, x, l))(x, l))
    assert not np.isfinite(naive[:, 0]).all()


def test_bernoulli_derivatives_are_those_of_the_naive_formula():
    x, l = _grid([0, 0.25, 1], [-3, -0.5, 0, 0.7, 3])
    got, expected = (jax.vmap(lambda x, l, f=f: _derivatives(f, x, l))(x, l) for f in (_bernoulli, _naive))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    # Forward mode, with a tangent in one argument alone.
    _, tangent = jax.jvp(lambda l: _bernoulli(x[3], l), (l[3],), (np.float32(2.0),))
    np.testing.assert_allclose(tangent, 2 * (x[3] - expit(float64(l[3]))), rtol=1e-6)


def test_bernoulli_threshold_and_hard_samples():
    q = dist.Bernoulli(jnp.array([-1e4, -1.0, 0.0, 2.0, 1e4]))
    u = jax.random.uniform(jax.random.key(11), (1000, 5))
    np.testing.assert_array_equal(q.threshold(u), (float64(u) < float64(q.mean)).astype(np.float32))
    # Strict, so that a coin that never falls on 1 does not, and one that always does does.
    np.testing.assert_array_equal(q.threshold(jnp.zeros((1, 5)))[0], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(q.threshold(jnp.full((1, 5), np.nextafter(np.float32(1), 0)))[0], [0, 0, 0, 0, 1])
    assert set(np.unique(q.sample(jax.random.key(12), 100))) == {0.0, 1.0}
    np.testing.assert_allclose(q.mean, expit(float64(q.logits)), rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_sums_to_one(levels):
    mean = jnp.array([-0.5, 0.0, 0.11, 0.5, 0.98, 1.0, 1.7])
    log_scale = jnp.array([-7.0, -4.0, -1.0, 0.0, -3.0, -6.0, 3.0])
    grid = (jnp.arange(levels, dtype=jnp.float32) / (levels - 1))[:, None, None]
    q = dist.DiscretizedLogistic(mean[:, None], log_scale[:, None], levels)
    log_prob = float64(q.log_prob(jnp.broadcast_to(grid, (levels, 7, 1))))
    np.testing.assert_allclose(np.exp(log_prob).sum(axis=0), 1, rtol=2e-5)
    # The static field is no leaf, and survives what is done to the leaves.
    assert len(jax.tree.leaves(q)) == 2
    assert jax.tree.map(lambda leaf: 2 * leaf, q).levels == levels


def test_discretized_logistic_is_finite_in_the_far_tails():
    x = np.float32([0, 1 / 255, 0.5, 254 / 255, 1])[:, None]
    mean, log_scale = _grid([-30, 0.5, 30], [-12, -3, 12])
    log_prob = jax.vmap(lambda m, s, x: dist.DiscretizedLogistic(m, s).log_prob(x), in_axes=(0, 0, None))
    total = lambda m, s: jnp.sum(log_prob(m[:, None], s[:, None], x))
    assert np.all(np.isfinite(log_prob(mean[:, None], log_scale[:, None], x)))
    assert np.all(np.isfinite(jax.jit(jax.grad(total, argnums=(0, 1)))(mean, log_scale)))
    # Far out the mass is that of an exponential tail: log p = -|x - m| / s + log(exp(half / s) - exp(-half / s)).
    q = dist.DiscretizedLogistic(np.float32([30.0]), np.float32([-3.0]))
    inverse, half = np.exp(3.0), 0.5 / 255
    truth = -29.8 * inverse + np.log(2 * np.sinh(half * inverse))
    np.testing.assert_allclose(q.log_prob(np.float32([0.2])), truth, rtol=1e-5)


def test_discretized_logistic_samples_are_levels():
    q, z = MEMBERS["DiscretizedLogistic"][0], ask("DiscretizedLogistic")["z"] * (LEVELS - 1)
    np.testing.assert_allclose(z, np.round(z), atol=1e-5)
    assert (z.min(), z.max()) == (0, LEVELS - 1)
    assert getattr(q, "rsample", None) is None


@pytest.mark.parametrize("log_var", [-80.0, 0.0, 80.0])
def test_normal_at_the_ends_of_float32(log_var):
    scale = np.exp(0.5 * log_var)
    mean = jnp.array([0.0])
    z = jnp.array([1.5 * scale], jnp.float32)
    log_prob = lambda z, mean, log_var: dist.Normal(mean, log_var).log_prob(z)
    value, grads = jax.value_and_grad(log_prob, argnums=(0, 1, 2))(z, mean, jnp.array([log_var]))
    np.testing.assert_allclose(value, st.norm(0, scale).logpdf(1.5 * scale), rtol=1e-5)
    expected = [-1.5 / scale, 1.5 / scale, 0.5 * (1.5**2 - 1)]
    np.testing.assert_allclose(np.ravel(grads), expected, rtol=1e-5)
    np.testing.assert_allclose(dist.Normal(mean, jnp.array([log_var])).scale, scale, rtol=1e-5)


def test_normal_scale_is_half_of_log_var():
    q = dist.Normal(jnp.zeros(1), jnp.log(jnp.array([9.0])))
    np.testing.assert_allclose(q.from_noise(jnp.array([[2.0]])), [[6.0]], rtol=1e-6)  # not 18: exp(log_var) is 9


# Beta is Dirichlet of two parts, and compiles for long.
_slow = lambda family: pytest.param(family, marks=[pytest.mark.slow] if family in ("Beta", dist.Beta) else [])


@pytest.mark.parametrize("family", [_slow(each) for each in [dist.Gamma, dist.Beta]])
def test_small_concentrations_are_finite(family):
    @jax.jit
    def program(small):
        q = family(small, small) if family is dist.Beta else family(small, jnp.zeros_like(small))

        def pathwise(q):
            z = q.rsample(jax.random.key(15), 10_000)
            log_prob = q.log_prob(z)
            return jnp.sum(jnp.mean(log_prob, axis=0)), (z, log_prob)

        grads, (z, log_prob) = jax.grad(pathwise, has_aux=True)(q)
        return z, log_prob, grads

    z, log_prob, grads = jax.device_get(program(np.log(np.float32([[1e-3, 1e-2], [0.05, 0.05]]))))
    assert np.min(z) > 0
    assert np.all(np.isfinite(log_prob))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    if family is dist.Gamma:  # above the floor, samples are those of the Gamma
        z = float64(z[:, 1, 0])
        assert st.kstest(z[z > 1e-30], lambda z: _truncated(z, 0.05)).pvalue > 1e-4


def _truncated(z, concentration):
    below = st.gamma.cdf(1e-30, concentration)
    return (st.gamma.cdf(z, concentration) - below) / (1 - below)
