"""Training, evaluations and the laboratory are lowered for GPUs and TPUs on the CPU, so a program that they cannot run
is found here."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.helpers.pairs import estimator_for, family_of
from tests.helpers.random_models import ARCHITECTURES
from vae import ais, diagnostics, evaluate, models, objectives, train
from vae.estimators import BY_NAME

ACCELERATORS = ["cuda", "tpu"]


def export(function: Callable, *args) -> jax.export.Exported:
    """The function, lowered for both accelerators."""
    return jax.export.export(jax.jit(function), platforms=ACCELERATORS)(*args)


def lower(name: str, objective: Callable | None = None, **options) -> jax.export.Exported:
    """The training step of a small VAE with this estimator, lowered for both accelerators."""
    entry = BY_NAME[name]
    options = {"posterior": family_of(entry), "latent_dim": 2, "hidden": ()} | options
    objective = objective or (objectives.elbo if "mean" in entry.reductions else objectives.iwae)
    return _lower(name, objective, models.make_vae((4, 4, 1), **options))


@functools.cache  # several tests ask for the defaults by their names
def _lower(name: str, objective: Callable, model: models.VAE) -> jax.export.Exported:
    estimator = BY_NAME[name].make(num_samples=max(2, BY_NAME[name].min_samples))
    tx = optax.sgd(1e-3)
    x = jax.ShapeDtypeStruct((4, 4, 4, 1), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(train.make_init(model, estimator, tx, x), key)
    return export(train.make_step(model.apply, objective, estimator, tx), state, key, x)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_step_of_every_estimator_lowers_for_accelerators(name):
    assert lower(name).platforms == ("cuda", "tpu")


@pytest.mark.parametrize("posterior", sorted(models.POSTERIORS))
def test_the_step_of_every_posterior_lowers_for_accelerators(posterior):
    assert lower(estimator_for(posterior), posterior=models.POSTERIORS[posterior]()).platforms == ("cuda", "tpu")


@pytest.mark.parametrize("objective", sorted(objectives.BY_NAME))
def test_the_step_of_every_objective_lowers_for_accelerators(objective):
    assert lower("reparam", objective=objectives.make(objective)).platforms == ("cuda", "tpu")


CHOICES = {
    **{name: {"likelihood": name} for name in models.LIKELIHOODS},
    **{f"{name} prior": {"prior": name} for name in models.PRIORS},
    **{name: {"architecture": architecture, "hidden": (3,)} for name, architecture in ARCHITECTURES.items()},
    "two stochastic layers": {"latent_dim": (2, 2)},
    **{inference: {"latent_dim": (2, 2), "inference": inference} for inference in ("top_down", "ladder")},
    "bfloat16": {"compute_dtype": "bfloat16", "hidden": (3,)},
}


@pytest.mark.parametrize("options", CHOICES.values(), ids=CHOICES)
def test_the_step_of_every_model_lowers_for_accelerators(options):
    assert lower("reparam", **options).platforms == ("cuda", "tpu")


# --- Sweeps and evaluations

X = jax.ShapeDtypeStruct((12, 2, 2, 1), jnp.float32)
KEY = jax.eval_shape(jax.random.key, 0)
KEYS = jax.eval_shape(lambda key: jax.random.split(key, 3), KEY)
MODEL = models.make_vae((2, 2, 1), latent_dim=2, hidden=(3,))
EVALUATIONS = {
    "importance_weights": lambda *where: evaluate.importance_weights(MODEL.apply, *where, num_samples=30),
    "rate_distortion": lambda *where: evaluate.rate_distortion(MODEL.apply, *where, num_samples=8),
    "annealing": lambda *where: ais.bounds(MODEL.apply, *where, num_steps=2, num_chains=2, leapfrog_steps=2),
    "active_units": lambda *where: evaluate.active_units(MODEL.apply, *where),
}


@pytest.mark.parametrize("mode", ["vmap", "map"])
def test_an_epoch_of_a_sweep_lowers_for_accelerators(mode):
    estimator = BY_NAME["reparam"].make()
    tx = optax.adam(1e-3)
    init = train.over_runs(train.make_init(MODEL, estimator, tx, X), mode)
    epoch = train.make_epoch(train.make_step(MODEL.apply, objectives.elbo, estimator, tx), batch_size=4)
    epoch = train.over_runs(epoch, mode, shared=1)
    assert export(init, KEYS).platforms == ("cuda", "tpu")
    assert export(epoch, jax.eval_shape(init, KEYS), KEYS, X).platforms == ("cuda", "tpu")


@pytest.mark.parametrize("mode", ["vmap", "map"])
@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_of_a_sweep_lowers_for_accelerators(name, mode):
    params = jax.eval_shape(jax.vmap(MODEL.init, in_axes=(0, None, 0)), KEYS, X, KEYS)
    evaluation = train.over_runs(EVALUATIONS[name], mode, shared=2)
    lowered = export(evaluation, params, X, KEY)
    assert lowered.platforms == ("cuda", "tpu")
    assert all(leaf.shape[0] == 3 for leaf in lowered.out_avals)


# --- The laboratory


@pytest.mark.parametrize(("name", "block"), [("reparam", 1), ("nvil", 2)])
def test_the_figures_of_a_gradient_lower_for_accelerators(name, block):
    entry = BY_NAME[name]
    estimator = entry.make(num_samples=2)
    model = models.make_vae((2, 2, 1), latent_dim=2, hidden=(3,), posterior=family_of(entry))
    bound = lambda params, x, expect: objectives.elbo(model.apply, {"params": params}, x, expect)
    gradient = diagnostics.make_gradient(bound, estimator)

    def figures(key, params, learned, counted, x, truth):
        draw = lambda key: gradient(key, params, x, learned, counted, x)
        moments = diagnostics.gradient_moments(draw, key, draws=40, chunks=10, block=block, truth=truth)
        timed = diagnostics.draw_gradients(draw, key, 0, 5, block > 1)
        return diagnostics.report(moments, truth), diagnostics.figures_by_chunk(moments), timed

    params = jax.eval_shape(model.init, KEY, X, KEY)["params"]
    q = jax.eval_shape(lambda params, x: model.apply({"params": params}, x, method="encode"), params, X)
    learned, counted = jax.eval_shape(estimator.init, KEY, q, X)
    truth = jax.eval_shape(diagnostics.exactly, params)
    assert export(figures, KEY, params, learned, counted, X, truth).platforms == ("cuda", "tpu")


def test_a_program_that_accelerators_cannot_run_is_found():
    with pytest.raises(NotImplementedError, match="eig"):
        jax.export.export(jax.jit(jnp.linalg.eigvals), platforms=["tpu"])(jax.ShapeDtypeStruct((2, 2), jnp.float32))
