"""Mixtures of families, against scipy and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats as st
from scipy.special import logsumexp

from tests.helpers.families import draw, z_score
from tests.helpers.random_models import float64
from vae import distributions as dist

M, D = 3, 2
WEIGHTS = np.array([0.6, 0.3, 0.1])
LOGITS = np.asarray(np.log(WEIGHTS) + 1.7, np.float32)  # logits are free up to a constant
NORMAL = dist.Mixture(LOGITS, dist.Normal(draw(0, M, D, scale=1.5), draw(1, M, D, scale=0.5)))
Z = draw(2, 4, 5, D)

log_prob = jax.jit(lambda q, z: q.log_prob(z))
density_and_mean = jax.jit(lambda q, z: (q.log_prob(z), q.mean))


def test_the_density_is_the_weighted_sum_of_scipys():
    q = NORMAL.components
    of_components = st.norm(float64(q.mean), np.exp(0.5 * float64(q.log_var))).logpdf(Z[..., None, :]).sum(-1)
    density, mean = density_and_mean(NORMAL, Z)
    np.testing.assert_allclose(density, logsumexp(of_components, b=WEIGHTS, axis=-1), rtol=1e-5)
    equal = logsumexp(of_components, b=1 / M, axis=-1)
    assert np.abs(density - equal).min() > 1e-3  # the control: other weights
    np.testing.assert_allclose(mean, WEIGHTS @ float64(q.mean), rtol=1e-5)


def test_components_may_be_correlated_or_one_hot_vectors():
    factors = np.float32(np.tril(draw(3, M, D, D)) + np.eye(D))
    q = dist.Mixture(LOGITS, dist.MultivariateNormal(draw(4, M, D), factors))
    means, covariances = float64(q.components.mean), float64(factors) @ np.swapaxes(float64(factors), -1, -2)
    columns = [st.multivariate_normal(means[m], covariances[m]).logpdf(Z) for m in range(M)]
    np.testing.assert_allclose(log_prob(q, Z), logsumexp(columns, b=WEIGHTS[:, None, None], axis=0), rtol=1e-4)

    q = dist.Mixture(LOGITS, dist.Categorical(draw(5, M, D, 4, scale=1)))
    first, second = np.divmod(np.arange(16), 4)
    everything = np.eye(4, dtype=np.float32)[np.stack([first, second], axis=-1)]  # [16, D, C]
    density, mean = map(float64, density_and_mean(q, everything))
    probabilities = np.exp(density)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(np.tensordot(probabilities, everything, 1), mean, rtol=1e-5)
    independent = np.prod(np.sum(everything * mean, axis=-1), axis=-1)
    assert np.abs(probabilities - independent).max() > 1e-3  # a mixture of independent dimensions has dependent ones


def test_samples_are_those_of_the_density():
    wide = dist.Normal(np.zeros(D), np.full(D, np.log(1.5)))  # a density with lighter tails than the mixture's
    equal = dist.Mixture(np.zeros(M), NORMAL.components)

    @jax.jit
    def program(q):
        z = q.sample(jax.random.key(0), 40_000)
        return z, wide.log_prob(z), q.log_prob(z), q.mean, equal.mean

    z, in_z, log_q, mean, mean_of_equal = map(float64, program(NORMAL))
    score, error = z_score(np.exp(in_z - log_q), 1.0)
    assert (score < 4.5, error < 0.05) == (True, True)
    assert np.all(z_score(z, mean)[0] < 4.5)
    assert np.any(z_score(z, mean_of_equal)[0] > 10)  # the control


def test_the_component_is_drawn_independently_of_the_samples():
    """Two equal components are one; with the same noise for both draws, the larger sample would be chosen."""
    zeros = np.zeros((2, 1), np.float32)
    q = dist.Mixture(np.zeros(2, np.float32), dist.Normal(zeros, zeros))
    z = np.asarray(jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 10_000))
    assert abs(z.mean()) < 4.5 / np.sqrt(len(z))


def test_a_batch_of_mixtures_is_a_loop_over_them():
    logits = np.stack([LOGITS, LOGITS[::-1]])
    components = dist.Normal(draw(6, 2, M, D), draw(7, 2, M, D))
    batch, z = dist.Mixture(logits, components), draw(8, 5, 2, D)
    single = lambda b: dist.Mixture(logits[b], jax.tree.map(lambda leaf: leaf[b], components))
    assert batch.batch_shape == (2,)
    assert jax.eval_shape(lambda: batch.sample(jax.random.key(0), 5)).shape == (5, 2, D)
    together = log_prob(batch, z)
    np.testing.assert_allclose(together, np.stack([log_prob(single(b), z[:, b]) for b in (0, 1)], axis=1), rtol=1e-5)
    mapped = jax.jit(jax.vmap(lambda q, z: q.log_prob(z), in_axes=(0, 1), out_axes=1))(batch, z)
    np.testing.assert_allclose(mapped, together, rtol=1e-5)
    with jax.numpy_dtype_promotion("strict"):
        gradient = jax.eval_shape(jax.grad(lambda q: jnp.sum(q.log_prob(q.sample(jax.random.key(0), 5)))), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}


def test_one_component_is_the_component_and_a_far_one_is_no_overflow():
    one = jax.tree.map(lambda leaf: leaf[:1], NORMAL.components)
    single = dist.Normal(one.mean[0], one.log_var[0])
    np.testing.assert_allclose(log_prob(dist.Mixture(np.zeros(1), one), Z), log_prob(single, Z), rtol=1e-6)
    far = dist.Mixture(np.zeros(2), dist.Normal(np.float32([[0.0], [1e15]]), np.zeros((2, 1), np.float32)))
    np.testing.assert_allclose(log_prob(far, np.float32([[0.3]])), st.norm.logpdf(0.3) - np.log(2), rtol=1e-5)
