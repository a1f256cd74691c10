"""Eight devices give the same numbers as one device, and checkpoints move between them.

tests/conftest.py makes the eight devices.
"""

import csv
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import entry_points
from tests.helpers.written_workdirs import forget_results
from vae import checkpoint, models, objectives, train
from vae.devices import mesh
from vae.estimators import BY_NAME

MODEL = models.make_vae((8, 8, 1), latent_dim=4, hidden=(16,), activation="tanh")
X = np.asarray(jax.random.bernoulli(jax.random.key(100), 0.3, (100, 8, 8, 1)), np.uint8)  # 4 steps of 24, 4 left out
RUNS, BATCH = 4, 24


@pytest.mark.parametrize(
    ("runs", "batch_size", "number", "shape"),
    [
        (1, 64, 1, (1, 1)),
        (1, 64, 8, (1, 8)),
        (8, 64, 8, (8, 1)),
        (32, 64, 8, (8, 1)),
        (2, 64, 8, (2, 4)),
        (3, 64, 8, (3, 2)),
        (6, 64, 8, (6, 1)),
        (9, 63, 8, (3, 1)),
        (1, 63, 8, (1, 7)),
        (11, 61, 8, (1, 1)),
    ],
)
def test_devices_are_shared_out_to_runs_first_then_to_batches_and_the_rest_are_idle(runs, batch_size, number, shape):
    made = mesh.make(runs, batch_size, jax.devices()[:number])
    assert dict(made.shape) == dict(zip(("run", "data"), shape, strict=True))


