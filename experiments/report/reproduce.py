"""The section "How to repeat it": the commands, and the versions and devices that were used."""

import json
import shlex
from html import escape
from typing import Any

from experiments.common import provenance
from experiments.common.workdirs import Contents, Laboratory, Run, Toy
from experiments.report.elements import Cell, Section, table

UNKNOWN = "not recorded"


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


def commands(contents: Contents) -> list[str]:
    """The recorded commands, each once, safe to paste into a shell. A comment names the workdirs without a record."""
    lines = []
    for workdir, recorded in contents.training_commands.items():
        lines += map(_quoted, recorded) if recorded else [f"# {shlex.quote(str(workdir))}: {UNKNOWN}"]
    lines += [_quoted(one.config["command"]) for one in [*contents.laboratories, *contents.toys]]
    return list(dict.fromkeys(lines))


def _command_lines(contents: Contents) -> str:
    words = "\n".join(
        " ".join(f"<span>{escape(word)}</span>" for word in line.split(" ")) for line in commands(contents)
    )
    advice = (
        "Give a repeated command another --workdir or --output: in the folder of finished results it measures nothing"
        " again. The code is named below."
    )
    return f'<pre tabindex="0">{words}</pre><p>{advice}</p>'


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
