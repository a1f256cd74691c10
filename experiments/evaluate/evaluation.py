"""The evaluation of trained runs of a program, from one of its checkpoints."""

from typing import Any, NamedTuple

import jax

from experiments.common import assess, build, cli, program_state, provenance, results
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.evaluate import annealing
from experiments.evaluate.flags import Options
from vae.data import Dataset
from vae.devices import mesh

Row = dict[str, Any]


class Chosen(NamedTuple):
    """The runs to evaluate of a program, at one of its checkpoints.

    Attributes:
      folder: The folder of the program.
      numbers: The numbers of the runs to evaluate.
      runs: The settings of all runs of the program.
      data: The data set of all runs.
      functions: The functions of the program.
      restored: The states of all runs at the checkpoint.
      earlier: For each run with an earlier evaluation of the same kind, its row in evaluations.jsonl.
    """

    folder: ProgramFolder
    numbers: list[int]
    runs: list[Settings]
    data: Dataset
    functions: build.Functions
    restored: program_state.Restored
    earlier: dict[int, Row]


def choose(folder: ProgramFolder, numbers: list[int], options: Options) -> tuple[Chosen | None, list[str]]:
    """The runs to evaluate, and sentences about those that are left out; None if all are.

    A run that diverged is left out, and so is a run that is not finished unless --checkpoint names an epoch, because
    the figures of such runs cannot be averaged with those of other seeds.

    The folder is claimed, so that no other process trains the program.

    Args:
      numbers: The numbers of the runs among which is chosen.

    Raises:
      ValueError: If the data, the checkpoint or earlier evaluations cannot be read, or the model cannot be annealed.
    """
    all_results = folder.results()
    left_out = []
    chosen = []
    for i in numbers:
        result, name = all_results[i], folder.run_path(i)
        if result and result["status"] == "diverged":
            left_out.append(f"{name} diverged at step {result['step']}")
        elif not result and not options.checkpoint.isdecimal():
            left_out.append(f"{name} is not finished; train it to its end, or name an epoch by --checkpoint")
        else:
            chosen.append(i)
    if not chosen:
        return None, left_out
    runs = folder.runs()
    data = build.load_trained(runs[0], options.data_dir or folder.data_dir(), options.cache_dir)
    folder.claim(runs, data)
    with jax.default_matmul_precision(runs[0].matmul_precision):
        functions = build.trained_functions(runs[0], data)
        restored = program_state.restore_readable(folder, data, functions, options.checkpoint)
        left_out += [f"{folder.run_path(i)} {restored.faults[i]}" for i in chosen if restored.faults[i]]
        chosen = [i for i in chosen if not restored.faults[i]]
        if not chosen:
            return None, left_out
        if options.ais_steps:
            annealing.check(functions.evaluated, program_state.select_run(restored.state.params["model"], chosen[0]))
    made_with = {"eval_samples": options.eval_samples} | annealing.settings(options)
    earlier = earlier_rows(folder, restored.epochs, made_with)
    return Chosen(folder, chosen, runs, data, functions, restored, earlier), left_out


def evaluate(chosen: Chosen, options: Options) -> list[Row]:
    """The test figures of the chosen runs, each with the run's settings.

    Figures of an earlier evaluation are those of its row, and a printed sentence says so. Others are computed and
    appended to evaluations.jsonl.

    Raises:
      OSError: If files cannot be written or images cannot be read.
    """
    with jax.default_matmul_precision(chosen.runs[0].matmul_precision):
        if options.figures:
            _draw(chosen)
        known = {} if options.again else {i: chosen.earlier[i] for i in chosen.numbers if i in chosen.earlier}
        if known:
            print(describe_known(chosen.folder, known))
        rows = known | _measure(chosen, [i for i in chosen.numbers if i not in known], options)
    names = (*results.FIGURES, *results.ANNEALED, "active_units_by_layer")
    return [
        chosen.runs[i].json()
        | {"status": "done", "epoch": chosen.restored.epochs[i], "eval_samples": options.eval_samples}
        | {name: value for name, value in rows[i].items() if name in names}
        for i in chosen.numbers
    ]


def _draw(chosen: Chosen) -> None:
    """Draws the curves of the runs, and the pictures of their models."""
    from experiments.common import pictures  # matplotlib is slow to import

    folder, params = chosen.folder, chosen.restored.state.params["model"]
    figure_folders = folder.figures()
    with cli.drawing(folder.path / "figures"):
        pictures.draw_curves(folder, chosen.numbers, chosen.data)
    for i in chosen.numbers:
        with cli.drawing(figure_folders[i]):
            pictures.draw_models(folder, [i], chosen.data, chosen.functions.evaluated, params)
    first, *others = (figure_folders[i] for i in chosen.numbers)
    print(f"pictures: {first}{f' and {len(others)} more folders' if others else ''}")


def _measure(chosen: Chosen, numbers: list[int], options: Options) -> dict[int, Row]:
    """Computes the figures of these runs and appends them to evaluations.jsonl."""
    if not numbers:
        return {}
    model, data, restored = chosen.functions.evaluated, chosen.data, chosen.restored
    devices = mesh.make(len(numbers), batch_size=1)
    states = mesh.over_runs_of(devices, jax.tree.map(lambda leaf: leaf[numbers], restored.state))
    rows = {}
    for part in assess.test_figures(model, devices, states, data, chosen.runs[0], options.eval_samples):
        for i, row in ((numbers[place], row) for place, row in part.items()):
            if options.ais_steps:
                params = program_state.select_run(restored.state.params["model"], i)
                row |= annealing.figures(model, params, data, options)
            made = {"run": i, "epoch": restored.epochs[i], "eval_samples": options.eval_samples}
            chosen.folder.append([made | row | _describe_code()], "evaluations.jsonl")
            rows[i] = row
    return rows


def _describe_code() -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return {"git_commit": provenance.describe_code()["git_commit"], "versions": versions}


def describe_known(folder: ProgramFolder, known: dict[int, Row]) -> str:
    """A sentence about runs that were evaluated before; it names commits and versions that are not the present ones."""
    which = f"{folder.run_path(min(known))} was" if len(known) == 1 else f"{len(known)} runs in {folder.path} were"
    now = _describe_code()
    codes = dict.fromkeys(code for row in known.values() if (code := _other_code(row, now)))
    by_others = "".join(f", by {code}" for code in codes)
    return f"{which} evaluated before, with as many samples{by_others}; --again evaluates anew"


def _other_code(row: Row, now: dict[str, str]) -> str:
    """The commit and the versions of a row that are not those of `now`; empty if none differs.

    A commit with a + differs from itself: the code may have changed between.
    """
    commit = row.get("git_commit", "")
    others = [name for name in row.get("versions", "").split(", ") if name not in now["versions"].split(", ")]
    if commit != now["git_commit"] or commit.endswith("+"):
        others.insert(0, f"commit {provenance.short(commit)}" if commit else "an unknown commit")
    return " and ".join(filter(None, others))


def earlier_rows(folder: ProgramFolder, epochs: list[int], made_with: Row) -> dict[int, Row]:
    """The last row in evaluations.jsonl of each run at its epoch that has the values `made_with`."""
    earlier = {}
    for i, rows in enumerate(folder.rows_by_run("evaluations.jsonl")):
        if alike := [row for row in rows if row["epoch"] == epochs[i] and made_with.items() <= row.items()]:
            earlier[i] = alike[-1]
    return earlier
