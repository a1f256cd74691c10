"""Point masses on codes, by what NumPy says of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from tests.helpers.random_models import float64
from vae import distributions as dist
from vae.distributions.discrete import IMPOSSIBLE
from vae.distributions.quantized import grid

RNG = np.random.default_rng(0)
CODEBOOK = np.float32(RNG.normal(size=(6, 2)))
ENCODING = np.float32(RNG.normal(size=(4, 3, 2)))  # [B, D, W]
MEMBERS = {"Quantized": dist.Quantized(ENCODING, CODEBOOK), "Rounded": dist.Rounded(np.tanh(ENCODING), (5, 4))}
PRIORS = {"Quantized": dist.UniformCodes(CODEBOOK, 3), "Rounded": dist.UniformCodes(grid((5, 4)), 3)}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_point_mass_has_the_density_of_one_state(name):
    q, prior = MEMBERS[name], PRIORS[name]

    @jax.jit
    def ask(q):
        z = q.sample(jax.random.key(0), 2)
        densities = q.log_prob(z), q.log_prob(z.at[0, 1, 2].add(1.0))
        return z, q.code, q.index, densities, dist.kl(q, prior), q.code_counts()

    z, code, index, (log_q, log_q_of_another), divergence, counts = jax.device_get(ask(q))
    np.testing.assert_array_equal(z, np.broadcast_to(code, (2, 4, 3, 2)))
    np.testing.assert_array_equal(np.asarray(prior.codebook)[index], code)
    np.testing.assert_array_equal(log_q, 0)
    np.testing.assert_allclose(log_q_of_another[0], [0, IMPOSSIBLE, 0, 0])
    np.testing.assert_allclose(divergence, np.full(4, 3 * math.log(len(prior.codebook))), rtol=1e-6)
    np.testing.assert_array_equal(counts, np.bincount(np.ravel(index), minlength=len(prior.codebook)))


def test_a_code_is_the_nearest_one_and_passes_its_gradient_to_the_codebook():
    distance = np.sum((float64(ENCODING)[..., None, :] - float64(CODEBOOK)) ** 2, axis=-1)
    index = np.argmin(distance, axis=-1)
    weight = RNG.normal(size=ENCODING.shape)
    total = lambda q: jnp.sum(q.code * weight)

    @jax.jit
    def ask(q):
        return q.index, jax.grad(total)(q), jax.grad(lambda q: total(stop_gradient(q)))(q)

    found, grads, of_frozen = jax.device_get(ask(MEMBERS["Quantized"]))
    np.testing.assert_array_equal(found, index)
    expected = np.zeros(CODEBOOK.shape)
    np.add.at(expected, index, weight)
    np.testing.assert_allclose(grads.codebook, expected, rtol=1e-5, atol=1e-6)
    assert not np.any(grads.encoding)
    assert not np.any(of_frozen.codebook)


def test_a_divergence_needs_as_many_positions():
    with pytest.raises(ValueError, match=r"the same event, got shapes \(3, 2\) and \(2, 2\)"):
        dist.kl(MEMBERS["Quantized"], dist.UniformCodes(CODEBOOK, 2))
