"""Training as a pure function: the same run bit for bit, however it is cut or mapped, and it reaches what it should."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import linear_gaussian
from tests.helpers.pairs import family_of
from vae import models, objectives, train
from vae.data import load, pixels
from vae.estimators import BY_NAME, Estimate, integrand

MODEL = models.make_vae((8, 8, 1), latent_dim=4, hidden=(16,), activation="tanh")
TX = optax.adam(3e-3)
BOUND = objectives.elbo_analytic()
BATCH = 50
X = jax.random.uniform(jax.random.key(100), (210, 8, 8, 1))  # 4 steps an epoch, 10 images left out


def _setup(objective=BOUND, estimator="reparam", tx=TX, model=MODEL, x=X, batch_size=BATCH):
    """init, step and the compiled epoch."""
    estimator = BY_NAME[estimator].make()
    step = train.make_step(model.apply, objective, estimator, tx)
    init = jax.jit(train.make_init(model, estimator, tx, x[:batch_size]))
    return init, step, jax.jit(train.make_epoch(step, batch_size), donate_argnums=0)


INIT, STEP, EPOCH = _setup()


def _run(seed, epochs, state=None, epoch=EPOCH):
    key_init, key_run = jax.random.split(jax.random.key(seed))
    state = INIT(key_init) if state is None else state
    for _ in range(epochs):
        state, metrics = epoch(state, key_run, X)
    return state, metrics


def _bytes(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def _largest_difference(a, b):
    return max(np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_the_seed_is_the_run():
    first, metrics = _run(0, 2)
    assert int(first.step) == 8
    assert _bytes((first, metrics)) == _bytes(_run(0, 2))
    assert _largest_difference(first.params, _run(1, 2)[0].params) > 0.01


def test_a_resumed_run_is_the_same_run_and_compiles_once():
    whole, metrics = _run(2, 4)
    half = _run(2, 2)[0]
    saved = jax.tree.map(np.array, half)  # as in a file
    fresh = _setup()[2]  # as in another process
    resumed, resumed_metrics = _run(2, 2, jax.tree.map(jnp.asarray, saved), fresh)
    assert fresh._cache_size() == 1
    assert _bytes((whole, metrics)) == _bytes((resumed, resumed_metrics))
    # Control: two more epochs from a state that has forgotten its step are other epochs.
    forgetful = jax.tree.map(jnp.asarray, saved._replace(step=np.zeros((), np.int32)))
    assert _largest_difference(_run(2, 2, forgetful, fresh)[0].params, whole.params) > 1e-4


def _keys(runs):
    return jax.vmap(jax.random.key)(jnp.arange(runs))


def _run_of(tree, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], tree)


def _stack(states):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def test_a_run_of_a_mapped_sweep_is_the_run_alone():
    keys = _keys(3)
    sweep = jax.jit(train.over_runs(train.make_epoch(STEP, BATCH), "map", shared=1))
    states, metrics = sweep(_stack([INIT(key) for key in keys]), keys, X)
    for i in range(3):
        assert _bytes(_run_of((states, metrics), i)) == _bytes(EPOCH(INIT(keys[i]), keys[i], X))
    assert _largest_difference(_run_of(states.params, 0), _run_of(states.params, 1)) > 0.01


def test_a_run_of_a_vmapped_sweep_over_hyperparameters_is_the_run_alone():
    """Learning rates and betas as arrays in one program; each run equals the one with numbers."""

    def epoch(state, key, rate, beta, x):
        step = train.make_step(MODEL.apply, objectives.elbo_analytic(beta), BY_NAME["reparam"].make(), optax.adam(rate))
        return train.make_epoch(step, BATCH)(state, key, x)

    keys, rates, betas = _keys(3), jnp.array([3e-3, 1e-3, 1e-2]), jnp.array([1.0, 1.0, 4.0])
    sweep = jax.jit(train.over_runs(epoch, "vmap", shared=1))
    swept, metrics = sweep(_stack([INIT(key) for key in keys]), keys, rates, betas, X)
    single = jax.jit(epoch)
    for i in range(3):
        alone, expected = single(INIT(keys[i]), keys[i], rates[i], betas[i], X)
        assert _largest_difference(_run_of(swept, i), alone) < 1e-5
        np.testing.assert_allclose(metrics["bound"][i], expected["bound"], rtol=1e-5)
        # Control: another hyperparameter gives another run.
        assert (
            _largest_difference(_run_of(swept.params, i), single(INIT(keys[i]), keys[i], 0.03, 1.0, X)[0].params) > 1e-3
        )
    # These are the numbers that the step of this file closes over.
    assert _largest_difference(_run_of(swept, 0), EPOCH(INIT(keys[0]), keys[0], X)[0]) < 1e-5


class _Record(NamedTuple):
    """A state that notes which step saw which image, and with which key."""

    step: jax.Array
    seen_at: jax.Array  # [N]: 1 + the step that used the image last
    count: jax.Array  # [N]
    keys: jax.Array  # [steps, 2]
    params: dict


def _record(state, key, x):
    at = state.step % len(state.keys)
    state = _Record(
        state.step + 1,
        state.seen_at.at[x].set(state.step + 1),
        state.count.at[x].add(1),
        state.keys.at[at].set(jax.random.key_data(key)),
        state.params,
    )
    return state, {"bound": jnp.zeros(())}


@functools.partial(jax.jit, static_argnames="images")
def _epoch_of_records(key, step=0, offset=0, images=103):
    """An epoch from `step` on over the numbers from `offset` on, ten at a time."""
    zero = jnp.zeros(images, jnp.int32)
    state = _Record(jnp.int32(step), zero, zero, jnp.zeros((images // 10, 2), jnp.uint32), {})
    shifted = lambda state, key, x: _record(state, key, x - offset)
    return train.make_epoch(shifted, 10)(state, key, jnp.arange(images) + offset)[0]


def test_an_epoch_uses_every_image_once():
    key = jax.random.key(3)
    epochs = [jax.device_get(_epoch_of_records(key, step)) for step in (0, 10, 20)]
    for i, record in enumerate(epochs):
        assert record.step == 10 * (i + 1)
        assert sorted(record.count) == [0] * 3 + [1] * 100  # 103 modulo 10 are left out
    assert _epoch_of_records(key, images=50).count.tolist() == [1] * 50
    # Another order in every epoch and in every run, and others left out.
    others = [epochs[1], epochs[2], jax.device_get(_epoch_of_records(jax.random.key(4), 0))]
    for other in others:
        same = np.mean(epochs[0].seen_at % 10 == other.seen_at % 10)
        assert same < 0.3  # one in ten by chance
    assert len({tuple(np.flatnonzero(record.count == 0)) for record in [epochs[0], *others]}) == 4
    # Neighbours in the data are not neighbours in the order.
    assert np.mean(np.diff(epochs[0].seen_at) == 0) < 0.3


def test_all_steps_of_an_epoch_are_in_one_order():
    order, key = jax.jit(train.make_order(103, 10)), jax.random.key(3)
    for step, epoch in ((3, 0), (9, 0), (10, 10), (17, 10)):
        np.testing.assert_array_equal(order(key, step), order(key, epoch))
    assert np.any(order(key, 0) != order(key, 10))


def test_order_and_keys_are_functions_of_key_and_step_alone():
    key = jax.random.key(5)
    first, shifted = _epoch_of_records(key, 0, 0), _epoch_of_records(key, 0, 1000)
    assert _bytes(first) == _bytes(shifted)  # whatever the images hold
    second = _epoch_of_records(key, 10, 0)
    keys = np.concatenate([first.keys, second.keys])
    assert len(np.unique(keys, axis=0)) == 20  # no key is used twice
    assert not np.any(np.all(keys == jax.random.key_data(key), axis=1))
    # The key of a step does not draw the order of an epoch too.
    drawn = jax.vmap(lambda key: jax.random.permutation(jax.random.wrap_key_data(key), 103))(keys)
    assert not np.any(np.all(drawn[:, :100] == train.make_order(103, 10)(key, jnp.int32(0)).ravel(), axis=1))
    # The keys of the steps do not depend on how many images there are.
    np.testing.assert_array_equal(_epoch_of_records(key, images=50).keys, first.keys[:5])


def test_a_run_that_fails_stays_at_its_last_good_epoch_and_the_others_go_on():
    key, key_init = jax.random.key(6), jax.random.key(7)

    def epoch(state, poison_at):
        poisoned = lambda state, key, x: STEP(state, key, jnp.where(state.step == poison_at, jnp.nan, x))
        return train.make_epoch(poisoned, BATCH)(state, key, X)

    epoch, never = jax.jit(jax.vmap(epoch)), 1000
    start = _stack([INIT(key_init)] * 4)
    poison_at = jnp.array([never, 0, 3, 6])
    first, metrics = epoch(start, poison_at)
    np.testing.assert_array_equal(metrics["failed_step"], [0, 1, 4, 0])  # the number of a step is one more than `step`
    np.testing.assert_array_equal(first.step, [4, 0, 0, 4])
    second, metrics = epoch(first, poison_at)
    np.testing.assert_array_equal(metrics["failed_step"], [0, 1, 4, 7])
    np.testing.assert_array_equal(second.step, [8, 0, 0, 4])
    assert [np.isfinite(bound) for bound in metrics["bound"]] == [True, False, False, False]
    # Bit for bit, the optimizer and the estimator too.
    for i in (1, 2):
        assert _bytes(_run_of(first, i)) == _bytes(_run_of(second, i)) == _bytes(_run_of(start, i))
    assert _bytes(_run_of(first, 3)) == _bytes(_run_of(second, 3)) == _bytes(_run_of(first, 0))
    # The run beside them is the run alone.
    state = INIT(key_init)
    for _ in range(2):
        state, alone = EPOCH(state, key, X)
    assert int(alone["failed_step"]) == 0
    assert _largest_difference(_run_of(second, 0), state) < 1e-5
    assert _largest_difference(_run_of(second, 0).params, _run_of(start, 0).params) > 0.01  # control: it went on


def test_the_metrics_of_an_epoch_are_means_over_its_steps():
    start, end = (train.TrainState({}, (), (), jnp.int32(step)) for step in (4, 7))
    _, metrics = train.finish_epoch(start, end, {"bound": jnp.float32([-4.0, -3.0, -2.6])})
    assert (metrics["bound"], metrics["failed_step"]) == (pytest.approx(-3.2), 0)


def test_parameters_that_overflow_are_a_failure():
    """Bound and gradient of the epoch's only step are finite here; the parameters made of them are not."""
    tx = optax.chain(optax.sgd(1e38), optax.scale(1e6))
    state = INIT(jax.random.key(8))
    state = state._replace(opt_state=tx.init(state.params))
    step = train.make_step(MODEL.apply, BOUND, BY_NAME["reparam"].make(), tx)
    new, metrics = jax.jit(train.make_epoch(step, len(X)))(state, jax.random.key(9), X)
    assert np.isfinite(metrics["bound"])
    assert int(metrics["failed_step"]) == 1
    assert _bytes(new) == _bytes(state)


