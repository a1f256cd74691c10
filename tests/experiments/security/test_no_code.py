"""Files and flags that come from others run no code: nothing is unpickled, evaluated, imported or given to a shell.

Objects in .npz files are in tests/vae/data/test_npz.py, and whole commands on hostile workdirs in test_bad_input.py.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments.common import settings
from experiments.train import multihost
from experiments.train.slurm_job import Command
from tests.helpers.data_sets import some_images, write_tfds
from vae import checkpoint
from vae import data as datasets

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted([*(ROOT / "vae").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])


def _names(tree: ast.AST) -> set[str]:
    """Modules that are imported, and functions that are called, as they are written."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} | {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg}
    return found


FORBIDDEN = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "ctypes.util",
}
FORBIDDEN |= {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy", "shell=True"}
FORBIDDEN |= {"allow_pickle=True", "socket", "http", "urllib", "jax.profiler.start_server"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_neither_unpickles_nor_evaluates_nor_listens(path):
    tree = ast.parse(path.read_text())
    assert not _names(tree) & FORBIDDEN - ({"urllib"} if path.name == "checkpoint.py" else set())  # quotes a path
    # Only the command line sets --import=PACKAGE and flags such as --problem=MODULE:FUNCTION.
    if path.name != "packages.py":
        assert not {"importlib.import_module", "importlib"} & {n for n in _names(tree) if n.endswith("import_module")}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) == "np.load":
            assert "allow_pickle=False" in ast.unparse(call)


def test_the_scan_sees_what_it_looks_for():
    """The control."""
    for line in ("import pickle", "from dill import loads", "eval('1')", "subprocess.run('x', shell=True)"):
        assert _names(ast.parse(line)) & FORBIDDEN


def test_a_job_is_words():
    """submitit pickles what it submits: an object of this one class, which holds a command line and folders' names."""
    words, folders = ["python", "-m", "experiments.train"], ["run/checkpoints"]
    assert vars(Command(words, folders)) == {"words": words, "folders": folders}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module that could be imported, and is not: after the test it must not have been."""
    (tmp_path / "hostile_module.py").write_text("class Handler:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "hostile_module"
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("name", [name for name, field in settings.FIELDS.items() if field.type is str])
def test_a_configuration_names_no_code(name, hostile):
    """Also not those settings that are looked up in a table of some module."""
    for value in (f"{hostile}:Handler", "os:system", "vae.models:POSTERIORS", "__class__"):
        if name == "dataset":
            with pytest.raises((ValueError, OSError)):
                datasets.load(settings.from_json({name: value}).dataset)
        else:
            with pytest.raises(ValueError, match="not one of|choose one of|not of the form"):
                settings.build(settings.from_json({name: value}), name)


def test_a_checkpoint_names_no_code(hostile, tmp_path):
    state = {"w": jnp.arange(4.0)}
    with checkpoint.writer(tmp_path / "good") as (save, _):
        save(1, state)
    written = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*META*")]
    assert any("item_handlers" in (tmp_path / "good" / path).read_text() for path in written)
    for path in written:
        copy = shutil.copytree(tmp_path / "good", tmp_path / "copy")
        content = json.loads((copy / path).read_text())
        (copy / path).write_text(json.dumps(_replaced(content, f"{hostile}.Handler")))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = checkpoint.restore(copy, state)
        assert (found is None) == ["cannot be read" in str(warning.message) for warning in told].count(True), told
        if found:
            np.testing.assert_array_equal(found[1]["w"], state["w"])
        shutil.rmtree(copy)


def _replaced(content, text: str):
    if isinstance(content, dict):
        return {key: _replaced(value, text) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced(value, text) for value in content]
    return text if isinstance(content, str) else content


@pytest.mark.parametrize("inside", [False, True])
def test_a_prepared_data_set_names_no_code(inside, hostile, tmp_path):
    """TFDS itself imports the modules that features.json names."""
    folder = tmp_path / "data/tiny/1.0.0"
    write_tfds(folder, {"train": some_images(4), "test": some_images(2)})
    features = json.loads((folder / "features.json").read_text())
    images = features["featuresDict"]["features"]
    if inside:  # JSON inside of JSON
        content = {"image": {"type": f"{hostile}.Handler", "content": {}}}
        features = {"pythonClassName": features["pythonClassName"], "jsonFeature": {"json": json.dumps(content)}}
    else:
        images["image"]["pythonClassName"] = f"{hostile}.Handler"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(OSError, match="does not belong to TFDS, 'hostile_module.Handler'"):
        datasets.load("tiny", tmp_path / "data")


@pytest.mark.parametrize(
    ("host", "bound"), [("localhost", "127.0.0.1:99"), ("127.0.0.1", "127.0.0.1:99"), ("there", None)]
)
def test_processes_of_one_machine_meet_on_it_alone(host, bound, monkeypatch):
    """Only --multihost listens, and then where the user says that the others are."""
    address = {"JAX_COORDINATOR_ADDRESS": f"{host}:99", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    for name, value in address.items():
        monkeypatch.setenv(name, value)
    assert multihost.addresses().get("coordinator_bind_address") == bound


@pytest.mark.parametrize(("place", "code"), [("a & b's [c]; d", 0), ("$(touch escaped)", 1), ("`touch escaped`", 1)])
def test_a_new_project_quotes_where_it_is(place, code, tmp_path):
    """The checkout's own folder goes into the new project's script and configuration."""
    checkout = tmp_path / place / "checkout"
    (checkout / "vae/estimators").mkdir(parents=True)
    (checkout / "scripts").mkdir()
    (checkout / "requirements.txt").touch()
    shutil.copytree(ROOT / "scripts/template", checkout / "scripts/template")
    script = shutil.copy(ROOT / "scripts/new_project.sh", checkout / "scripts")
    command, environment = ["bash", script, "mine", "new one"], os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "new one").exists() == (code == 0)
    if code == 0:
        reproduce = (tmp_path / "new one/scripts/reproduce.sh").read_text()
        lines = "\n".join(line for line in reproduce.splitlines() if line.startswith("default="))
        shown = subprocess.run(
            ["bash", "-c", f'{lines}\nprintf %s "$default"'], capture_output=True, text=True, check=True
        )
        assert shown.stdout == f"../{place}/checkout"
    assert not list(tmp_path.rglob("escaped"))


def test_flags_alone_name_code(hostile, tmp_path):
    """Modules are imported by name in two places, --problem and --import, which only the command line sets."""
    from experiments.compare_estimators import __main__ as compare_estimators

    values = flags.FlagValues()
    compare_estimators.define_flags(values)
    values(["", "--problem=quadratic"])
    assert values["problem"].default is None
    assert [name for name in values if "module:" in values[name].help] == ["problem"]
