"""The frame that every command shares."""

import dataclasses
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from experiments.common import cli, packages, settings
from experiments.compare_estimators import flags as compare_flags
from experiments.train import flags as train_flags

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(file.parent.name for file in (ROOT / "experiments").glob("*/__main__.py"))
SETTINGS = (
    *("enable_compilation_cache", "compilation_cache_dir"),
    *("persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes"),
)


@pytest.fixture
def folder_in_use(monkeypatch):
    """A function that reads jax's folder of compiled programs, which is restored afterwards."""
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in SETTINGS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def run(tmp_path):
    """Runs a command in a folder that holds the package `paper`, which adds names to the tables."""
    (tmp_path / "paper").mkdir()
    lines = [
        "from vae import data, estimators, models, objectives",
        "from vae.estimators.gumbel_rao import gumbel_rao",
        "estimators.add('mine', estimators.Entry(gumbel_rao))",
        "objectives.add('my_bound', lambda scale=1.0: objectives.elbo)",
        "models.add_posterior('my_posterior', models.POSTERIORS['categorical'])",
        "models.add_prior('my_prior', lambda components=5: models.StandardPrior())",
        "models.add_likelihood('my_likelihood', lambda scale=1.0: models.LIKELIHOODS.make('gaussian'))",
        "models.add_architecture('my_network', lambda blocks=2, width=8: models.ARCHITECTURES.make('mlp'))",
        "models.add_activation('my_activation', models.ACTIVATIONS['leaky_relu'])",
        "data.add('my_data', lambda data_dir, size=4: None)",
    ]
    (tmp_path / "paper/__init__.py").write_text("\n".join(lines))
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "raising.py").write_text("raise ValueError('wrong in raising')\n")
    (tmp_path / "empty").mkdir()

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        everything = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
        command = [sys.executable, "-m", "experiments.train", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=everything, capture_output=True, text=True, check=False)

    return run


