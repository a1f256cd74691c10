"""The gradient along training: what --measure_gradient adds to the rows of metrics.jsonl.

At some evaluations, the gradient of the run's bound is drawn `--measure_draws` times by each estimator, at the run's
present parameters and on one fixed batch, the first `--batch_size` training images. The true gradient is the sum over
all states of discrete latents, if there are few. Otherwise it is the mean of as many gradients of a reference:
`reparam`, or `leave_one_out` where that does not fit.

The keys of the draws depend on the step alone, so a resumed run measures the same numbers, and training draws nothing
from them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from experiments.common import assess, build, measuring, setting_flags, settings
from experiments.common.charts.along_training import Column
from experiments.common.problems import Start
from experiments.common.settings import Settings
from vae import diagnostics, estimators, train
from vae.data import Dataset
from vae.devices import mesh
from vae.diagnostics import expectations
from vae.diagnostics.expectations import Expectation
from vae.estimators import Estimator
from vae.models import VAE
from vae.train import TrainState

# The number of chunks of draws, from whose spread the standard error of the bias comes.
CHUNKS = 10
SEED = 1979
FIGURES = ("variance", "snr", "bias", "bias_stderr")

Rows = list[dict[str, Any]]


class Measurement(NamedTuple):
    """The measurement of the gradients of a program's runs.

    Attributes:
      figures: `figures(state, values, x)` of one run: {name of the column: number}.
      x: The images, `[B, H, W, C]`.
      draws: The number of gradients of each estimator.
    """

    figures: Callable[[TrainState, dict[str, jax.Array], jax.Array], dict[str, jax.Array]]
    x: jax.Array
    draws: int

    def add(self, rows: Rows, state: TrainState, values: dict[str, jax.Array], devices: Mesh) -> Rows:
        """The rows of an evaluation with the figures of the gradient and the number of draws, which may be another one
        when a run is continued. Figures that are not finite are left out.

        Args:
          rows: Rows of metrics.jsonl, each with its "run".
          state: The states of all runs of the program.
          values: The array-valued settings of all runs.
          devices: The devices of the program.
        """
        runs = (state._replace(opt_state=None, ema=None), values)
        moments = 4 * CHUNKS * sum(leaf.nbytes for leaf in jax.tree.leaves(state.params["model"])) / len(state.step)
        # On a CPU, two runs side by side take as long as one after the other.
        run_bytes = math.inf if jax.default_backend() == "cpu" else moments
        figures: Rows = []
        for _, part in assess.parts(devices, runs, run_bytes):
            compute = _program(self.figures, devices, assess.mode_of(devices, part))
            columns = mesh.fetch(devices, compute(*part, mesh.everywhere(devices, self.x)))
            figures += [{name: column[i].item() for name, column in columns.items()} for i in range(len(part[0].step))]
        return [row | {"measure_draws": self.draws} | finite(figures[row["run"]]) for row in rows]


@functools.lru_cache(maxsize=4)
def _program(figures: Callable, devices: Mesh, mode: str) -> Callable:
    return jax.jit(train.over_runs(figures, mode, shared=1, over=devices))


def plan(run: Settings, data: Dataset, functions: build.Functions, others: Sequence[str], draws: int) -> Measurement:
    """The measurement of the program of `run`.

    Args:
      run: The settings of any run of the program.
      data: The data set of the program.
      functions: The functions of the program.
      others: Estimators to measure beside the run's own, as --estimator spells them.
      draws: The number of gradients of each estimator.

    Raises:
      ValueError: If an estimator does not fit, or if the number of draws does not.
    """
    if draws % CHUNKS or draws < 2 * CHUNKS:
        raise ValueError(f"--measure_draws={draws} must be a multiple of {CHUNKS}, and at least {2 * CHUNKS}")
    x = build.first_batch(run, data, "train", run.batch_size)
    recorded = build.expectations_of(run, functions.model, x)
    try:
        name, num_samples = diagnostics.choose_reference(recorded, run.num_samples)
    except ValueError as error:
        hint = "or leave out --measure_gradient"
        raise ValueError(f"--measure_gradient with --estimator={run.estimator}: {error}; {hint}") from None
    reference = estimators.make(name, num_samples=num_samples)
    measured = {run.estimator: settings.build(run, "estimator", num_samples=run.num_samples)}
    for other in others:
        measured.setdefault(other, _other(run, other, functions.model, x, recorded))

    def figures(state: TrainState, values: dict[str, jax.Array], x: jax.Array) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(SEED, impl="threefry2x32"), state.step)
        key_draws, key_reference, key_start = jax.random.split(key, 3)
        groups = state.params["model"]["params"]
        objective = build.objective(run, values, state.step / functions.steps_per_epoch)
        bound = lambda groups, x, expect: objective(functions.model.apply, {"params": groups}, x, expect)

        def moments(estimator: Estimator, start: Start, key: jax.Array) -> diagnostics.Moments:
            gradient = diagnostics.make_gradient(bound, estimator)
            return diagnostics.gradient_moments(lambda key: gradient(key, groups, x, *start, x), key, draws, CHUNKS)

        start_new = lambda estimator: _start(bound, estimator, key_start, groups, x, draws)
        if name == "exact":
            truth = diagnostics.exactly(diagnostics.make_gradient(bound, reference)(None, groups, x))
        else:
            truth = diagnostics.reference(moments(reference, start_new(reference), key_reference))
        columns = {}
        for label, estimator in measured.items():
            own = Start(state.params["estimator"], state.estimator_state)
            start = own if label == run.estimator else start_new(estimator)
            report = diagnostics.report(moments(estimator, start, key_draws), truth)
            for group in groups:
                part = report[group]
                part = part | {"bias": part["scale"] - 1, "bias_stderr": part["scale_stderr"]}
                columns |= {Column(label, group, figure).name: part[figure] for figure in FIGURES}
        return columns

    return Measurement(figures, x, draws)


def _start(bound: Callable, estimator: Estimator, key: jax.Array, groups: Any, x: jax.Array, steps: int) -> Start:
    """The parameters and the state of an estimator that does not train the run, after `steps` steps of Adam."""
    key_init, key_steps = jax.random.split(key)
    q = expectations.record(lambda expect: bound(groups, x, expect))[0].q
    start = Start(*estimator.init(key_init, q, x))
    if not jax.tree.leaves(start):
        return start
    return measuring.minimise_cv_loss(bound, estimator, start, key_steps, groups, x, x, steps=steps)


def _other(run: Settings, text: str, model: VAE, x: jax.Array, recorded: list[Expectation]) -> Estimator:
    """The estimator that --measure_estimators gives as `text`.

    Raises:
      ValueError: If it does not fit the run's bound.
    """
    other = setting_flags.with_estimator(run, text)
    try:
        settings.check(other)
        build.check_estimator(other, model, x)
    except ValueError as error:
        raise ValueError(str(error).replace("--estimator=", "--measure_estimators=")) from None
    if other.num_samples != run.num_samples and not all(expectation.reduce.additive for expectation in recorded):
        raise ValueError(
            f"--measure_estimators={text}: --objective={run.objective} is a different bound for K={other.num_samples}"
        )
    return settings.build(other, "estimator", num_samples=other.num_samples)


def finite(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures that are finite numbers."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