@pytest.mark.parametrize(
    ("runs", "batch_size", "shape", "used"),
    [
        (6, 1, (6, 1), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        (3, 2, (3, 2), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        (3, 1, (3, 1), [(1, 0), (1, 1), (1, 2)]),  # three devices are no equal number of each process
    ],
)
def test_processes_contribute_equally_many_devices_or_work_alone(runs, batch_size, shape, used, monkeypatch):
    devices = [Mock(jax.Device, process_index=process, id=number) for process in (0, 1) for number in range(4)]
    make_mesh = Mock(return_value=mesh.make(1, 1, jax.devices()[:1]))
    monkeypatch.setattr(jax, "local_devices", lambda: devices[4:])
    monkeypatch.setattr(jax, "make_mesh", make_mesh)
    mesh.make(runs, batch_size, devices)
    made = make_mesh.call_args
    assert made.args[0] == shape
    assert [(device.process_index, device.id) for device in made.kwargs["devices"]] == used


def test_a_line_describes_what_each_device_does():
    assert mesh.describe(mesh.make(16, 64), 16, 64) == "8 devices, on each: 2 of 16 runs"
    assert mesh.describe(mesh.make(2, 64), 2, 64) == "8 devices, on each: 1 of 2 runs, 16 of 64 images of each batch"
    assert "; 2 idle, because" in mesh.describe(mesh.make(3, 64), 3, 64)


@pytest.mark.parametrize(("devices", "number"), [(1, 1), (1, 3), (2, 2), (8, 8)])
def test_some_runs_are_spread_over_the_devices_of_all_runs(devices, number):
    over = mesh.make(16, 1, jax.devices()[:devices])
    tree = {"a": np.arange(16), "b": np.arange(16 * 6.0).reshape(16, 2, 3)}
    placed = mesh.over_runs_of(over, tree)
    mesh._slice.cache_clear()  # other tests in this process may have compiled slices of other arrays
    for first in (0, 16 - number, 16 // number // 2 * number):
        some = mesh.some_runs(over, placed, first, number)
        for name, leaf in some.items():
            np.testing.assert_array_equal(leaf, tree[name][first : first + number])
            assert leaf.sharding.is_equivalent_to(placed[name].sharding, leaf.ndim)
            assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {number // devices}
    assert mesh._slice(over, number)._cache_size() == 1  # one compiled program for every first run


def _train(over, mode):
    """Trains four runs for two epochs. Returns the result and the text of the compiled program.

    The estimator is NVIL because it has a network, a moving average and means over the batch. The optimizer is SGD
    because Adam would turn the rounding error of a gradient near zero into a whole step.
    """
    estimator, tx = BY_NAME["nvil"].make(num_samples=2), optax.sgd(0.02)
    init = train.make_init(MODEL, estimator, tx, jnp.zeros((BATCH, 8, 8, 1)))
    update = train.make_step(MODEL.apply, objectives.elbo, estimator, tx)
    one = train.make_epoch(lambda state, key, x: update(state, key, x.astype(jnp.float32)), BATCH)
    of_seed = lambda state, seed, data: one(state, jax.random.fold_in(jax.random.key(7), seed), data)
    seeds, data = mesh.over_runs_of(over, np.arange(RUNS)), mesh.everywhere(over, X)
    state = jax.jit(train.over_runs(lambda seed: init(jax.random.key(seed)), "map", over=over))(seeds)
    epoch = jax.jit(train.over_runs(of_seed, mode, shared=1, over=over), donate_argnums=0)
    epoch = epoch.lower(state, seeds, data).compile()
    for _ in range(2):
        state, metrics = epoch(state, seeds, data)
    return (state, metrics), epoch.as_text()


@pytest.fixture(scope="module")
def on_one():
    over = mesh.make(RUNS, BATCH, jax.devices()[:1])
    return mesh.fetch(over, _train(over, "map")[0])


@pytest.mark.parametrize(("devices", "mode"), [(4, "map"), (8, "vmap")])
def test_the_numbers_are_those_of_one_device(devices, mode, on_one):
    over = mesh.make(RUNS, BATCH, jax.devices()[:devices])
    sharded, text = _train(over, mode)
    kernel = jax.tree.leaves(sharded[0].params)[0]
    assert len(kernel.addressable_shards) == devices
    assert kernel.addressable_shards[0].data.shape[0] == 1
    for ours, theirs in zip(*map(jax.tree.leaves, (mesh.fetch(over, sharded), on_one)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    # Control: the runs have different numbers.
    assert np.abs(np.asarray(kernel)[2] - np.asarray(kernel)[1]).max() > 0.01
    # Runs exchange nothing, and the parts of a batch exchange only sums.
    exchanges = [name for name in ("all-reduce", "all-gather", "all-to-all", "permute") if f"{name}(" in text]
    assert exchanges == ([] if devices == 4 else ["all-reduce"])


# The train command


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _same(ours, theirs):
    for a, b in zip(_rows(ours), _rows(theirs), strict=True):
        assert a == {name: pytest.approx(v, rel=1e-4) if isinstance(v, float) else v for name, v in b.items()}


FOUR_EPOCHS = ["--epochs=4", "--checkpoint_every=1"]


def _cut(folder, copy):
    """Makes a copy of a finished run that looks as if it was killed in its last epoch. Returns flags to continue it."""
    shutil.copytree(folder, copy)
    forget_results(copy)
    checkpoint.drop_after(copy / "checkpoints", 3)
    assert checkpoint.steps(copy / "checkpoints") == [3]
    return [f"--workdir={copy}", *FOUR_EPOCHS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four epochs on one device, and its cut copy, which continued on eight devices."""
    folder = tmp_path_factory.mktemp("trained")
    outcomes = entry_points.train(folder / "a", [f"--workdir={folder}/one", *FOUR_EPOCHS])
    outcomes += entry_points.train(folder / "b", _cut(folder / "one", folder / "moved"), devices=8)
    return folder, outcomes


def test_a_checkpoint_moves_from_one_device_to_eight(trained):
    folder, outcomes = trained
    assert [outcome.code for outcome in outcomes] == [0, 0], [outcome.err for outcome in outcomes]
    assert "devices" not in outcomes[0].out
    assert "8 devices, on each: 1 of 1 run, 8 of 64 images of each batch\n" in outcomes[1].out
    _same(folder / "moved", folder / "one")


@pytest.mark.slow
def test_a_run_and_a_sweep_on_eight_devices_equal_those_on_one_device(trained, tmp_path):
    folder, _ = trained
    eight, sweep = tmp_path / "eight", ["--seed=0,1", "--batch_size=100"]
    outcomes = entry_points.train(
        tmp_path / "a", [f"--workdir={eight}", *FOUR_EPOCHS], [f"--workdir={tmp_path}/sweep8", *sweep], devices=8
    )
    outcomes += entry_points.train(
        tmp_path / "b", _cut(eight, tmp_path / "moved"), [f"--workdir={tmp_path}/sweep1", *sweep]
    )
    assert [outcome.code for outcome in outcomes] == [0] * 4, [outcome.err for outcome in outcomes]
    assert "8 devices, on each: 1 of 2 runs, 25 of 100 images of each batch\n" in outcomes[1].out
    _same(eight, folder / "one")
    _same(tmp_path / "moved", folder / "one")
    tables = [csv.DictReader((tmp_path / f"sweep{n}/results.csv").read_text().splitlines()) for n in (1, 8)]
    for ours, theirs in zip(*tables, strict=True):
        assert float(ours["test_nll_nats"]) == pytest.approx(float(theirs["test_nll_nats"]), rel=1e-4)


def test_memory_says_what_a_program_needs_and_what_is_free(monkeypatch):
    over = mesh.make(1, 1, jax.devices()[:1])
    compiled = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x)).lower(jnp.zeros((500, 500))).compile()
    needed, free = mesh.memory(over, compiled)
    assert 1e6 <= needed <= 1e7  # the result alone takes 1 MB
    assert free > 1e7
    assert mesh.memory(mesh.make(8, 1), compiled)[1] == pytest.approx(free / 8, rel=0.2)
    in_place = jax.jit(lambda x: x + 1, donate_argnums=0).lower(jnp.zeros(10**6)).compile()
    assert mesh.memory(over, in_place)[0] == pytest.approx(4e6, rel=0.01)  # the result has the memory of the argument
    accelerator = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 100, "bytes_in_use": 30})
    with monkeypatch.context() as patch:
        patch.setitem(vars(over), "local_devices", [accelerator])
        assert mesh.memory(over, compiled) == (needed, 70)
    monkeypatch.setattr(type(compiled), "memory_analysis", lambda self: None)
    assert mesh.memory(over, compiled)[0] == 0


# Runs the command while `mesh.memory` reports FREE bytes as free.
TIGHT = """
import sys
from absl import flags
from experiments.common import cli
from experiments.train import __main__ as train
from vae.devices import mesh
measure = mesh.memory
mesh.memory = lambda over, compiled: (measure(over, compiled)[0], FREE)
sys.argv = ["train", *ARGUMENTS]
train.define_flags(flags.FLAGS)
cli.run(train.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("streaming", ["off", "on"])
def test_runs_that_do_not_fit_together_are_trained_in_groups(streaming, tmp_path):
    arguments = [*entry_points.SMALL, "--figures=none", "--seed=0,1,2,3", "--sweep_mode=vmap", "--hidden=64"]
    arguments.append(f"--streaming={streaming}")

    def train_with(free, name):
        code = TIGHT.replace("FREE", str(free)).replace("ARGUMENTS", repr([*arguments, f"--workdir={tmp_path}/{name}"]))
        done = subprocess.run([sys.executable, "-c", code], cwd=entry_points.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "two halves" not in train_with(1e12, "wide")
    assert train_with(0, "tight").count("they train in two halves") == 3  # down to single runs
    tables = [
        list(csv.DictReader((tmp_path / name / "results.csv").read_text().splitlines())) for name in ("wide", "tight")
    ]
    assert len(tables[0]) == 4
    for ours, theirs in zip(*tables, strict=True):
        assert float(ours["test_nll_nats"]) == pytest.approx(float(theirs["test_nll_nats"]), rel=1e-4)