def test_all_finite():
    tree = {"a": jnp.ones(3), "b": [jnp.zeros((2, 2))]}
    assert train.all_finite(tree)
    assert train.all_finite({})
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not train.all_finite({**tree, "c": jnp.array([1.0, bad])})
    assert not train.all_finite({"a": jnp.array([jnp.inf]), "b": jnp.array([-jnp.inf])})


@pytest.mark.parametrize("name", ["reparam", "nvil", "reinforce_ema", "vimco", "relax", "rodeo"])
def test_training_stays_in_float32_where_float64_is_on(name):
    """And what an estimator learns and counts keeps its type, as a scan requires. test_tools.py has all estimators."""
    entry = BY_NAME[name]
    objective = objectives.elbo if "mean" in entry.reductions else objectives.iwae
    estimator = entry.make(num_samples=max(2, entry.min_samples))
    model = models.make_vae((8, 8, 1), 2, (5,), posterior=family_of(entry), likelihood="gaussian", prior="learned")
    with jax.enable_x64(True):
        init = train.make_init(model, estimator, TX, X[:BATCH])
        epoch = train.make_epoch(train.make_step(model.apply, objective, estimator, TX), BATCH)
        before = jax.eval_shape(init, jax.random.key(0))
        after, metrics = jax.eval_shape(epoch, before, jax.random.key(0), X)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, before)
    numbers = jax.tree.leaves((after, metrics["bound"], metrics["cv_loss"]))
    assert {leaf.dtype for leaf in numbers} <= {jnp.dtype("float32"), jnp.dtype("int32")}


