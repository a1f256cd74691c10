"""The densities that are fitted to samples, against sums and integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae.testing.references import fit_reference

# The samples of a pilot, and a map from a number t to z, in which p0 is a density over t: z itself, the first of two
# parts of the simplex, or the angle of a circle.
PILOTS = {
    "real": (lambda rng: rng.normal(1.0, 2.0, 500)[:, None], lambda t: t[:, None], (-15, 15)),
    "positive": (lambda rng: rng.gamma(3.0, size=500)[:, None], lambda t: t[:, None], (0, 60)),
    "unit": (lambda rng: rng.beta(2.0, 3.0, 500)[:, None], lambda t: t[:, None], (0, 1)),
    "simplex": (lambda rng: rng.dirichlet([2.0, 3.0], 500), lambda t: jnp.stack([t, 1 - t], axis=-1), (0, 1)),
    "sphere": (
        lambda rng: PILOTS["sphere"][1](rng.normal(0.5, 0.6, 500)),
        lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1),
        (-np.pi, np.pi),
    ),
}


@pytest.mark.parametrize("support", PILOTS)
def test_a_reference_integrates_to_one_and_has_the_samples_of_its_density(support):
    make, z_of, (low, high) = PILOTS[support]
    pilot = jnp.asarray(make(np.random.default_rng(0)), jnp.float32)
    reference = fit_reference(support, pilot)
    edges = np.linspace(low, high, 40_001)
    t = (edges[1:] + edges[:-1]) / 2
    z = z_of(jnp.asarray(t, jnp.float32))
    weights = np.exp(np.float64(jax.jit(jax.vmap(reference.log_prob))(z))) * (edges[1] - edges[0])
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    samples, first = np.float64(reference.sample(np.random.default_rng(1), 400_000))[:, 0], np.float64(z[:, 0])
    for power in (1, 2):
        values = samples**power
        assert abs(values.mean() - weights @ first**power) < 4.5 * values.std() / np.sqrt(len(values))


def test_a_discrete_reference_is_uniform_on_the_values_that_hold_half_of_the_samples():
    """Of two data: five values with the shares 40, 30, 15, 10 and 5 %, and one value."""
    first = np.repeat([3.0, 1.0, 0.0, 7.0, 5.0], [40, 30, 15, 10, 5])
    pilot = jnp.asarray(np.stack([first, np.full(100, 2.0)], axis=1)[..., None], jnp.float32)  # [100, 2, 1]
    reference = fit_reference("discrete", pilot)
    log_prob = lambda *values: np.asarray(reference.log_prob(jnp.float32(values)[:, None]))
    np.testing.assert_allclose(log_prob(3, 2), [-np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(log_prob(1, 3), [-np.log(2), -np.inf], rtol=1e-6)
    assert log_prob(0, 2)[0] == -np.inf
    samples = np.asarray(reference.sample(np.random.default_rng(0), 400))[..., 0]  # [400, 2]
    assert set(samples[:, 0]) == {1, 3}
    assert abs(np.mean(samples[:, 0] == 1) - 0.5) < 4.5 * 0.5 / np.sqrt(400)
    assert set(samples[:, 1]) == {2}


def test_the_reference_is_a_number_at_the_points_from_which_spheres_are_projected():
    """On 500 circles, whose samples are around some direction, at the point opposite to it."""
    centres, noise = jax.random.uniform(jax.random.key(0), (500,)), jax.random.normal(jax.random.key(1), (64, 500))
    angles = 6.3 * centres + 0.1 * noise
    pilot = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)  # [64, 500, 2]
    mean = jnp.mean(pilot, axis=0)
    opposite = -mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    assert jnp.all(fit_reference("sphere", pilot).log_prob(opposite) == -jnp.inf)
