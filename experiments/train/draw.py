"""The pictures of a workdir, which --figures asks for. They are drawn after all results are written.

A command that is stopped while it draws has lost nothing: the same command draws the pictures that are missing.
"""

from pathlib import Path

from experiments.common import cli, locks, phases, program_state, results
from experiments.common.program_folder import ProgramFolder
from experiments.train.results_table import Finished
from experiments.train.sweep import Program, Sweep

# The largest number of settings of a program whose runs are drawn unless --figures=all.
MOST_SETTINGS = 6


def draw(sweep: Sweep, finished: list[Finished], figures: str) -> None:
    """Draws the pictures, and prints where they are. Jobs that end at the same time take turns.

    The pictures that compare the runs are drawn once all runs of the command are finished.

    Args:
      finished: The finished runs of the workdir.
      figures: The value of --figures.
    """
    if figures == "none":
        return
    with locks.taking_turns(sweep.workdir, at="figures"):
        phases.say("drawing")
        _draw_sweep(sweep, finished)
        for program in sweep.programs:
            _draw_program(program, finished, figures)
    _print_places(sweep.workdir, finished)


def _draw_sweep(sweep: Sweep, finished: list[Finished]) -> None:
    """Draws the pictures that compare the runs of the workdir."""
    if len(finished) > 1 and set(sweep.runs) <= {run.settings for run in finished}:
        with cli.drawing(sweep.workdir / "figures"):
            from experiments.common import pictures  # matplotlib is slow to import

            rows = {folder: folder.rows_by_run() for folder in {run.folder for run in finished}}
            seconds = {folder: folder.seconds() for folder in rows}
            curves = [(run.row, rows[run.folder][run.number], seconds[run.folder]) for run in finished]
            pictures.draw_sweep(sweep.workdir / "figures", curves, results.varying([run.row for run in finished]))


def _draw_program(program: Program, finished: list[Finished], figures: str) -> None:
    """Draws the pictures of the best run of each setting (sweep), or of all runs (all), unless they are there.

    Of a program with many settings, the best ones are drawn.

    The curves of a run are drawn if it is alone, or if the pictures of all runs are drawn: `_draw_sweep` compares the
    curves of several runs.
    """
    by_folder: dict[ProgramFolder, list[Finished]] = {}
    for run in finished:
        if run.settings in program.runs and run.row["status"] == "done":
            by_folder.setdefault(run.folder, []).append(run)
    for folder, runs in by_folder.items():
        chosen = runs if figures == "all" else _best_of_each_setting(runs)
        numbers = [run.number for run in chosen]
        if figures == "all" or len(finished) == 1:
            _draw_curves(program, folder, _without(folder, numbers, "learning_curves"))
        _draw_models(program, folder, _without(folder, numbers, "reconstructions"))


def _best_of_each_setting(runs: list[Finished]) -> list[Finished]:
    """The best run of each setting, the best settings first, and at most MOST_SETTINGS of them."""
    groups = results.group(runs, results.varying([run.row for run in runs]), lambda run: run.row)
    return [members[results.best([run.row for run in members])] for _, members in groups[:MOST_SETTINGS]]


def _without(folder: ProgramFolder, numbers: list[int], picture: str) -> list[int]:
    """The numbers of the runs that do not have this picture."""
    figures = folder.figures()
    return [i for i in numbers if not (figures[i] / f"{picture}.png").exists()]


def _draw_curves(program: Program, folder: ProgramFolder, numbers: list[int]) -> None:
    """Draws the learning curves of runs."""
    if not numbers:
        return
    with cli.drawing(folder.path / "figures"):
        from experiments.common import pictures

        pictures.draw_curves(folder, numbers, program.data)


def _draw_models(program: Program, folder: ProgramFolder, numbers: list[int]) -> None:
    """Draws the pictures of models from the last checkpoint of their program."""
    if not numbers:
        return
    with cli.drawing(folder.path / "figures"):
        from experiments.common import pictures

        restored = program_state.restore_readable(folder, program.data, program.functions)
        params = restored.state.params["model"]
        pictures.draw_models(folder, numbers, program.data, program.functions.evaluated, params)


def _print_places(workdir: Path, finished: list[Finished]) -> None:
    """Prints the names of the pictures."""
    if drawn := sorted((workdir / "figures").glob("*.png")):
        print(f"pictures: {', '.join(map(str, drawn))}")
    figures = {folder: folder.figures() for folder in {run.folder for run in finished}}
    folders = [figures[run.folder][run.number] for run in finished]
    drawn = [path for path in folders if path != workdir / "figures" and any(path.glob("*.png"))]
    if drawn:
        more = f" and {len(drawn) - 1} more" if len(drawn) > 1 else ""
        print(f"pictures of runs: {drawn[0]}{more}")
