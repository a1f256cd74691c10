"""Checks this project on an accelerator, and measures its speed there, in less than eight minutes.

    python -m experiments.gpu_check --output=results/gpu_check            # one GPU
    python -m experiments.gpu_check --output=results/gpu_check --small    # sizes for a CPU

device        What the device is; the speed of its matrix products and of its memory.
canary        Whether runs side by side compute what single runs compute.
determinism   Whether a seed gives the same bytes twice with --xla_gpu_deterministic_ops.
precision     The bound and the time of a step in float32, tensorfloat32 and bfloat16.
digits        The speed and the memory of 1 to 2048 runs side by side of the digits network.
mnist         The same for 1 to 128 runs of a network 784-500-20.
iwae          The same for an IWAE 784-200-200-50 with K = 50.
commands      A sweep with experiments.train, and the laboratory at one of its runs.
tests         Fast tests of the core, if pytest is installed.

Each section has a process of its own and a time limit. A case that fails is a line of the table, and the others go on.
The command writes gpu_check.json and gpu_check.md after each section, and what the sections print into gpu_check.log.
Neither a network nor tensorflow-datasets is needed. Images are scikit-learn's digits and synthetic ones.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.common import cli, files, tables
from experiments.gpu_check import checks, commands, speed
from experiments.gpu_check.guard import Cases, Context, Row, measure

# The time limit of all sections together.
MINUTES = 7.5


class Section(NamedTuple):
    """A section and its time limit in seconds, which grows and shrinks with --minutes."""

    make_cases: Callable[[Context], Cases]
    seconds: float


SECTIONS = {
    "device": Section(speed.device, 30),
    "canary": Section(checks.canaries, 75),
    "determinism": Section(checks.determinism, 50),
    "precision": Section(checks.precision, 40),
    "digits": Section(speed.digits, 70),
    "mnist": Section(speed.mnist, 50),
    "iwae": Section(speed.iwae, 30),
    "commands": Section(commands.commands, 100),
    "tests": Section(checks.tests, 100),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags in `values`."""
    flags.DEFINE_string("output", "results/gpu_check", "Folder of the files that are written.", flag_values=values)
    flags.DEFINE_list("sections", list(SECTIONS), f"Sections to run: any of {', '.join(SECTIONS)}.", flag_values=values)
    flags.DEFINE_bool("small", False, "Whether to take small sizes, for a CPU.", flag_values=values)
    flags.DEFINE_float(
        "minutes", MINUTES, "Time limit of all sections together, in minutes.", lower_bound=0.1, flag_values=values
    )


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the sections, and ends with exit status 1 if a case failed."""
    end = time.monotonic() + 60 * options.minutes
    with cli.one_sentence():
        if not options.sections or set(options.sections) - set(SECTIONS):
            raise ValueError(f"--sections takes {', '.join(SECTIONS)}")
        folder = Path(options.output)
        files.check_writable(folder, "output")
    log = folder / "gpu_check.log"
    log.unlink(missing_ok=True)
    report: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.sections:
            section = SECTIONS[name]
            deadline = min(end, time.monotonic() + section.seconds * options.minutes / MINUTES)
            if deadline > time.monotonic():
                context = Context(options.small, deadline, Path(temporary))
                report[name] = measure(section.make_cases, context, log)
            else:
                report[name] = [{"case": "all", "skipped": f"the {options.minutes:g} minutes were over"}]
            print("\n".join(f"{name}, {row['case']}: {describe(row)}" for row in report[name]), flush=True)
            with cli.one_sentence(OSError):  # after each section, because the next one may take minutes
                write(folder, report, options.small)
    failed = [f"{name}, {row['case']}" for name, rows in report.items() for row in rows if "failed" in row]
    if failed:
        cli.stop(f"{len(failed)} of {sum(map(len, report.values()))} cases failed: {'; '.join(failed)}")


def write(folder: Path, report: dict[str, list[Row]], small: bool) -> None:
    """Writes the rows of all sections as JSON, and as a table in Markdown with the name of the device."""
    device = next((row["device"] for rows in report.values() for row in rows if "device" in row), "unknown device")
    files.write_json(folder / "gpu_check.json", {"device": device, "small": small, "sections": report})
    table = [["section", "case", "result"]]
    table += [[name, row["case"], describe(row)] for name, rows in report.items() for row in rows]
    sizes = ", small sizes" if small else ""
    files.write_text(folder / "gpu_check.md", f"# {device}{sizes}\n\n{tables.to_markdown(table)}\n")


def describe(row: Row) -> str:
    """The values of a row in words."""
    for name in ("failed", "skipped"):
        if name in row:
            return f"{name}: {row[name]}"
    values = {name: value for name, value in row.items() if name not in ("case", "seconds")}
    return "; ".join(f"{name.replace('_', ' ')}: {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    """A float with four digits, or with all digits before the point; anything else as it is."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
