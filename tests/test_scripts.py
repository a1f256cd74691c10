"""The scripts refuse unknown arguments before they set up anything, and every command that they run is valid. Those in
Python make their tables."""

import importlib.util
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from absl import flags

from experiments.common import packages, setting_flags
from experiments.common.grammar import choose
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.published.claims import CLAIMS
from tests.helpers.written_workdirs import Written, change_result, write_checkpoints, write_laboratory, write_workdir
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
    packages.define_import(values)
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


def load(name: str) -> ModuleType:
    """A Python script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines_of(table: str) -> list[list[str]]:
    """The cells of a table in Markdown, without its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def bounds_of_a_trained_vae(folder: Path, capsys: pytest.CaptureFixture) -> None:
    script = load("annealed_bounds")
    script.BOUNDS = dict([*script.BOUNDS.items()][:2])
    script.main(seeds=1, epochs=1, samples=10)
    elbo, annealed, likelihood = (float(value) for _, value in lines_of(capsys.readouterr().out))
    assert -100 < elbo < annealed < likelihood < 0


def rates_of_runs(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """A program of two seeds and another one. A run that diverged is left out of the mean."""
    alike = {"hidden": (4,), "latent_dim": (3, 2), "objective": "elbo", "epochs": 2, "eval_samples": 2}
    rates = {}
    for status in ("done", "diverged"):
        runs = [Written(Settings(**alike)), Written(Settings(**alike, seed=1), status=status)]
        write_workdir(folder / status, [*runs, Written(Settings(**alike, inference="ladder"))])
        for program in (0, 1):
            write_checkpoints(ProgramFolder(folder / f"{status}/programs/{program}"), (2,))
        load("rates_by_layer").main(folder / status)
        rates[status] = lines_of(capsys.readouterr().out)
    assert [line[:2] for line in rates["done"]] == [["3-2", "bottom_up"], ["3-2", "ladder"]]
    assert all(len(list(map(float, line[2].split(", ")))) == 2 for lines in rates.values() for line in lines)
    assert rates["diverged"][0] != rates["done"][0]
    assert rates["diverged"][1] == rates["done"][1]


def quantizers(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """One seed of a setting diverged, and all seeds of another. One measurement failed."""
    sweeps = {
        "vq": ("vq:codes=16", "rotation", ["done", "diverged"]),
        "fsq": ("fsq:levels=4-4", "vq_straight_through", ["diverged", "diverged"]),
        "stochastic_vq": ("stochastic_vq", "rebar", ["done", "done"]),
    }
    for i, (name, (posterior, estimator, status)) in enumerate(sweeps.items()):
        setting = {"posterior": posterior, "estimator": estimator, "objective": "elbo"}
        runs = [Written(Settings(**setting, seed=seed), float(i), status[seed]) for seed in (0, 1)]
        write_workdir(folder / name, runs)
        change_result(folder / f"{name}/programs/0", 0, **({"codes_used": 15.0} if status[0] == "done" else {}))
    errors = {"encoding_variance": 4.0, "encoding_truth_norm": 2.0, "encoding_relative_bias": 0.25}
    row = {"problem": "quantized", "estimator": "rotation", "num_samples": 1}
    write_laboratory(folder / "smoothed", "encoding", [row | errors])
    load("quantizers_table").main(folder)
    assert lines_of(capsys.readouterr().out) == [
        ["vq", "rotation", "15.0", "-", "18.60", "-23.10", "25 %", "100 %"],
        ["stochastic_vq", "rebar", "15.0", "-", "18.60 ± 0.00", "-25.10 ± 0.00", "-", "-"],
        ["fsq:levels=4-4", "vq_straight_through", "-", "-", "-", "-", "-", "-"],
    ]


RUNS = {
    "annealed_bounds": bounds_of_a_trained_vae,
    "quantizers_table": quantizers,
    "rates_by_layer": rates_of_runs,
}


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_a_python_script_prints_its_table(script, tmp_path, capsys):
    RUNS[script](tmp_path, capsys)
