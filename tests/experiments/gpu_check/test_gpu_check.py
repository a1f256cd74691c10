"""The check of a GPU runs on the CPU with small sizes, and its files say everything that it found."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from absl import flags

from experiments.benchmark import epoch
from experiments.common import build
from experiments.gpu_check import __main__ as command
from experiments.gpu_check import checks, programs
from experiments.gpu_check.guard import Context, Wrong
from tests.helpers import faults
from vae import train

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = "scripts/gpu_check.sh"
# Packages of requirements.txt that a machine with a GPU may lack.
MISSING = ("tensorflow_datasets", "array_record", "grain", "cv2", "importlib_resources", "plotly", "tensorboardX")
MISSING += ("beartype", "playwright")


def options(*arguments: str) -> flags.FlagValues:
    values = flags.FlagValues()
    command.define_flags(values)
    values(["gpu_check", *arguments])
    return values


def test_the_files_are_written_after_each_section_and_a_failure_is_the_exit_status(tmp_path, monkeypatch, capsys):
    rows = {
        "device": [{"case": "environment", "device": "1 x Planted", "memory_gigabytes": 12345.678}],
        "canary": [{"case": "digits", "failed": "runs differ"}],
        "iwae": [{"case": "a single run", "images_per_second": 12.34567, "seconds": 1.0}],
    }
    seen = []

    def measure(make_cases, context, log):
        if (tmp_path / "gpu_check.json").exists():
            seen.append(json.loads((tmp_path / "gpu_check.json").read_text())["sections"])
        return rows[{"canaries": "canary"}.get(make_cases.__name__, make_cases.__name__)]

    monkeypatch.setattr(command, "measure", measure)
    with pytest.raises(SystemExit) as exit:
        command.main(options(f"--output={tmp_path}", "--sections=device,canary,iwae"))
    assert exit.value.code == 1
    assert capsys.readouterr().err == "error: 1 of 3 cases failed: canary, digits\n"
    assert [list(sections) for sections in seen] == [["device"], ["device", "canary"]]
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert written == {"device": "1 x Planted", "small": False, "sections": rows}
    table = (tmp_path / "gpu_check.md").read_text()
    assert table.startswith("# 1 x Planted\n\n| section | case ")
    assert "| device: 1 x Planted; memory gigabytes: 12,346 |" in table
    assert "| failed: runs differ " in table
    assert "| images per second: 12.35 " in table


def test_sections_without_time_are_skipped(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(command, "measure", lambda *arguments: [{"case": "any"}])
    command.main(options(f"--output={tmp_path}", "--minutes=4", "--sections=device,tests"))
    written = json.loads((tmp_path / "gpu_check.json").read_text())["sections"]
    assert written["tests"] == [{"case": "all", "skipped": "the 4 minutes were over"}]


def test_the_flop_of_an_epoch_are_those_of_the_steps_products():
    data = programs.synthetic(images=300, size=28)
    functions = build.functions(programs.MNIST, data)
    values = build.arrays(programs.MNIST)
    state = jax.eval_shape(functions.init, values)
    flop = programs.product_flop(functions.epoch, state, values, data.train)
    assert functions.steps_per_epoch == 2
    assert flop == 2 * epoch.flop_of_step(programs.MNIST.batch_size)


@pytest.fixture
def canaries(tmp_path):
    return checks.canaries(Context(small=True, deadline=math.inf, folder=tmp_path))


def test_training_that_is_wrong_side_by_side_is_found(canaries, monkeypatch):
    monkeypatch.setattr(build, "optimizer", build.optimizer)  # restores what the fault changes
    faults.runs_side_by_side_are_wrong()
    with pytest.raises(Wrong, match=r"runs side by side differ from single runs: params/model/"):
        canaries["digits"]()


def test_an_evaluation_that_is_wrong_side_by_side_is_found(canaries, monkeypatch):
    right = train.over_runs
    factor = {"vmap": 1.001, "map": 1.0}

    def over_runs(function, mode, shared=0):
        return lambda *args: jax.tree.map(lambda leaf: leaf * factor[mode], right(function, mode, shared)(*args))

    assert canaries["evaluation in float32"]() == {"runs_like_single_runs": 4}
    monkeypatch.setattr(train, "over_runs", over_runs)
    with pytest.raises(Wrong, match=r"log p\(x\) of runs side by side differs from that of single runs by 0.0\d+ nats"):
        canaries["evaluation in float32"]()


def test_the_script_asks_for_a_folder():
    done = subprocess.run(["bash", ROOT / SCRIPT, "--small"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: bash scripts/gpu_check.sh OUT [--small]\n")


@pytest.mark.parametrize("path", checks.TESTS)
def test_the_tests_of_the_core_run_without_the_fixtures_of_conftest(path):
    fixtures = re.findall(r"@pytest.fixture.*\ndef (\w+)", (ROOT / "tests/conftest.py").read_text())
    assert fixtures
    assert not [name for name in fixtures if name in (ROOT / path).read_text()]


def test_the_tests_of_the_core_do_not_slow_the_compiler_down():
    modules = [path.removesuffix(".py").replace("/", ".") for path in checks.TESTS]
    script = f"import sys, {', '.join(modules)}; assert 'tests.conftest' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_script_runs_on_the_cpu_without_the_packages_that_a_gpu_machine_lacks(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in MISSING:
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n")
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(hidden), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    done = subprocess.run(
        ["bash", ROOT / SCRIPT, "out", "--small", "--minutes=60"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "out/gpu_check.json").read_text())
    assert (report["device"], report["small"]) == ("1 x cpu", True)
    assert list(report["sections"]) == list(command.SECTIONS)
    rows = {(section, row["case"]): row for section, rows in report["sections"].items() for row in rows}
    assert not [row for row in rows.values() if {"failed", "skipped"} & set(row)]
    bounds = [rows["precision", name]["bound_nats"] for name in ("float32", "tensorfloat32", "bfloat16")]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-3) == pytest.approx(bounds[2], rel=0.05)
    speeds = [row["images_per_second"] for row in rows.values() if "images_per_second" in row]
    assert len(speeds) == 8
    assert min(speeds) > 0
    assert rows["tests", "tests/vae/estimators/test_tools.py"]["passed"] > 10
    assert rows["commands", "train, 8 runs"]["training_seconds"] > 0
    table = (tmp_path / "out/gpu_check.md").read_text().splitlines()
    assert table[0] == "# 1 x cpu, small sizes"
    assert len(table) == 4 + len(rows)