def test_metrics_are_the_values_and_not_the_surrogate():
    """The bound that a step reports is that of the parameters before it, and the score function's surrogate no part."""
    init, step, _ = _setup(objectives.elbo, "nvil")
    state, key = init(jax.random.key(10)), jax.random.key(11)
    new, metrics = jax.jit(step)(state, key, X[:BATCH])

    def expect(q, f, reduce, log_q_weight):
        return Estimate(reduce(integrand(f, q, log_q_weight)(q.sample(key, 1))), 0.0, {})

    bound = jax.jit(lambda params: objectives.elbo(MODEL.apply, params, X[:BATCH], expect).value)(state.params["model"])
    np.testing.assert_allclose(metrics["bound"], jnp.mean(bound), rtol=1e-5)
    assert float(metrics["cv_loss"]) > 0
    # One update moves the model, what the estimator learns, and what it counts.
    assert all(_largest_difference(new.params[part], state.params[part]) > 0 for part in ("model", "estimator"))
    assert int(new.estimator_state["count"]) == 1
    # What the estimator learns descends its own loss.
    learned = state._replace(params=state.params | {"estimator": new.params["estimator"]})
    assert jax.jit(step)(learned, key, X[:BATCH])[1]["cv_loss"] < metrics["cv_loss"]


def test_training_on_digits_reaches_a_definite_bound():
    pytest.importorskip("sklearn")  # a machine that only checks its GPU may lack scikit-learn
    digits = load("digits")
    x = jnp.asarray(pixels(digits.train, digits.levels))
    model = models.make_vae((8, 8, 1), latent_dim=8, hidden=(64,))
    init, _, epoch = _setup(model=model, x=x, tx=optax.adam(3e-3), batch_size=100)
    state = init(jax.random.key(12))
    bounds = []
    for _ in range(15):
        state, metrics = epoch(state, jax.random.key(13), x)
        bounds.append(float(metrics["bound"]))
    assert bounds[0] < -30  # 64 fair coins are 44.4 nats
    assert bounds[-1] > -26
    # Control: the best model without latents, one coin a pixel, is worse.
    p = np.asarray(x).mean(axis=0).clip(1e-6, 1 - 1e-6)
    without = np.mean(np.sum(x * np.log(p) + (1 - x) * np.log1p(-p), axis=(1, 2, 3)))
    assert bounds[-1] > without + 1
    assert int(metrics["failed_step"]) == 0


