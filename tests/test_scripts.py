"""The scripts refuse unknown arguments before they set up anything, and every command that they run is valid."""

import importlib
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from absl import flags

from experiments.common import cli, setting_flags
from experiments.common.options import choose
from experiments.published.claims import CLAIMS
from vae.estimators import BY_NAME

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("reproduce_*.sh"))
SLIPS = {claim.control.slip for claim in CLAIMS if claim.control}  # added by --import=experiments.published.slips
WITH_DATA = [path for path in SCRIPTS if "DIR holds" in path.read_text()]


@pytest.fixture
def run(tmp_path):
    """Runs a script in a copy of the checkout, where setup.sh and python only print their arguments."""
    for name in ("scripts", ".venv/bin", "data"):
        (tmp_path / name).mkdir(parents=True)
    say = '#!/usr/bin/env bash\necho "${0##*/} $*"\n'
    (tmp_path / "scripts/setup.sh").write_text(say)
    (tmp_path / ".venv/bin/python").write_text(say)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    shutil.copy(ROOT / "scripts/common.sh", tmp_path / "scripts")

    def run(script: Path, *arguments: str) -> subprocess.CompletedProcess:
        (tmp_path / "scripts" / script.name).write_text(script.read_text())
        command = ["bash", f"scripts/{script.name}", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_unknown_argument_is_refused_before_anything_is_done(script, run):
    data = ["data"] if script in WITH_DATA else []
    for arguments in (
        [*data, "--quik"],
        ["--quik", *data],
        [*data, "quick", "--quick"],
        *([[], ["--quick"]] if data else []),
    ):
        done = run(script, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.splitlines()[-1].startswith(f"usage: bash scripts/{script.name}")
        assert "--quick" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_order_of_arguments_does_not_matter(script, run):
    arguments = ["--quick"] + (["data"] if script in WITH_DATA else [])
    arguments += ["cuda13"] + ["nonlinear"] * (script.stem == "reproduce_discrete_vae")
    whole, *others = (run(script, *order) for order in itertools.permutations(arguments))
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "TRUNCATED" in whole.stdout
    assert "_quick" in whole.stdout.splitlines()[-1]
    assert all(argument in whole.stdout for argument in arguments[2:])
    assert all(other.stdout == whole.stdout for other in others)
    plain = run(script, *(argument for argument in arguments if argument != "--quick"))
    assert plain.returncode == 0
    assert "quick" not in plain.stdout
    assert "TRUNCATED" not in plain.stdout


def _forms(script: Path) -> list[list[str]]:
    """A script's arguments except those for setup.sh: every combination without `control`, and `control` alone.

    Without `control` a script runs its negative controls too.
    """
    usage = re.search(r'^read_arguments "(DIR)?.*?(\[control\])?( \[--quick\])?" "?([\w|]*)', script.read_text(), re.M)
    if not usage:
        return [[]]
    choices = ["", *filter(None, usage[4].split("|"))]
    forms = [*itertools.product(choices, ["", "--quick"]), *([("control",)] if usage[2] else [])]
    data = ["data"] * bool(usage[1])
    return [[*data, *filter(None, form)] for form in forms]


def _parse(module: str, arguments: list[str]) -> flags.FlagValues:
    """The values of a command's flags."""
    values = flags.FlagValues()
    importlib.import_module(f"{module}.__main__").define_flags(values)
    cli.define_import(values)
    assert values([module, *arguments]) == [module]
    return values


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS, *(ROOT / f"scripts/{name}.sh" for name in ("quickstart", "compare_quantizers"))],
    ids=lambda path: path.stem,
)
def test_every_command_that_a_script_runs_is_valid(script, run, monkeypatch):
    """Its flags exist, its estimators exist, and its settings go together."""
    for slip in SLIPS:
        monkeypatch.setitem(BY_NAME, slip, BY_NAME["reparam"])
    for form in _forms(script):
        commands = [
            line.split()[2:] for line in run(script, *form).stdout.splitlines() if line.startswith("python -m ")
        ]
        assert commands
        for module, *arguments in commands:
            values = _parse(module, arguments)
            if module == "experiments.train":
                assert setting_flags.from_flags(values)
            elif "estimators" in values:
                assert all(choose(name, BY_NAME) for name in values["estimators"].value or [])


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if "keep_going" in path.read_text()], ids=lambda path: path.stem
)
def test_a_script_continues_after_a_diverged_run_and_stops_at_an_interrupt(script, run, tmp_path):
    python = tmp_path / ".venv/bin/python"
    for status in (1, 130):
        python.write_text(f'#!/usr/bin/env bash\necho "$*"\n[[ $* != *experiments.train* ]] || exit {status}\n')
        done = run(script, "data", "--quick")
        assert done.returncode == status
        assert ("experiments.report" in done.stdout) == (status == 1)
