"""The evaluation of a finished run, from one of its checkpoints."""

import contextlib
import dataclasses
from typing import Any

import jax

from experiments.common import assess, build, cli, provenance, results
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from vae import checkpoint
from vae.data import Dataset


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the command's flags, whose help texts say what they are."""

    workdir: str
    data_dir: str | None
    cache_dir: str | None
    checkpoint: str
    eval_samples: int
    again: bool
    figures: bool


def evaluate(folder: RunFolder, options: Options) -> dict[str, Any]:
    """The test figures of a run at --checkpoint, as a row with the run's settings.

    If evaluations.jsonl has a row of the same epoch with as many samples, its figures are returned. Otherwise the
    figures are computed and appended to that file.

    Raises:
      ValueError: If the run diverged, or if it is not finished and --checkpoint names no epoch. The figures of such a
        run cannot be averaged with those of other seeds.
    """
    run = folder.settings()
    result = folder.result()
    if result and result["status"] == "diverged":
        raise ValueError(f"{folder.path} diverged at step {result['step']}")
    if not result and not options.checkpoint.isdecimal():
        raise ValueError(f"{folder.path} is not finished; train it to its end, or name an epoch by --checkpoint")
    data = build.load_trained(run, options.data_dir or folder.data_dir(), options.cache_dir)
    folder.claim(run, data)
    with contextlib.closing(folder):
        return _evaluate_claimed(folder, run, data, options)


def _evaluate_claimed(folder: RunFolder, run: Settings, data: Dataset, options: Options) -> dict[str, Any]:
    """The rest of `evaluate`, while no other process can change the folder."""
    epoch, model, params = restore(folder, run, data, folder.epoch_of(options.checkpoint))
    row = run.json() | {"status": "done", "epoch": epoch, "eval_samples": options.eval_samples}
    with jax.default_matmul_precision(run.matmul_precision):
        if options.figures:
            with cli.drawing(folder.figures):
                from experiments.common import pictures  # matplotlib is slow to import

                pictures.draw_run(folder, data, model, params)
        earlier = earlier_figures(folder, epoch, options.eval_samples)
        if earlier and not options.again:
            print(f"{folder.path} was evaluated before, with as many samples; --again evaluates it anew")
            return row | earlier
        figures = assess.make_test_figures(model, data, run, options.eval_samples)(params)
    code = {
        "git_commit": provenance.describe_code()["git_commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in provenance.versions().items()),
    }
    folder.append({"epoch": epoch, "eval_samples": options.eval_samples} | figures | code, "evaluations.jsonl")
    return row | figures


def earlier_figures(folder: RunFolder, epoch: int, eval_samples: int) -> dict[str, Any]:
    """The figures of the last row in evaluations.jsonl of this epoch with as many samples; empty if there is none."""
    wanted = {"epoch": epoch, "eval_samples": eval_samples}
    rows = [row for row in folder.rows("evaluations.jsonl") if wanted.items() <= row.items()]
    names = (*results.FIGURES, "active_units_by_layer")
    return {name: value for name, value in rows[-1].items() if name in names} if rows else {}


def restore(folder: RunFolder, run: Settings, data: Dataset, epoch: int | None = None):
    """A checkpoint's epoch, model and parameters.

    The model is the one that evaluations use. Without `epoch` the newest checkpoint that can be read is taken.

    Raises:
      ValueError: If there is no checkpoint, or it cannot be read.
    """
    program = build.functions(run, data)
    shapes = jax.eval_shape(program.init, build.arrays(run))
    restored = checkpoint.restore(folder.checkpoints, shapes, None if epoch is None else [epoch])
    if restored is None:
        others = [step for step in checkpoint.steps(folder.checkpoints) if epoch is not None and step != epoch]
        if others:
            raise ValueError(
                f"{folder.checkpoints / str(epoch)} cannot be read; choose one of {', '.join(map(str, others))}"
            )
        raise ValueError(
            f"{folder.checkpoints} holds no checkpoint that can be read; delete {folder.path} and train it again"
        )
    step, state = restored
    return step, program.evaluated, state.params["model"]
