"""The evaluation of the runs of a program between epochs."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.common import assess
from experiments.common.program_state import Progress, update_best
from experiments.train.gradients import finite
from experiments.train.sweep import Program
from vae.devices import mesh


def make_evaluation(program: Program, devices: Mesh, values: dict[str, jax.Array]) -> Callable:
    """Returns `evaluation(epoch, progress, metrics, alive, measured) -> (rows, progress)`.

    The rows of metrics.jsonl are those of the runs `alive` after the epoch. With `measured`, they have the figures of
    --measure_gradient. The progress has the best states of the runs so far.

    Args:
      values: The array-valued settings of all runs.
    """
    split = assess.curve_split(program.data)
    x = mesh.everywhere(devices, assess.pixels(program.data, split))
    better = jax.jit(update_best, donate_argnums=0)

    def evaluation(epoch: int, progress: Progress, metrics: dict[str, np.ndarray], alive: np.ndarray, measured: bool):
        evaluated, state = program.functions.evaluated, progress.state
        figures = assess.bound(evaluated, devices, state.params["model"], x)
        if state.ema:
            averaged = assess.bound(evaluated, devices, state.ema, x)
            figures = list(map(assess.with_average, figures, averaged))
        if progress.best:
            bounds = np.full(len(figures), -np.inf, np.float32)
            bounds[alive] = [figures[i]["elbo_nats"] for i in alive]
            best = better(progress.best, progress.state, mesh.over_runs_of(devices, bounds))
            progress = progress._replace(best=best)
        step = epoch * program.functions.steps_per_epoch
        shared = {"epoch": epoch, "step": step, "examples": step * program.settings.batch_size, "split": split}
        bound = metrics["bound"]
        rows = [{"run": i, **shared, "bound_nats": bound[i].item(), **figures[i]} for i in alive.tolist()]
        if hasattr(state.estimator_state, "figures"):  # of an estimator that chooses among others
            figures = mesh.fetch(devices, state.estimator_state.figures())
            rows = [row | finite({name: column[row["run"]].item() for name, column in figures.items()}) for row in rows]
        if measured:
            rows = program.measurement.add(rows, state, values, devices)
        return rows, progress

    return evaluation
