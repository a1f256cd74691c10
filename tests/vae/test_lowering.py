"""Every training step is lowered for GPUs and TPUs on the CPU, so a program that they cannot run is found here."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.helpers.golden_runs import family_of
from vae import evaluate, models, objectives, train
from vae.estimators import BY_NAME

ACCELERATORS = ["cuda", "tpu"]


def lower(name: str, **options) -> jax.export.Exported:
    """The training step of a small VAE with this estimator, lowered for both accelerators."""
    entry = BY_NAME[name]
    estimator = entry.make(num_samples=max(2, entry.min_samples))
    options = {"posterior": family_of(entry)} | options
    model = models.make_vae((2, 2, 1), latent_dim=2, hidden=(3,), **options)
    objective = objectives.elbo if "mean" in entry.reductions else objectives.iwae
    tx = optax.adam(1e-3)
    x = jax.ShapeDtypeStruct((4, 2, 2, 1), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(train.make_init(model, estimator, tx, x), key)
    step = jax.jit(train.make_step(model.apply, objective, estimator, tx))
    return jax.export.export(step, platforms=ACCELERATORS)(state, key, x)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_step_of_every_estimator_lowers_for_accelerators(name):
    assert lower(name).platforms == ("cuda", "tpu")


@pytest.mark.parametrize("posterior", sorted(models.POSTERIORS))
def test_the_step_of_every_posterior_lowers_for_accelerators(posterior):
    name = "leave_one_out" if posterior in ("bernoulli", "categorical") else "reparam"
    assert lower(name, posterior=models.POSTERIORS[posterior]()).platforms == ("cuda", "tpu")


def test_an_epoch_of_a_sweep_and_an_evaluation_lower_for_accelerators():
    estimator = BY_NAME["reparam"].make()
    model = models.make_vae((2, 2, 1), latent_dim=2, hidden=(3,))
    tx = optax.adam(1e-3)
    x = jax.ShapeDtypeStruct((12, 2, 2, 1), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    keys = jax.eval_shape(lambda key: jax.random.split(key, 3), key)
    epoch = train.make_epoch(train.make_step(model.apply, objectives.elbo, estimator, tx), batch_size=4)
    states = jax.eval_shape(jax.vmap(train.make_init(model, estimator, tx, x)), keys)
    for mode in ("vmap", "map"):
        lowered = jax.export.export(jax.jit(train.over_runs(epoch, mode, shared=1)), platforms=ACCELERATORS)
        assert lowered(states, keys, x).platforms == ("cuda", "tpu")
    params = jax.eval_shape(model.init, key, x, key)
    log_likelihood = jax.jit(lambda params, x, key: evaluate.log_likelihood(model.apply, params, x, key, num_samples=8))
    assert jax.export.export(log_likelihood, platforms=ACCELERATORS)(params, x, key).out_avals[0].shape == (12,)


def test_a_program_that_accelerators_cannot_run_is_found():
    with pytest.raises(NotImplementedError, match="eig"):
        jax.export.export(jax.jit(jnp.linalg.eigvals), platforms=["tpu"])(jax.ShapeDtypeStruct((2, 2), jnp.float32))
