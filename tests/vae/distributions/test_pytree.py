"""Every family as a pytree, under vmap, strict promotion and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.families import (
    BATCH,
    FAMILIES,
    MEMBERS,
    WITH_KL,
    ask,
)
from vae import distributions as dist


@pytest.mark.parametrize("name", FAMILIES)
def test_is_a_pytree(name):
    q, z = MEMBERS[name][0], ask(name)["z"][:4]
    log_prob = lambda q, z: q.log_prob(z)
    freeze = lambda q, z, frozen: jnp.sum((jax.lax.stop_gradient(q) if frozen else q).log_prob(z))

    @jax.jit
    def program(q, z):
        mapped = jax.vmap(log_prob, in_axes=(0, 1), out_axes=1)(q, z)
        loop = [log_prob(jax.tree.map(lambda leaf, b=b: leaf[b], q), z[:, b]) for b in range(BATCH)]
        return mapped, loop, [jax.grad(freeze, argnums=(0, 1))(q, z, frozen) for frozen in (True, False)]

    mapped, loop, ((frozen, in_z), (free, _)) = jax.device_get(program(q, z))
    # vmap over the batch is a loop over it.
    np.testing.assert_allclose(mapped, np.stack(loop, axis=1), rtol=1e-6, atol=1e-6)
    # stop_gradient freezes q and leaves z.
    assert type(frozen) is type(free) is type(q)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(frozen))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(free))
    assert np.any(in_z != 0)


@pytest.mark.parametrize("name", ["Normal", "Bernoulli", "Categorical"])
def test_sampling_maps_over_keys(name):
    q, keys = MEMBERS[name][0], jax.random.split(jax.random.key(8), BATCH)
    sample = lambda q, key: q.sample(key, 20)
    rows = [jax.jit(sample)(jax.tree.map(lambda leaf, b=b: leaf[b], q), keys[b]) for b in range(BATCH)]
    np.testing.assert_allclose(jax.jit(jax.vmap(sample))(q, keys), np.stack(rows), rtol=1e-5, atol=1e-6)
    assert np.any(rows[0] != rows[1])


def _everything(q, p):
    """One number that everything a family can do goes into."""
    key = jax.random.key(10)
    total = jnp.sum(q.log_prob(q.sample(key, 2)))
    if getattr(q, "rsample", None) is not None:
        total += jnp.sum(q.log_prob(q.rsample(key, 2)))
    if type(q).__name__ in WITH_KL and type(q).__name__ != "MultivariateNormal":
        total += jnp.sum(dist.kl(q, p))
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_under_strict_dtype_promotion(name):
    with jax.numpy_dtype_promotion("strict"):
        out = jax.eval_shape(jax.value_and_grad(_everything), *MEMBERS[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_stays_float32_where_float64_is_on(name):
    q, p = MEMBERS[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(lambda q: q.sample(jax.random.key(0), 2), q).dtype == jnp.float32
        assert jax.eval_shape(_everything, q, p).dtype == jnp.float32
