"""Data may be pytrees, such as images with labels: a model that ignores the labels gives what it gives for images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae import ais, diagnostics, evaluate, models, objectives, train
from vae.estimators import BY_NAME

X = jax.random.uniform(jax.random.key(0), (21, 4, 4, 1))
LABELLED = {"x": X, "y": jnp.arange(21)}
KEY = jax.random.key(1)


class IgnoresLabels(models.VAE):
    """The VAE of the same parts. It refuses labels that are not integers."""

    def __call__(self, datum, key):
        return super().__call__(datum["x"], key)

    def encode(self, datum):
        if not isinstance(datum, dict):  # `__call__` of the VAE
            return super().encode(datum)
        assert jnp.issubdtype(datum["y"].dtype, jnp.integer)
        return super().encode(datum["x"])

    def log_likelihood(self, datum, z):
        return super().log_likelihood(datum["x"], z)


MODEL = models.make_vae((4, 4, 1), latent_dim=2, hidden=(5,))
OF_PAIRS = IgnoresLabels(MODEL.encoder, MODEL.decoder, MODEL.prior)


def trained(model, data):
    estimator, tx = BY_NAME["reparam"].make(), optax.adam(1e-2)
    epoch = jax.jit(train.make_epoch(train.make_step(model.apply, objectives.elbo, estimator, tx), batch_size=5))
    state = train.make_init(model, estimator, tx, jax.tree.map(lambda leaf: leaf[:1], data))(KEY)
    return epoch(state, KEY, data)


def test_training_is_the_same():
    both = jax.device_get([trained(MODEL, X), trained(OF_PAIRS, LABELLED)])
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(evaluate.importance_weights, num_samples=7, batch_size=5),
        functools.partial(evaluate.rate_distortion, num_samples=2),
        evaluate.active_units,
        functools.partial(ais.bounds, num_steps=3, num_chains=2, leapfrog_steps=1),
    ],
)
def test_evaluation_is_the_same(function):
    params = MODEL.init(KEY, X, KEY)
    both = jax.jit(lambda: [function(model.apply, params, x, KEY) for model, x in ((MODEL, X), (OF_PAIRS, LABELLED))])()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *both)


def test_a_comparison_of_estimators_is_the_same():
    params = MODEL.init(KEY, X, KEY)
    compare = functools.partial(diagnostics.compare, estimators={"stl": 1}, key=KEY, draws=40)
    plain, labelled = compare(MODEL, params, X), compare(OF_PAIRS, params, LABELLED)
    np.testing.assert_allclose(plain.columns["variance"], labelled.columns["variance"], rtol=1e-4)


def test_labels_stay_with_their_images():
    """Each step sums what its images and labels differ by."""

    def step(state, key, batch):
        return state._replace(step=state.step + 1), {"bound": jnp.sum(jnp.abs(batch["x"] - batch["y"]))}

    state = train.TrainState({}, {}, {}, jnp.int32(0))
    epoch = jax.jit(train.make_epoch(step, batch_size=3))
    assert epoch(state, KEY, {"x": jnp.arange(9.0), "y": jnp.arange(9.0)})[1]["bound"] == 0
    assert epoch(state, KEY, {"x": jnp.arange(9.0), "y": jnp.arange(9.0)[::-1]})[1]["bound"] > 0  # the control


def test_arrays_of_different_lengths_are_refused():
    epoch = train.make_epoch(lambda state, key, batch: (state, {}), batch_size=3)
    with pytest.raises(ValueError, match=r"must have one length, got \[20, 21\]"):
        epoch(train.TrainState({}, {}, {}, jnp.int32(0)), KEY, {"x": X, "y": jnp.arange(20.0)})
