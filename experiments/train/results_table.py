"""results.csv, results.md and results.tex: the finished runs of a workdir, written when a command ends."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import cli, files, provenance, results, tables
from experiments.common.program_folder import ProgramFolder, programs_of
from experiments.common.settings import Settings


class Finished(NamedTuple):
    """A run that has a result.

    Attributes:
      folder: The folder of its program.
      number: The number of the run in its program.
      settings: The settings of the run.
      row: Its row in results.csv.
    """

    folder: ProgramFolder
    number: int
    settings: Settings
    row: dict[str, Any]


def write(workdir: Path, finished: list[Finished], columns: list[str] | None) -> None:
    """Writes the tables of the finished runs, and prints results.md.

    Args:
      columns: The columns of results.md and results.tex; None for all.
    """
    rows = [run.row for run in finished]
    table = results.to_markdown(rows, columns)
    records = {folder: folder.record() for folder in {run.folder for run in finished}}
    if versions := provenance.about_versions(provenance.code_versions(records[run.folder]) for run in finished):
        table += f"\n\n{versions}"
    files.write_text(workdir / "results.csv", tables.to_csv(rows))
    files.write_text(workdir / "results.md", f"{results.heading(rows)}\n\n{table}\n")
    files.write_text(workdir / "results.tex", results.to_latex(rows, columns) + "\n")
    print(f"\n{results.heading(rows)}\n{table}\n")
    print(f"table of every run and setting: {workdir / 'results.csv'}; for a paper: results.tex")
    print(f"a page with all results: {cli.command('report', f'--workdir={workdir}')}", flush=True)


def finished_runs(workdir: Path) -> list[Finished]:
    """The runs that have a result. Programs of another version are left out, and a printed line names them."""
    finished = []
    for folder in programs_of(workdir):
        try:
            runs = list(zip(folder.runs(), folder.results(), strict=True))
        except ValueError as error:
            print(f"left out of the tables: {error}")
            continue
        place = {"program": folder.path.name} if folder.path != workdir else {}
        for number, (settings, result) in enumerate(runs):
            if result:
                finished.append(Finished(folder, number, settings, result | place | {"run": number}))
    return finished
