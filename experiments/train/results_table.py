"""results.csv, results.md and the pictures of a sweep: all finished runs of a workdir, written when a command ends."""

from pathlib import Path
from typing import Any

from experiments.common import cli, files, locks, results, tables
from experiments.common.run_folder import RunFolder, all_runs
from experiments.train.sweep import Run


def write(workdir: Path, runs: list[Run], figures: str) -> None:
    """Writes results.csv and results.md, and prints the table.

    Draws the pictures of the sweep if all its `runs` are finished and `figures`, the value of --figures, is not "none".
    Jobs that end at the same time take turns, so the last job sees all results and draws the pictures.
    """
    with locks.taking_turns(workdir):
        folders, rows = finished_runs(workdir)
        table = results.to_markdown(rows)
        files.write_text(workdir / "results.csv", tables.to_csv(rows))
        files.write_text(workdir / "results.md", table + "\n")
        if figures != "none" and len(folders) > 1 and all(run.folder.result() for run in runs):
            with cli.drawing(workdir / "figures"):
                from experiments.common import pictures

                pictures.draw_sweep(workdir / "figures", folders, results.varying(rows))
    print(f"\n{results.heading(rows)}\n{table}\n")
    if drawn := sorted((workdir / "figures").glob("*.png")):
        print(f"pictures: {', '.join(map(str, drawn))}")
    if drawn := sorted({path.parent for path in workdir.glob("runs/*/figures/*.png")}):
        more = f" and {len(drawn) - 1} more" if len(drawn) > 1 else ""
        print(f"pictures of runs: {drawn[0]}{more}")
    print(f"table of every run and setting: {workdir / 'results.csv'}")
    print(f"a page with all results: {cli.command('report', f'--workdir={workdir}')}")


def finished_runs(workdir: Path) -> tuple[list[RunFolder], list[dict[str, Any]]]:
    """The folders of the runs that have a result, and their rows.

    Results that another version wrote are left out, and a printed line names them.
    """
    folders = []
    rows = []
    for folder in all_runs(workdir):
        try:
            row = folder.result()
        except ValueError as error:
            print(f"left out of the tables: {error}")
            continue
        if row:
            folders.append(folder)
            rows.append(row)
    return folders, rows
