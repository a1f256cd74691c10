"""Commands in an environment that is not the developer's: another locale, another matplotlib, exported settings of jax,
warnings that are errors, names that are too long."""

import ast
import io
import json
import os
import subprocess
import sys

import jax
import matplotlib
import numpy as np
import pytest
from absl import flags

from experiments.common import cli, files, plots, program_folder
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.train import __main__ as train_command
from experiments.train import sweep
from tests.helpers import entry_points
from tests.helpers.entry_points import ROOT
from vae.data import Dataset

SOURCES = [path for folder in ("experiments", "vae", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
# Everything that a shell may export to a command, at once.
HOSTILE = {
    **{"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    **{"MPLBACKEND": "nonsense", "PYTHONWARNINGS": "error"},
    **{"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"},
    **{"JAX_RANDOM_SEED_OFFSET": "5", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"},
    **{"JAX_DISABLE_JIT": "1", "JAX_DEBUG_NANS": "1", "JAX_DEBUG_KEY_REUSE": "1", "JAX_TRANSFER_GUARD": "disallow"},
}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """A sweep of two tiny runs in a plain environment, and the same sweep in a hostile one."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: qtagg\nsavefig.format: svg\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", images=rng.integers(0, 256, (40, 3, 2), dtype=np.uint8))
    flags_of_both = [f"--dataset=npz:{folder}/data.npz", "--seed=0,1", "--epochs=2", "--batch_size=8", "--hidden=4"]
    flags_of_both += ["--latent_dim=2", "--eval_samples=2", "--sweep_mode=map"]
    [plain] = entry_points.run("experiments.train", [[f"--workdir={folder}/plain", *flags_of_both]], folder / "log")
    command = [sys.executable, "-m", "experiments.train", f"--workdir={folder}/hostile", *flags_of_both]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | HOSTILE
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    hostile = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    return folder, plain, hostile


def test_a_hostile_environment_changes_no_byte_of_a_result(sweeps):
    folder, plain, hostile = sweeps
    assert (plain.code, hostile.returncode) == (0, 0), sweeps
    [program] = (folder / "plain/programs").iterdir()
    assert {path.name for path in program.glob("*.json*")} == {"runs.json", "metrics.jsonl", "timing.jsonl"}
    for path in [program / "metrics.jsonl", folder / "plain/results.csv", folder / "plain/results.md"]:
        assert (folder / "hostile" / path.relative_to(folder / "plain")).read_bytes() == path.read_bytes()
    expected = ProgramFolder(program)
    same = ProgramFolder(folder / "hostile" / program.relative_to(folder / "plain"))
    assert same.runs() == expected.runs()
    assert same.results() == expected.results()
    assert all(expected.results())
    assert "±" in (folder / "hostile/results.md").read_text(encoding="utf-8")


def test_a_hostile_environment_changes_no_byte_of_a_picture(sweeps):
    folder, *_ = sweeps
    pictures = [folder / f"plain/figures/rate_distortion.{kind}" for kind in ("png", "pdf")]
    pictures += (folder / "plain").glob("programs/*/figures/*/prior_samples.png")
    assert len(pictures) == 3  # one of them of the better run
    for path in pictures:
        assert (folder / "hostile" / path.relative_to(folder / "plain")).read_bytes() == path.read_bytes()


def test_a_hostile_environment_is_named_and_nothing_else_is_said(sweeps):
    _, plain, hostile = sweeps
    lines = hostile.stderr.decode("ascii").splitlines()
    ignored = [name for name in HOSTILE if name.startswith("JAX_")]
    assert sorted(line.split("=")[0] for line in lines) == sorted(ignored)
    assert all("is ignored; commands use" in line for line in lines)
    assert b"? " in hostile.stdout  # where others see ±
    assert plain.err == ""


def test_text_files_are_opened_as_utf_8_everywhere():
    """A file that is opened without an encoding has the encoding of the user's locale."""
    unnamed = []
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(call, ast.Call) and _opens_text(call) and "encoding" not in [k.arg for k in call.keywords]:
                unnamed.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not unnamed


def _opens_text(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" and not any("b" in mode for mode in _words(call))
    if not isinstance(call.func, ast.Attribute):
        return False
    ours = isinstance(call.func.value, ast.Name) and call.func.value.id == "files"  # files.write_text is ours
    if call.func.attr in ("read_text", "write_text"):
        return not ours
    return any(keyword.arg == "text" for keyword in call.keywords) and call.func.attr in ("run", "Popen")


def _words(call: ast.Call) -> list[str]:
    return [argument.value for argument in call.args[1:] if isinstance(argument, ast.Constant)]


def test_a_terminal_without_a_character_shows_another(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    cli._replace_characters_that_cannot_be_shown()
    print("1 ± 2", flush=True)
    assert terminal.buffer.getvalue() == b"1 ? 2\n"


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize backend 'tpu'"), AssertionError()])
def test_an_exported_platform_without_a_device_is_one_sentence(error, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(RuntimeError, match="a fault of another kind"), cli._a_device():
        raise RuntimeError("a fault of another kind")
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(SystemExit), cli._a_device():
        jax.devices()
    assert capsys.readouterr().err.startswith("error: jax finds no device for JAX_PLATFORMS=tpu; unset the variable")


def test_an_exported_platform_without_the_cpu_is_refused(capsys):
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "cuda")
        with pytest.raises(SystemExit):
            cli._check_platforms()
        jax.config.update("jax_platforms", "cuda,cpu")
        cli._check_platforms()
    finally:
        jax.config.update("jax_platforms", before)
    sentence = "error: JAX_PLATFORMS=cuda leaves out the CPU; unset the variable, or set JAX_PLATFORMS=cuda,cpu\n"
    assert capsys.readouterr().err == sentence


# --- Pictures


def test_pictures_have_the_style_of_the_project_whatever_the_users_style_is():
    def drawn() -> tuple:
        figure = plots.compare_runs([{"label": "a", "rows": [], "seconds": None}])
        return figure.axes[0].xaxis.label.get_fontsize(), figure.axes[0].get_facecolor(), figure.get_dpi()

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        expected = drawn()
        matplotlib.rcParams.update({"axes.facecolor": "black", "axes.labelsize": 30, "figure.dpi": 7})
        assert drawn() == expected


def test_a_picture_that_cannot_be_drawn_costs_one_sentence(capsys, tmp_path):
    with cli.drawing(tmp_path):
        raise RuntimeError("latex could not be found\nand much more")
    sentence = f"pictures are missing in {tmp_path} (RuntimeError: latex could not be found)\n"
    assert capsys.readouterr().err == sentence


# --- Folders


def test_a_folder_whose_name_is_too_long_is_refused_before_anything_is_read(monkeypatch, capsys):
    values = flags.FlagValues()
    train_command.define_flags(values)
    values(["train", f"--workdir={'x' * 300}"])
    monkeypatch.setattr(train_command, "Sweep", lambda *args: pytest.fail("the data were read"))
    with pytest.raises(SystemExit):
        train_command.main(values)
    assert "xxx... is longer than a file system allows; choose a shorter name" in capsys.readouterr().err
    with pytest.raises(ValueError, match="longer than a file system allows"):
        files.check_name("/".join(["folder"] * 1000))


def test_the_folders_of_a_sweep_have_names_that_every_file_system_takes(data, tmp_path):
    """However many settings are swept, and whatever characters their values have."""
    run = Settings(dataset=f"npz:{'größe' * 50}.npz", posterior="binary_concrete:temperature=0.123456789")
    name = sweep._folder_name([run], run.json())
    assert len(name) <= 255
    assert name.isascii()
    other = Settings(learning_rate=0.123456789, seed=1)
    program = ProgramFolder(tmp_path)
    files.write_json(tmp_path / "runs.json", program_folder.describe([run, other], data))
    for name in program.run_names():
        assert len(name) <= 255
        assert name.isascii()
    assert train_command.default_workdir([run]).name.isascii()
    assert len(train_command.default_workdir([run]).name) < 60


@pytest.fixture
def data():
    images = np.zeros((2, 2, 2, 1), np.uint8)
    return Dataset("mine", images, images, images, levels=2, checksum="0" * 64)


def test_a_run_remembers_the_folder_of_its_data_as_long_as_it_exists(data, tmp_path):
    folder = ProgramFolder(tmp_path / "run")
    (tmp_path / "data").mkdir()
    folder.claim([Settings()], data, data_dir=str(tmp_path / "data"))
    folder.close()
    assert folder.data_dir() == str(tmp_path / "data")
    (tmp_path / "data").rmdir()
    assert folder.data_dir() is None


def test_a_claim_makes_no_folder_of_pictures(data, tmp_path):
    folder = ProgramFolder(tmp_path)
    folder.close()  # nothing is claimed yet
    folder.claim([Settings()], data)
    folder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "runs.json"]
    assert "data_dir" not in json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))["data"]