def test_a_linear_vae_reaches_the_optimum_of_probabilistic_pca():
    rng = np.random.default_rng(0)
    mixing, noise = rng.normal(size=(5, 2)) * [2.0, 1.0], 0.4 * rng.normal(size=(500, 5))
    x = jnp.asarray(rng.normal(size=(500, 2)) @ mixing.T + 1.0 + noise, jnp.float32)
    model, tx = linear_gaussian.make(5, 2), optax.adam(optax.cosine_decay_schedule(0.03, 1500))
    init, step, _ = _setup(objectives.elbo, "stl", tx, model, x, 100)
    train_all = jax.jit(
        lambda state, key: jax.lax.scan(lambda s, _: train.make_epoch(step, 100)(s, key, x), state, length=300)
    )
    state, _ = train_all(init(jax.random.key(14)), jax.random.key(15))
    params = state.params["model"]
    best = linear_gaussian.optimum(x, 2)
    reached, likelihood = (f(params, x).mean() for f in (linear_gaussian.elbo, linear_gaussian.log_marginal))
    assert reached <= likelihood + 1e-5 <= best + 2e-5
    assert reached > best - 0.01 * abs(best), (reached, likelihood, best)
    # Control: one latent less is out of reach of one per cent.
    assert linear_gaussian.optimum(x, 1) < best - 0.05 * abs(best)


