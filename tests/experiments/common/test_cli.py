"""What the entry points share."""

import importlib.machinery
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.common import cli

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {file.stem for file in (ROOT / "experiments").glob("*.py") if '__name__ == "__main__"' in file.read_text()}
SETTINGS = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")


@pytest.fixture
def folder_in_use(monkeypatch):
    """Reads jax's folder of compiled programs; afterwards it is the one before."""
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in SETTINGS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache(folder_in_use, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli._keep_compiled_programs("auto")
    assert folder_in_use().startswith(str(tmp_path / "vae" / "compiled-"))


def test_compiled_programs_are_kept_where_one_says(folder_in_use, monkeypatch, tmp_path):
    cli._keep_compiled_programs(str(tmp_path))
    assert folder_in_use() == str(tmp_path)


def test_compiled_programs_are_not_kept(folder_in_use, monkeypatch):
    cli._keep_compiled_programs("none")
    assert folder_in_use() is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    cli._keep_compiled_programs("auto")
    assert folder_in_use() is None


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_does_not_wait_for_jax(command):
    """Nor for what is built on it: the import of jax alone takes most of a second."""
    module = f"experiments.{command}"
    program = f"""
import runpy, sys
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    print("imported:", *{{"jax", "flax", "numpy", "matplotlib"}} & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 1, shown.stderr  # absl's, of --help
    assert "flags:" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "imported:"


def test_the_benchmark_has_the_sections_that_its_flags_name():
    from experiments.benchmark import __main__ as benchmark
    from experiments.benchmark import speed

    assert tuple(speed.FUNCTIONS) == benchmark.SECTIONS


def test_too_little_memory_names_the_entry_points_own_flags(capsys, monkeypatch):
    monkeypatch.setattr(cli.flags, "FLAGS", cli.flags.FlagValues())  # not those that other tests have defined
    for hungry, advice in (
        ((), "(no more)\n"),
        (("num_samples", "runs"), "a smaller --num_samples or --runs needs less\n"),
    ):
        with pytest.raises(SystemExit), cli._enough_memory(hungry):
            raise MemoryError
        assert capsys.readouterr().err.endswith(advice)


def test_a_papers_project_has_its_own_commands(monkeypatch, tmp_path):
    """Where there is one beside the module that was started; not in `python file.py`, which has no such place."""
    (tmp_path / "papers_project").mkdir()
    (tmp_path / "papers_project/report.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for started, report, train in (
        ("experiments.train", "experiments.report", "experiments.train"),
        ("papers_project.train", "papers_project.report", "experiments.train"),
        ("timeit", "experiments.report", "experiments.train"),
        (None, "experiments.report", "experiments.train"),
    ):
        spec = started and importlib.machinery.ModuleSpec(started, None)
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
        assert (cli.module("report"), cli.module("train")) == (report, train)
