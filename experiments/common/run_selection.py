"""The flag --run, which chooses runs of a workdir by their settings: --run=seed=3,estimator=relax."""

import difflib
from pathlib import Path

from experiments.common import settings
from experiments.common.program_folder import ProgramFolder, no_run, programs_of
from experiments.common.settings import Settings

HELP = (
    "Settings of the runs to choose from a sweep, as NAME=VALUE joined by commas, such as seed=3,estimator=relax; by"
    " default every run."
)


def choose(workdir: str | Path, text: str | None) -> dict[ProgramFolder, list[int]]:
    """The numbers of the chosen runs of each program of a workdir. Programs without a chosen run are left out.

    Args:
      text: The value of --run; None chooses every run.

    Raises:
      ValueError: If the workdir holds no run, the text cannot be read, or no run has these settings.
    """
    programs = {folder: folder.runs() for folder in programs_of(workdir)}
    if not programs:
        raise no_run(workdir)
    wanted = _parse(text) if text else {}
    chosen = {
        folder: [i for i, run in enumerate(runs) if all(getattr(run, name) == value for name, value in wanted.items())]
        for folder, runs in programs.items()
    }
    chosen = {folder: numbers for folder, numbers in chosen.items() if numbers}
    if not chosen:
        runs = [run for members in programs.values() for run in members]
        raise ValueError(f"--run={text} matches none of the {len(runs)} runs in {workdir}; {_differences(runs)}")
    return chosen


def choose_one(workdir: str | Path, text: str | None) -> tuple[ProgramFolder, int]:
    """The only run that `choose` finds, and its number in its program.

    Raises:
      ValueError: As `choose`, and if several runs have these settings.
    """
    chosen = choose(workdir, text)
    runs = [(folder, i) for folder, numbers in chosen.items() for i in numbers]
    if len(runs) > 1:
        found = [folder.runs()[i] for folder, i in runs]
        matches = f"--run={text} matches {len(runs)} runs in {workdir}" if text else f"{workdir} holds {len(runs)} runs"
        raise ValueError(f"{matches}; choose one by --run=NAME=VALUE,...: {_differences(found)}")
    return runs[0]


def _parse(text: str) -> dict[str, object]:
    wanted = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name in wanted:
            wrong = f"{name} is given twice" if equals else f"{part!r} is not NAME=VALUE"
            raise ValueError(f"--run={text}: {wrong}; give each setting one value, such as --run=seed=1")
        if name not in settings.FIELDS:
            close = difflib.get_close_matches(name, settings.FIELDS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(
                f"--run={text}: there is no setting {name}{hint}; the settings are {', '.join(settings.FIELDS)}"
            )
        try:
            wanted[name] = settings.parse(name, value)
        except ValueError as error:
            raise ValueError(f"--run={text}: {name}={value}: {error}") from None
    return wanted


def _differences(runs: list[Settings]) -> str:
    """The settings in which the runs differ, with at most eight values of each."""
    rows = [run.json() for run in runs]
    values = {name: list(dict.fromkeys(str(row[name]) for row in rows)) for name in rows[0]}
    shown = [
        f"{name} is {', '.join(found[:8])}{', ...' * (len(found) > 8)}"
        for name, found in values.items()
        if len(found) > 1
    ]
    return "; ".join(shown) or "all runs have the same settings"