@pytest.mark.parametrize("learning_rate", [0.03, optax.cosine_decay_schedule(0.03, 50)])
def test_adam_is_that_of_optax(learning_rate):
    def minimise(tx):
        """Parameters and states after each of 60 steps, from gradients that differ in size by 10^5."""
        params = {"w": jnp.float32([1.0, -2.0, 0.0]), "b": jnp.float32(3.0)}
        loss = lambda params: jnp.sum(jnp.float32([1e-4, 1.0, 10.0]) * params["w"] ** 2) + jnp.sin(params["b"])

        def update(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            carry = optax.apply_updates(params, updates), state
            return carry, carry

        return jax.lax.scan(update, (params, tx.init(params)), length=60)[1]

    optimizers = (
        train.adam(learning_rate),
        optax.adam(learning_rate),
        train.adam(learning_rate, weight_decay=0.5),
        optax.adamw(learning_rate, weight_decay=0.5),
        optax.adam(learning_rate, eps=1e-4),
    )
    ours, theirs, decayed, decayed_theirs, control = jax.device_get(jax.jit(lambda: [*map(minimise, optimizers)])())
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)  # checkpoints of one are those of the other
    compare = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    jax.tree.map(compare, ours, theirs)
    jax.tree.map(compare, decayed, decayed_theirs)
    with pytest.raises(AssertionError):
        jax.tree.map(compare, ours, control)


def test_an_objective_that_returns_no_estimate_of_each_datum_is_refused():
    model, tx = linear_gaussian.make(5, 2), optax.adam(1e-3)
    x, estimator = np.zeros((3, 1, 5, 1), np.float32), BY_NAME["reparam"].make()
    state = train.make_init(model, estimator, tx, x)(jax.random.key(0))

    def step(change):
        objective = lambda *arguments: change(objectives.elbo(*arguments))
        return train.make_step(model.apply, objective, estimator, tx)(state, jax.random.key(1), x)

    with pytest.raises(TypeError, match=r"must return a vae.estimators.Estimate, got \w*Tracer"):
        step(lambda estimate: estimate.value)
    for change, shape in ((lambda v: v[:, None] + v, r"\[3, 3\]"), (jnp.mean, r"\[\]")):
        with pytest.raises(ValueError, match=rf"must have the shape \[B\], got {shape}"):
            step(lambda estimate, change=change: estimate._replace(value=change(estimate.value)))


@pytest.mark.parametrize("factory", [objectives.elbo_analytic, objectives.renyi])
def test_a_factory_of_objectives_is_no_objective(factory):
    sentence = f"{factory.__name__} is a factory of objectives; pass what it returns, such as {factory.__name__}()"
    with pytest.raises(TypeError, match=re.escape(sentence)):
        train.make_step(None, factory, BY_NAME["reparam"].make(), optax.adam(1e-3))


def test_an_unknown_mode_and_an_empty_batch_are_refused():
    with pytest.raises(ValueError, match="there is no mode 'pmap'; choose vmap or map"):
        train.over_runs(STEP, "pmap")
    for batch_size in (0, -2):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
            train.make_order(10, batch_size)
