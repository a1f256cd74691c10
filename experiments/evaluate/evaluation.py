"""The evaluation of trained runs of a program, from one of its checkpoints."""

import contextlib
from typing import Any

import jax

from experiments.common import assess, build, cli, progress, provenance, results
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.evaluate import annealing
from experiments.evaluate.options import Options
from vae import checkpoint
from vae.data import Dataset
from vae.devices import mesh

Row = dict[str, Any]


def evaluate(folder: ProgramFolder, numbers: list[int], options: Options) -> tuple[list[Row], list[str]]:
    """The test figures of runs of a program at --checkpoint, and sentences about the runs that are left out.

    A row has the run's settings. If evaluations.jsonl has a row of the same epoch with as many samples, its figures are
    returned. Otherwise the figures are computed and appended to that file.

    A run that diverged is left out, and so is a run that is not finished unless --checkpoint names an epoch, because
    the figures of such runs cannot be averaged with those of other seeds.

    Args:
      numbers: The numbers of the runs.

    Raises:
      ValueError: If the data or the checkpoint cannot be read.
    """
    all_results = folder.results()
    left_out = []
    chosen = []
    for i in numbers:
        result, name = all_results[i], _name(folder, i)
        if result and result["status"] == "diverged":
            left_out.append(f"{name} diverged at step {result['step']}")
        elif not result and not options.checkpoint.isdecimal():
            left_out.append(f"{name} is not finished; train it to its end, or name an epoch by --checkpoint")
        else:
            chosen.append(i)
    if not chosen:
        return [], left_out
    runs = folder.runs()
    data = build.load_trained(runs[0], options.data_dir or folder.data_dir(), options.cache_dir)
    folder.claim(runs, data)
    with contextlib.closing(folder), jax.default_matmul_precision(runs[0].matmul_precision):
        functions = build.functions(runs[0], data)
        restored = restore(folder, data, functions, options.checkpoint)
        left_out += [f"{_name(folder, i)} {restored.faults[i]}" for i in chosen if restored.faults[i]]
        chosen = [i for i in chosen if not restored.faults[i]]
        return _evaluate_restored(folder, chosen, runs, data, functions, restored, options) if chosen else [], left_out


def _evaluate_restored(
    folder: ProgramFolder,
    chosen: list[int],
    runs: list[Settings],
    data: Dataset,
    functions: build.Functions,
    restored: progress.Restored,
    options: Options,
) -> list[Row]:
    """The rows of the chosen runs at a checkpoint."""
    params = restored.state.params["model"]
    if options.figures:
        from experiments.common import pictures  # matplotlib is slow to import

        figure_folders = folder.figures()
        with cli.drawing(folder.path / "figures"):
            pictures.draw_curves(folder, chosen, data)
        for i in chosen:
            with cli.drawing(figure_folders[i]):
                pictures.draw_model(figure_folders[i], data, functions.evaluated, progress.select_run(params, i))
    if options.ais_steps:
        annealing.check(functions.evaluated, progress.select_run(params, chosen[0]))
    made_with = {"eval_samples": options.eval_samples} | annealing.settings(options)
    figures = earlier_figures(folder, restored.epochs, made_with)
    missing = [i for i in chosen if options.again or i not in figures]
    if known := [i for i in chosen if i not in missing]:
        which = f"{_name(folder, known[0])} was" if len(known) == 1 else f"{len(known)} runs in {folder.path} were"
        print(f"{which} evaluated before, with as many samples; --again evaluates anew")
    if missing:
        devices = mesh.make(len(missing), batch_size=1)
        some = mesh.over_runs_of(devices, jax.tree.map(lambda leaf: leaf[missing], restored.state))
        for part in assess.test_figures(functions.evaluated, devices, some, data, runs[0], options.eval_samples):
            for i, row in ((missing[place], row) for place, row in part.items()):
                if options.ais_steps:
                    of_run = progress.select_run(params, i)
                    row |= annealing.figures(functions.evaluated, of_run, data, options)
                made = {"run": i, "epoch": restored.epochs[i], "eval_samples": options.eval_samples}
                folder.append([made | row | _describe_code()], "evaluations.jsonl")
                figures[i] = row
    return [
        runs[i].json()
        | {"status": "done", "epoch": restored.epochs[i], "eval_samples": options.eval_samples}
        | figures[i]
        for i in chosen
    ]


def _name(folder: ProgramFolder, run: int) -> str:
    """The words that name a run in a sentence."""
    names = folder.run_names()
    return f"{folder.path} ({names[run]})" if len(names) > 1 else str(folder.path)


def _describe_code() -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return {"git_commit": provenance.describe_code()["git_commit"], "versions": versions}


def earlier_figures(folder: ProgramFolder, epochs: list[int], made_with: Row) -> dict[int, Row]:
    """The figures of the last row in evaluations.jsonl of each run at its epoch that has the values `made_with`."""
    names = (*results.FIGURES, *results.ANNEALED, "active_units_by_layer")
    return {
        i: {name: value for name, value in row.items() if name in names}
        for i, rows in enumerate(folder.rows_by_run("evaluations.jsonl"))
        for row in rows
        if row["epoch"] == epochs[i] and made_with.items() <= row.items()
    }


def restore(folder: ProgramFolder, data: Dataset, functions: build.Functions, name: str) -> progress.Restored:
    """The states of all runs of a program at the checkpoint `name`.

    Raises:
      ValueError: If there is no such checkpoint, or it cannot be read.
    """
    restored = progress.restore(folder, data, functions, name)
    if restored is None:
        others = [step for step in checkpoint.steps(folder.checkpoints) if name.isdecimal() and step != int(name)]
        if others:
            raise ValueError(f"{folder.checkpoints / name} cannot be read; choose one of {', '.join(map(str, others))}")
        raise ValueError(
            f"{folder.checkpoints} holds no checkpoint that can be read; delete {folder.path} and train it again"
        )
    return restored
