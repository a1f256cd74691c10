"""The verdict of a sweep, which --compare asks for: verdict.md, verdict.csv and figures/verdict.png."""

from experiments.common import cli, comparison, verdict
from experiments.train.results_table import Finished
from experiments.train.sweep import Sweep


def check(sweep: Sweep, setting: str | None) -> None:
    """Refuses --compare before any training, if the runs of the sweep could not be compared.

    Raises:
      ValueError: One sentence that says what would work.
    """
    if setting:
        has_validation = all(len(program.data.validation) for program in sweep.programs)
        comparison.check([run.json() for run in sweep.runs], setting, has_validation)


def write(sweep: Sweep, finished: list[Finished], setting: str) -> None:
    """Compares the runs of the command, once all of them are finished. Writes the files and prints the verdict."""
    by_settings = {run.settings: run for run in finished}
    if not set(sweep.runs) <= set(by_settings):
        return
    runs = [by_settings[settings] for settings in sweep.runs]
    programs = {folder: (folder.rows_by_run(), folder.record()) for folder in {run.folder for run in runs}}
    context = lambda run: (programs[run.folder][0][run.number], programs[run.folder][1])
    rows = [comparison.with_context(run.row, *context(run)) for run in runs]
    try:
        result = comparison.compare(rows, setting)
    except ValueError as error:  # all runs of a value diverged, say
        print(f"no verdict: {error}")
        return
    print(f"\n{verdict.write(sweep.workdir, result)}")
    if result.others and sweep.options.figures != "none":
        with cli.drawing(sweep.workdir / "figures"):
            from experiments.common import plots  # matplotlib is slow to import

            plots.save(plots.candidates(result), sweep.workdir / "figures" / "verdict")
