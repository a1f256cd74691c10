"""The exponential moving average of the parameters in `TrainState`."""

import jax
import numpy as np
import optax
import pytest

import vae
from vae import checkpoint, models, objectives, train

DECAY = 0.9
X = np.float32(np.random.default_rng(0).random((40, 2, 2, 1), np.float32) > 0.5)
MODEL = models.make_vae((2, 2, 1), latent_dim=1, hidden=(3,))
ESTIMATOR = vae.estimators.make("reparam", num_samples=1)
TX = optax.adam(0.1)
INIT = jax.jit(train.make_init(MODEL, ESTIMATOR, TX, X[:10], DECAY))
STEP = train.make_step(MODEL.apply, objectives.elbo, ESTIMATOR, TX, DECAY)
EPOCH = jax.jit(train.make_epoch(STEP, batch_size=10))
KEY = jax.random.key(1)


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def states():
    """The states after each of 30 steps of one run."""
    step = jax.jit(STEP)
    state = INIT(jax.random.key(0))
    states = []
    for _ in range(30):
        state, _ = step(state, jax.random.fold_in(KEY, state.step), X[:10])
        states.append(state)
    return states


def test_the_average_has_weights_that_fall_by_the_decay(states):
    parameters = np.stack([_flat(state.params["model"]) for state in states]).astype(np.float64)
    initial = INIT(jax.random.key(0))
    np.testing.assert_array_equal(_flat(initial.ema), _flat(initial.params["model"]))
    for steps in (1, 2, 30):
        weights = DECAY ** np.arange(steps - 1, -1, -1.0)
        expected = weights @ parameters[:steps] / weights.sum()
        np.testing.assert_allclose(_flat(states[steps - 1].ema), expected, rtol=1e-5, atol=1e-6)
    without_correction = (1 - DECAY) * weights @ parameters  # control
    assert np.abs(without_correction - expected).max() > 1e-3


def test_the_average_changes_no_other_number(states):
    plain = jax.jit(train.make_step(MODEL.apply, objectives.elbo, ESTIMATOR, TX))
    state = jax.jit(train.make_init(MODEL, ESTIMATOR, TX, X[:10]))(jax.random.key(0))
    for _ in range(3):
        state, _ = plain(state, jax.random.fold_in(KEY, state.step), X[:10])
    assert state.ema is None
    np.testing.assert_allclose(_flat(state.params), _flat(states[2].params), rtol=1e-6)


def test_runs_side_by_side_have_the_averages_of_single_runs():
    init, epoch = (jax.jit(train.over_runs(one, "vmap")) for one in (INIT, lambda *args: EPOCH(*args, X)))
    keys = jax.random.split(KEY, 2)
    together = jax.device_get(epoch(init(keys), keys)[0].ema)
    for i in range(2):
        alone, _ = EPOCH(INIT(keys[i]), keys[i], X)
        np.testing.assert_allclose(
            _flat(jax.tree.map(lambda leaf, i=i: leaf[i], together)), _flat(alone.ema), rtol=1e-5, atol=1e-6
        )


def test_a_run_that_is_resumed_has_the_same_average_bit_for_bit(tmp_path):
    first, _ = EPOCH(INIT(jax.random.key(0)), KEY, X)
    with checkpoint.writer(tmp_path, keep=1) as (save, _):
        save(4, first)
    _, restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: first))
    np.testing.assert_array_equal(_flat(EPOCH(restored, KEY, X)[0].ema), _flat(EPOCH(first, KEY, X)[0].ema))
    assert np.abs(_flat(first.ema) - _flat(first.params["model"])).max() > 1e-3  # the average is another tree


def test_a_state_without_an_average_is_refused():
    with pytest.raises(ValueError, match=r"^ema=0.9 needs a state.ema, a copy of the model's variables at first"):
        jax.eval_shape(STEP, INIT(KEY)._replace(ema=None), KEY, X[:10])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_no_average_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema must be at least 0 and below 1, got {decay}"):
        train.make_step(MODEL.apply, objectives.elbo, ESTIMATOR, TX, decay)
