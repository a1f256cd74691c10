"""The benchmark counts the FLOP of the programs that it times. The times themselves are not tested."""

import json
import math

import jax
import jax.numpy as jnp
import optax
import pytest
from absl import flags
from jax.extend.core import jaxprs_in_params

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import commands, epoch, evaluation, sweep
from experiments.common import setting_flags
from experiments.train import __main__ as training
from tests.helpers.report_pages import run_command
from vae import estimators, evaluate, train


@pytest.mark.parametrize("network", sweep.networks((128,)), ids=lambda network: network.name)
def test_the_stated_flop_of_a_step_are_those_of_the_matrix_products_in_its_program(network):
    batch_size = network.batch_sizes[0]
    estimator = estimators.BY_NAME["reparam"].make(num_samples=network.num_samples)
    init = train.make_init(network.model, estimator, optax.adam(1e-3), jnp.zeros((batch_size, *network.shape)))
    state = jax.eval_shape(init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((batch_size, *network.shape), jnp.float32)
    step = train.make_step(network.model.apply, network.objective, estimator, optax.adam(1e-3))
    program = jax.make_jaxpr(step)(state, jax.random.key(0), x)
    assert network.flop(batch_size) == _products(program.jaxpr)
    if network.name == "MNIST":
        assert epoch.flop_of_step(batch_size) == network.flop(batch_size)


@pytest.mark.parametrize("network", sweep.networks((128,)), ids=lambda network: network.name)
def test_the_stated_flop_of_an_evaluation_encode_each_image_once(network):
    x = jax.ShapeDtypeStruct((6, *network.shape), jnp.float32)
    params = jax.eval_shape(network.model.init, jax.random.key(0), x, jax.random.key(0))
    bound = lambda params, x: evaluate.log_likelihood(network.model.apply, params, x, jax.random.key(0), 8, 3, 2)
    program = jax.make_jaxpr(bound)(params, x)  # two batches of images, and four chunks of samples
    assert evaluation.flop(network, num_images=6, num_samples=8) == _products(program.jaxpr)


def _products(jaxpr):
    """The FLOP of all matrix products in a jaxpr, where a loop counts as often as it runs."""
    flop = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), left = equation.params["dimension_numbers"], equation.invars[0].aval.shape
            flop += 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        flop += repeats * sum(map(_products, jaxprs_in_params(equation.params)))
    return flop


@pytest.mark.parametrize(
    "command", [one for one in commands.commands([1, 8]) if not one.reads_previous], ids=lambda command: command.name
)
def test_the_timed_commands_train_as_many_runs_as_their_names_say(command):
    values = flags.FlagValues()
    training.define_flags(values)
    values(["train", *command.flags])
    runs = setting_flags.from_flags(values)
    estimators = {run.estimator for run in runs}
    words = {1: "one run", 3: "three seeds", 6: "six estimators"}
    counts = [f"{len(runs)} run", words.get(len(runs), ""), words.get(len(estimators), "")]
    assert any(count and count in command.name for count in counts)
    assert len({run.epochs for run in runs}) == 1
    assert f"{runs[0].epochs} epochs" in command.name


def test_only_training_counts_as_training(tmp_path):
    for name, seconds in (("a", (1.0, 3.0)), ("b", (2.0, 2.5))):
        folder = tmp_path / "programs" / name
        folder.mkdir(parents=True)
        (folder / "runs.json").write_text("{}")
        rows = [{"epoch": epoch, "step": epoch, "train_seconds": took} for epoch, took in enumerate(seconds, 1)]
        (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert commands.training_seconds(tmp_path) == 5.5


def test_a_file_of_the_benchmark_replaces_a_link(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.SECTIONS, "epoch", lambda options: ({"runs": 1}, "a table"))
    (tmp_path / "precious").write_text("mine")
    for name in ("benchmark.json", "benchmark.md"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    run_command(benchmark, "--sections=epoch", f"--output={tmp_path}")
    assert (tmp_path / "precious").read_text() == "mine"
    assert json.loads((tmp_path / "benchmark.json").read_text())["epoch"] == {"runs": 1}