def test_compiled_programs_are_kept_in_the_users_cache(folder_in_use, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli._use_compilation_cache("auto")
    assert folder_in_use().startswith(str(tmp_path / "vae" / "compiled-"))


def test_the_flag_names_the_folder_of_compiled_programs_before_the_environment(folder_in_use, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    cli._use_compilation_cache("auto")
    assert folder_in_use() == "/elsewhere"
    cli._use_compilation_cache("/here")
    assert folder_in_use() == "/here"


def test_programs_that_compile_in_less_than_a_second_are_kept_too(folder_in_use, monkeypatch):
    least = "persistent_cache_min_compile_time_secs"
    monkeypatch.delenv(f"JAX_{least.upper()}", raising=False)
    cli._use_compilation_cache("/here")
    assert getattr(jax.config, f"jax_{least}") == 0.1
    jax.config.update(f"jax_{least}", 0.5)
    monkeypatch.setenv(f"JAX_{least.upper()}", "0.5")
    cli._use_compilation_cache("/here")
    assert getattr(jax.config, f"jax_{least}") == 0.5


def test_programs_go_to_the_named_folder_although_a_package_has_compiled_before(folder_in_use, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    number = lambda folder: len([*(tmp_path / folder).glob("*")])
    compile_one = lambda n: jax.jit(lambda x: x * n + 0.123).lower(np.float32(1)).compile()
    for n, folder in enumerate("ab"):
        cli._use_compilation_cache(str(tmp_path / folder))
        compile_one(n)
    assert number("a") == number("b") > 0
    cli._use_compilation_cache("none")
    compile_one(2)
    assert number("a") == number("b")
    cli._use_compilation_cache(str(tmp_path / "b"))
    compile_one(3)
    assert number("b") == 2 * number("a")


def test_an_empty_folder_of_compiled_programs_is_refused(folder_in_use, capsys):
    with pytest.raises(SystemExit):
        cli._use_compilation_cache("")
    assert "--compilation_cache is empty; give a folder, auto or none" in capsys.readouterr().err


def test_compiled_programs_are_not_kept(folder_in_use, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    cli._use_compilation_cache("none")
    assert not jax.config.jax_enable_compilation_cache


@pytest.fixture(scope="module")
def help_texts(tmp_path_factory):
    """For each command a folder with what --help prints, followed by the slow modules that it has imported. The
    commands are forks of one process that has imported jax."""
    folder = tmp_path_factory.mktemp("help")
    program = f"""
import os, runpy, sys
import vae
for command in {COMMANDS!r}:
    if os.fork():
        assert os.wait()[1] == 0, command
        continue
    sys.stdout = open(f"{folder}/{{command}}", "w")
    sys.argv = [f"experiments.{{command}}", "--help"]
    try:
        runpy.run_module(f"experiments.{{command}}", run_name="__main__", alter_sys=True)
    finally:
        print("imported:", *{{"matplotlib", "plotly", "tensorflow_datasets", "sklearn"}} & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_wait_for_slow_third_parties(command, help_texts):
    shown = (help_texts / command).read_text()
    assert "  --import=" in shown
    assert shown.splitlines()[-1] == "imported:"


def test_help_lists_the_settings_in_their_order(help_texts):
    shown = (help_texts / "train").read_text()
    names = [name for name in settings.FIELDS if name != "data_mean"]
    places = [shown.index(f"\n  --{name}=") for name in names]
    assert places == sorted(places)
    assert "renyi:alpha=0.5" in shown
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize(("command", "module"), [("train", train_flags), ("compare_estimators", compare_flags)])
def test_help_lists_the_flags_of_a_module_in_their_order(command, module, help_texts):
    lines = (help_texts / command).read_text().splitlines()
    listed = [line.split("=")[0].strip().replace("[no]", "")[2:] for line in lines if line.startswith("  --")]
    values = flags.FlagValues()
    module.define_flags(values)
    defined = [flag.name for flag in values.flags_by_module_dict()[module.__name__]]
    assert set(defined) == {field.name for field in dataclasses.fields(module.Options)}
    assert [name for name in listed if name in defined] == defined


@pytest.mark.parametrize(
    ("command", "names"),
    [("toy_bernoulli", ["learning_rate"]), ("policy_gradients", ["beta", "clip", "distance", "lag"])],
)
def test_help_says_that_a_number_must_be_above_zero(command, names, help_texts):
    shown = " ".join((help_texts / command).read_text().split())
    for name in names:
        assert re.search(rf" --{name}=((?! --).)* above 0\. \(a number\) --", shown), name


def test_help_says_the_default_that_depends_on_the_toy(help_texts):
    assert "The default is 1, and 64 for polynomial." in " ".join((help_texts / "toy_bernoulli").read_text().split())


def test_a_warning_is_a_line_without_code(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    cli._print_warnings_in_one_line()
    assert warnings.formatwarning("no labels", UserWarning, "npz.py", 69, "return names") == "UserWarning: no labels\n"


def test_too_little_memory_names_the_flags_of_the_command(capsys, monkeypatch):
    monkeypatch.setattr(cli.flags, "FLAGS", cli.flags.FlagValues())  # not those that other tests have defined
    for memory_flags, advice in (
        ((), "(no more)\n"),
        (("num_samples", "runs"), "a smaller --num_samples or --runs needs less\n"),
    ):
        with pytest.raises(SystemExit), cli._enough_memory(memory_flags):
            raise MemoryError
        assert capsys.readouterr().err.endswith(advice)


# --- Packages of your own


def test_an_imported_package_adds_names_before_the_flags_are_checked(run):
    flags = [
        "--estimator=mine:inner_samples=2",
        "--objective=my_bound:scale=2",
        "--posterior=my_posterior:categories=3",
        "--prior=my_prior:components=3",
        "--likelihood=my_likelihood:scale=2",
        "--architecture=my_network:blocks=3:width=16",
        "--activation=my_activation:negative_slope=0.2",
        "--dataset=my_data:size=6",
    ]
    done = run(*flags, "--num_samples=0", "--import=paper")
    assert "num_samples" in done.stderr  # the names are known, so the next wrong flag is the first to be refused
    assert "there is no" not in done.stderr
    assert "has no option 'sise'; its options are size=4" in run("--dataset=my_data:sise=6", "--import=paper").stderr


def test_the_environment_variable_imports_as_the_flag_does(run):
    assert "there is no estimator 'mine'" in run("--estimator=mine").stderr
    assert "num_samples" in run("--estimator=mine", "--num_samples=0", VAE_IMPORT="paper").stderr


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("papre", "error: --import=papre: there is no package 'papre'; start the command in the folder"),
        ("paper.nowhere", "error: --import=paper.nowhere: there is no package 'paper.nowhere'"),
        (
            "../paper.py",
            "error: --import=../paper.py: give the module's name without folder and .py, such as --import=p",
        ),
        ("empty", "error: --import=empty: {}/empty has no __init__.py, so nothing was imported; start the command in"),
    ],
)
def test_a_package_that_does_not_exist_is_refused_in_one_sentence(package, sentence, run, tmp_path):
    done = run(f"--import={package}")
    assert done.returncode == 1
    assert done.stderr.startswith(sentence.format(tmp_path))
    assert done.stderr.count("\n") == 1


def test_a_package_that_the_environment_names_is_refused_with_the_name_of_the_variable(run):
    assert run(VAE_IMPORT="papre").stderr.startswith("error: VAE_IMPORT=papre: there is no package 'papre'; start")
    assert run(VAE_IMPORT="paper.py/").stderr.startswith("error: VAE_IMPORT=paper.py/: give the module's name without")


def test_an_error_inside_a_package_keeps_its_traceback(run):
    for package, reason in (("broken", "No module named 'no_such_package'"), ("raising", "wrong in raising")):
        done = run(f"--import={package}")
        assert reason in done.stderr
        assert "Traceback" in done.stderr


def test_a_file_that_a_function_of_the_user_leaves_open_is_written_at_the_end(tmp_path):
    """A function of --on_evaluation does not know which call is the last. Its objects may refer to each other."""
    program = f"""
from experiments.common import cli

class Log:
    def __init__(self):
        self.log = self
        self.file = open({str(tmp_path / "log")!r}, "w")

def main():
    global log
    log = Log()
    log.file.write("epoch 1")

cli.run(main)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert (tmp_path / "log").read_text() == "epoch 1"


def test_a_printed_command_repeats_the_imports(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--seed=1", "--import=paper,other"])
    monkeypatch.setenv("VAE_IMPORT", "other, third")
    assert packages.imported() == ("paper", "other", "third")
    assert cli.command("report", "--workdir=a b") == (
        "python -m experiments.report --import=paper,other,third '--workdir=a b'"
    )
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python3", "-m", "experiments.train", *sys.argv[1:]])
    typed = "python -m experiments.train --seed=1 --import=paper,other"
    assert cli.this_command() == f"{typed} --import=paper,other,third"
    monkeypatch.delenv("VAE_IMPORT")
    assert cli.this_command() == typed
    monkeypatch.setattr(sys, "argv", ["train", "--seed=1"])
    assert cli.command("report") == "python -m experiments.report"


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("validation_size=3 must be 0 for dataset=mine", "--validation_size=3 must be 0 for --dataset=mine"),
        ("(dataset=mine)", "(--dataset=mine)"),
        ("--dataset=mine is unknown", "--dataset=mine is unknown"),
        ("dataset=npz:/tmp/dataset=x.npz", "--dataset=npz:/tmp/dataset=x.npz"),
        ("gumbel_rao:dataset=3", "gumbel_rao:dataset=3"),
        ("my_dataset=3 and levels=2", "my_dataset=3 and levels=2"),
        ("--run=seed=1,dataset=mine matches 2 runs", "--run=seed=1,dataset=mine matches 2 runs"),
    ],
)
def test_an_argument_in_the_librarys_sentence_becomes_a_flag(sentence, expected):
    assert cli.with_flags(sentence, ["dataset", "validation_size"]) == expected
