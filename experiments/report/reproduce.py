"""The section "How to repeat it": the commands, and the versions and devices that were used."""

import itertools
import json
import shlex
from html import escape
from typing import Any

from experiments.common import assess, cli, provenance, settings
from experiments.common.charts import along_training
from experiments.common.workdirs import Contents, Laboratory, Run, Toy
from experiments.report.elements import Cell, Section, table

UNKNOWN = "not recorded"
EVALUATIONS = "evaluations"  # beside the settings of a run: the flags that decide what its rows hold


def section(contents: Contents) -> Section:
    """The commands, and a table for each group of results with the same provenance."""
    all_results = [*contents.runs, *contents.laboratories, *contents.toys]
    parts = [_command_lines(contents)]
    groups: dict[str, list[Run | Laboratory | Toy]] = {}
    for one in all_results:
        groups.setdefault(json.dumps(_provenance(_config(one))), []).append(one)
    for facts, members in groups.items():
        lines = [[Cell(name), Cell(value)] for name, value in json.loads(facts).items()]
        if len(groups) > 1:
            parts.append(f"<h3>{len(members)} of {len(all_results)} results</h3>")
        parts.append(table(["made with", ""], lines, "provenance", sortable=False))
    return Section("reproduce", "How to repeat it", "".join(parts))


def commands(runs: list[Run]) -> list[str]:
    """Command lines that train these runs. Runs that are all combinations of lists of values share one command line.

    Each of several workdirs has command lines of its own, with --workdir, because two workdirs may hold the same run.
    If a workdir needs several lines, the names of their folders have numbers: a folder cannot hold two single runs.
    """
    workdirs: dict[str | None, list[Run]] = {}
    for run in runs:
        workdirs.setdefault(run.row.get("workdir"), []).append(run)
    return [line for workdir, members in workdirs.items() for line in _commands_of_workdir(workdir, members)]


def _commands_of_workdir(workdir: str | None, runs: list[Run]) -> list[str]:
    longest = {run.folder.path: run for run in sorted(runs, key=lambda run: len(run.rows))}  # of each program
    rows = [
        {name: (str(value),) for name, value in run.settings.json().items()}
        | {EVALUATIONS: _evaluation_flags(longest[run.folder.path])}
        for run in runs
    ]
    for name in runs[0].settings.json():  # rows that differ only in this setting become one row with a list
        merged: dict[tuple, dict[str, tuple[str, ...]]] = {}
        for row in rows:
            alike = tuple((key, value) for key, value in row.items() if key != name)
            merged[alike] = row | {name: merged.get(alike, {name: ()})[name] + row[name]}
        rows = list(merged.values())
    several = len(rows) > 1
    return [_command(row, workdir and f"{workdir}-{i}" if several else workdir) for i, row in enumerate(rows, start=1)]


def _command(values: dict[str, tuple[str, ...]], workdir: str | None) -> str:
    lower = lambda value: value.lower() if value in ("True", "False") else value
    flags = [
        f"--{name}={','.join(map(lower, values[name]))}"
        for name, default in settings.Settings().json().items()
        if values[name] != (str(default),)
    ]
    flags += values[EVALUATIONS]
    if not all(name == "digits" or name.startswith("npz:") for name in values["dataset"]):
        flags.append("--data_dir=DIR")
    if workdir:
        flags.append(f"--workdir={workdir}")
    return cli.command("train", *flags)


def _evaluation_flags(run: Run) -> tuple[str, ...]:
    """The flags that are not settings and that decide what the rows of metrics.jsonl hold."""
    flags = []
    if run.rows and run.rows[0]["epoch"] != assess.curve_spacing(run.settings.epochs):
        flags.append(f"--eval_every={run.rows[0]['epoch']}")
    measured = [number for number, row in enumerate(run.rows, 1) if along_training.columns([row])]
    if measured:
        last = run.rows[measured[-1] - 1]
        # The last evaluation is always measured. A run may have been continued with the flag.
        regular = [number for number in measured if number < len(run.rows)] or measured
        flags.append(f"--measure_gradient={min(after - before for before, after in itertools.pairwise([0, *regular]))}")
        flags += [f"--measure_draws={last['measure_draws']}"] if "measure_draws" in last else []
        estimators = dict.fromkeys(column.estimator for column in along_training.columns([last]))
        if others := [name for name in estimators if name != run.settings.estimator]:
            flags.append(f"--measure_estimators={','.join(others)}")
    return tuple(flags)


def _command_lines(contents: Contents) -> str:
    lines = commands(contents.runs) if contents.runs else []
    lines += [_quoted(one.config["command"]) for one in [*contents.laboratories, *contents.toys]]
    words = "\n".join(" ".join(f"<span>{escape(word)}</span>" for word in line.split(" ")) for line in lines)
    return f'<pre tabindex="0">{words}</pre>'


def _quoted(command: str) -> str:
    """A command line that is safe to paste into a shell, whoever wrote it: all of its words are quoted."""
    try:
        return shlex.join(shlex.split(command))
    except ValueError:  # a quotation mark is not closed
        return shlex.quote(command)


def _config(one: Run | Laboratory | Toy) -> dict[str, Any]:
    return one.record if isinstance(one, Run) else one.config


def _provenance(config: dict[str, Any]) -> dict[str, str]:
    """The commit, the device, the versions and the data of a result."""
    facts = {key: str(config.get(key) or UNKNOWN) for key in ("git_commit", "device", "platform")}
    facts["code"] = provenance.code_versions(config)
    if later := [str(one.get("git_commit") or UNKNOWN) for one in config.get("continued", [])]:
        facts["git_commit"] += f", then {', '.join(later)}"
    if imports := config.get("imports"):
        facts["imports"] = ", ".join(f"{name} {commit or UNKNOWN}" for name, commit in imports.items())
    facts |= {name: str(version) for name, version in config["versions"].items()}
    if "data" in config:
        data = config["data"]
        images = ", ".join(f"{split} {number}" for split, number in data["images"].items())
        facts["data"] = f"{data['name']}: {images} images, sha256 {data['checksum']}"
    return facts
