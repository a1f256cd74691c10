"""The laboratory from its command line: what it writes and what it refuses."""

import json
import re
import shutil

import numpy as np
import pytest
from absl import flags

from experiments.common import plots, problems
from experiments.common.store import Store
from experiments.common.task import Task
from experiments.compare_estimators import __main__ as compare_estimators
from experiments.compare_estimators import measure_all
from experiments.compare_estimators.choose_cases import choose_cases
from tests.helpers.laboratory import read, run, run_in_shell
from vae import diagnostics

USERS = """
import jax
import jax.numpy as jnp
from experiments.common import problems
from vae import distributions

def problem():
    params = {"phi": {"logits": jnp.array([0.3, -0.8, 1.0])}, "theta": {"w": jnp.array([1.0, 2.0, -1.0])}}
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    f = lambda params, z: jnp.square(z @ params["theta"]["w"] - 0.4)
    return problems.from_integrand("mine", params, posterior, f, log_q_weight=1.0)

def number():
    return 3
"""

BROKEN = """
import jax.numpy as jnp
from experiments.common import problems
from vae import distributions

def broken_f():
    posterior = lambda params: distributions.Normal(**params["phi"])
    phi = {"mean": jnp.zeros(2), "log_var": jnp.zeros(2)}
    return problems.from_integrand("broken", {"phi": phi}, posterior, lambda params, z: z @ jnp.ones((3, 4)))

def broken_posterior():
    return broken_f()._replace(bounds={"elbo": lambda params, data, expect: int("forty")})

def broken_problem():
    raise ValueError("a mistake of the user's")
"""


QUADRATIC = ["--problem=quadratic", "--estimators=reparam,reinforce,leave_one_out", "--num_samples=1,4"]
QUADRATIC += ["--draws=4000", "--rounds=3"]


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory):
    """The results of three estimators with K = 1 and 4 on a cost whose gradients are known."""
    folder = tmp_path_factory.mktemp("quadratic")
    run(*QUADRATIC, f"--output={folder}")
    return folder


def test_results_have_a_row_for_each_estimator_and_k(quadratic):
    rows = read(quadratic / "results.csv")
    assert [(row["estimator"], row["num_samples"]) for row in rows] == [
        ("reparam", "1"),
        ("reinforce", "1"),
        ("leave_one_out", "2"),
        ("reparam", "4"),
        ("reinforce", "4"),
        ("leave_one_out", "4"),
    ]
    assert float(rows[0]["phi_variance"]) == pytest.approx(4 + 4 * 4 + 8, rel=0.15)  # k = -1: m = 2


def test_every_row_is_complete_and_consistent(quadratic):
    for row in read(quadratic / "results.csv"):
        assert row["truth"] == "exact (closed form)"
        assert float(row["phi_truth_norm"]) == pytest.approx(20**0.5, rel=1e-5)  # 4 for the mean, and 2 for the scale
        assert row["evaluations"] == row["num_samples"]
        assert float(row["flops"]) > 0
        assert float(row["seconds"]) > 0
        assert row["phi_biased"] == "False"
        for figure in ("variance", "snr", "cosine", "variance_x_flops", "variance_x_seconds"):
            low, value, high = (float(row[f"phi_{figure}{end}"]) for end in ("_low", "", "_high"))
            assert low <= value <= high
        product = float(row["phi_variance"]) * float(row["flops"])
        assert float(row["phi_variance_x_flops"]) == pytest.approx(product, rel=1e-5)


def test_layers_and_pairs_have_a_row_for_each(quadratic):
    layers = read(quadratic / "layers.csv")
    pairs = read(quadratic / "pairs.csv")
    assert {row["part"] for row in layers} == {"phi", "phi.mean", "phi.scale"}
    assert len(pairs) == 2 * 3 * 3  # two K, three pairs, three figures
    first = next(p for p in pairs if (p["first"], p["second"], p["figure"]) == ("reparam", "reinforce", "variance"))
    assert first["verdict"] == "first is better"
    assert float(first["ratio_low"]) < float(first["ratio"]) < float(first["ratio_high"]) < 1


def test_tables_figures_and_config_are_written(quadratic):
    markdown, latex = ((quadratic / f"results.{kind}").read_text() for kind in ("md", "tex"))
    assert "| reparam" in markdown
    assert "gradient of phi" in markdown
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 1
    assert "RLOO" in latex
    header = r"estimator & K & evaluations & bias along truth (\%) & variance & variance $\times$ FLOP & verdict \\"
    caption = r"quadratic, cost\_parameter=$-$1, elbo: gradient of phi; truth: exact (closed form). 4000 draws"
    for part in (header, caption, r"Brackets are 95 \% intervals."):
        assert part in latex
    assert "biased by its paper" not in latex  # no estimator has a star
    for name in ("bias", "variance_cost", "snr"):
        for kind in ("png", "pdf"):
            assert (quadratic / "figures" / f"{name}.{kind}").stat().st_size > 5000
    config = json.loads((quadratic / "config.json").read_text())
    assert config["settings"]["draws"] == 4000
    assert config["settings"]["objective"] == "elbo"
    assert config["settings"]["matmul_precision"] == "float32"
    assert "jax" in config["versions"]


@pytest.fixture
def measures_nothing(monkeypatch):
    """Fails where a cost, the figures or the time of an estimator is measured."""

    def fail(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(Task, "cost", fail)
    monkeypatch.setattr(measure_all, "measure", fail)
    monkeypatch.setattr(diagnostics, "interleaved_seconds", fail)


@pytest.mark.usefixtures("measures_nothing")
def test_the_same_command_measures_nothing_again_and_writes_the_same_bytes(quadratic, tmp_path):
    shutil.copytree(quadratic, tmp_path, dirs_exist_ok=True)
    written = {path for path in tmp_path.rglob("*.*") if path.suffix != ".json"}  # config.json has the seconds
    for path in written:
        path.write_bytes(b"")
    run(*QUADRATIC, f"--output={tmp_path}")
    assert {path.name for path in written} >= {"results.csv", "pairs.csv", "results.md", "results.tex", "bias.pdf"}
    for path in written:
        assert path.read_bytes() == (quadratic / path.relative_to(tmp_path)).read_bytes(), path.name


@pytest.fixture
def draws_at_once(monkeypatch):
    """Pictures are empty files."""

    def save(figure, path):
        path.parent.mkdir(exist_ok=True)
        path.with_name(f"{path.name}.png").touch()
        return [path.with_name(f"{path.name}.png")]

    monkeypatch.setattr(plots, "save", save)


@pytest.mark.usefixtures("measures_nothing", "draws_at_once")
def test_only_the_pictures_that_the_command_has_drawn_are_listed(quadratic, tmp_path, capsys):
    shutil.copytree(quadratic / "store", tmp_path / "store")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/bias_cost_parameter=2.png").touch()  # of another command with this --output
    run(*QUADRATIC, f"--output={tmp_path}")
    [figures] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("figures: ")]
    names = [path.rpartition("/")[2] for path in figures.split(", ")]
    assert names == ["bias.png", "variance_cost.png", "snr.png"]


@pytest.mark.usefixtures("measures_nothing", "draws_at_once")
def test_the_store_and_the_pictures_may_lie_on_another_disk(quadratic, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(quadratic / "store")
    (tmp_path / "figures").symlink_to(tmp_path / "disk")
    run(*QUADRATIC, f"--output={tmp_path}")
    assert (tmp_path / "disk/bias.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_columns_chooses_the_columns_of_the_tables(quadratic, measures_nothing, tmp_path):
    shutil.copytree(quadratic / "store", tmp_path / "store")
    columns = "--columns=estimator,num_samples,variance,variance_x_flops,verdict"
    run(*QUADRATIC, columns, f"--output={tmp_path}")
    markdown, latex = ((tmp_path / f"results.{kind}").read_text() for kind in ("md", "tex"))
    header = [cell.strip() for cell in markdown.splitlines()[2].split("|")[1:-1]]
    assert header == ["estimator", "K", "variance", "variance x FLOP", "verdict"]
    lines = [line.split(" & ") for line in latex.splitlines() if " & " in line][1:]
    bold = [[cell.startswith(r"\textbf{") for cell in line] for line in lines]
    assert [line[0] for line in lines] == 2 * ["Reparameterization", "REINFORCE", "RLOO"]
    assert bold[0] == [False, False, False, True, False]  # the best with K = 1
    assert bold[3] == [False, False, True, True, False]
    assert not any(sum((bold[i] for i in (1, 2, 4, 5)), []))
    assert "Bold: the best of the unbiased estimators." in latex
    assert read(tmp_path / "results.csv") == read(quadratic / "results.csv")


@pytest.mark.usefixtures("undrawn", "measures_nothing")
def test_a_caption_explains_bold_figures_only_if_there_are_some(quadratic, tmp_path):
    shutil.copytree(quadratic / "store", tmp_path / "store")
    run(*QUADRATIC, "--columns=estimator,verdict", f"--output={tmp_path}")
    assert "Bold" not in (tmp_path / "results.tex").read_text()


def test_a_command_says_that_it_continues_only_if_its_measurements_are_stored():
    def is_stored(*arguments):
        values = flags.FlagValues()
        compare_estimators.define_flags(values)
        values(["compare_estimators", *arguments])
        return compare_estimators.is_stored(values)

    assert is_stored()
    assert is_stored("--problem=coins:target=0.3")
    assert not is_stored("--problem=mine:problem")


@pytest.mark.slow
def test_a_list_of_one_problem_is_a_sweep_over_its_option(tmp_path):
    problems = "--problem=cosine:cost_parameter=2,cosine:cost_parameter=0.5"
    small = ["--draws=2000", "--rounds=3", "--cv_steps=20"]
    run(problems, "--estimators=reparam,nvil", *small, f"--output={tmp_path}")
    rows = read(tmp_path / "results.csv")
    assert [(row["estimator"], row["cost_parameter"]) for row in rows] == [
        ("reparam", "0.5"),
        ("nvil", "0.5"),
        ("reparam", "2.0"),
        ("nvil", "2.0"),
    ]
    assert (tmp_path / "figures" / "variance_cost_parameter.png").exists()


def test_a_users_problem_with_a_budget(tmp_path, monkeypatch, capsys):
    """A discrete problem, whose truth is a sum over all states."""
    (tmp_path / "with_a_budget.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "save", lambda figure, path: [])
    arguments = ["--estimators=reinforce,leave_one_out", "--budget=evaluations:5", "--draws=2000", "--rounds=3"]
    run("--problem=with_a_budget:problem", *arguments, "--output=out")
    said = capsys.readouterr()
    assert "the budget buys leave_one_out K=5" in said.out
    rows = read(tmp_path / "out" / "results.csv")
    assert {row["num_samples"] for row in rows} == {"5"}
    assert {row["truth"] for row in rows} == {"exact (sum over all states)"}
    assert {row["phi_biased"] for row in rows} == {"False"}
    assert "it/s" not in said.err  # no progress bar without a terminal
    assert re.findall("choosing K . of .: \\S+", said.out) == [
        "choosing K 1 of 2: reinforce",
        "choosing K 2 of 2: leave_one_out",
    ]
    assert re.search(r"measuring 2 of 2: leave_one_out K=5 \(after \d+ s\)\n", said.out)
    assert re.search(r"^comparing \(after \d+ s\)\ndrawing \(after \d+ s\)\n", said.out, re.MULTILINE)


@pytest.mark.slow
def test_a_users_problem_from_the_shell(tmp_path):
    (tmp_path / "from_the_shell.py").write_text(USERS)
    arguments = ["--estimators=reinforce", "--draws=100", "--rounds=3", "--output=out"]
    done = run_in_shell(
        "experiments.compare_estimators", "--problem=from_the_shell:problem", *arguments, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out" / "results.csv")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--problem=nonsense"], "there is no problem 'nonsense'; choose one of quadratic"),
        (["--problem=no_such_module:f"], "cannot be imported"),
        (["--problem=experiments.common.problems:nothing_there"], "cannot be imported"),
        (
            ["--problem=json:loads"],
            "--problem=json:loads cannot be called without arguments; give a function that needs no arguments",
        ),
        (["--problem=json:loads,quadratic"], "--problem takes one module:function"),
        (["--problem=quadratic", "--workdir=x"], "name two problems"),
        (["--problem=quadratic,cosine"], "--problem sweeps the options of one problem"),
        (["--problem=coins:power=3,coins:target=0.3"], "one option at a time, not target and power"),
        (["--problem=coins,coins:dimensions=2"], "cannot sweep dimensions, which changes the size"),
        (["--problem=quadratic:cost_parameter=x"], "cost_parameter=x is not a number"),
        (["--problem=rainforth:cost_parameter=1"], "rainforth has no option 'cost_parameter'"),
        (["--workdir=/nonexistent/run"], "/nonexistent/run does not exist"),
        (["--estimators=nonsense"], "there is no estimator 'nonsense'; choose one of reparam"),
        (
            ["--estimators=dreg"],
            "dreg cannot estimate gradients of bounds that average over samples, such as elbo, only of",
        ),
        (["--objective=iwae"], "--objective=iwae is not an objective of quadratic; choose one of elbo"),
        (
            ["--estimators=reparam_antithetic", "--num_samples=3"],
            "reparam_antithetic: antithetic samples come in pairs: num_samples=3 must be even",
        ),
        (
            ["--problem=coins", "--estimators=arm", "--num_samples=3"],
            "arm and disarm, need an even number of samples",
        ),
        (["--batch_size=3"], "--problem=coins:batch_size=3"),
        (["--draws=1009"], "--draws=1009: give a multiple of 10, such as 1010"),
        (["--reference_draws=1234567"], "--reference_draws=1234567 must be a multiple of 50"),
        (["--reference_draws=50"], "--reference_draws=50 must be a multiple of 50, and 100 or more"),
        (["--reference=nonsense"], "--reference=nonsense: there is no estimator 'nonsense'"),
        (["--reference=dreg"], "--reference=dreg: dreg cannot estimate gradients"),
        (["--problem=coins", "--reference=gumbel_softmax"], "--reference=gumbel_softmax is biased, so its mean is not"),
        (["--columns=fraction"], "--columns=fraction: there is no such column; choose some of estimator, temperature"),
        (["--columns=variance_x_evaluations"], "--columns=variance_x_evaluations: there is no such column"),
        (["--budget=5"], "neither evaluations:N nor flops:N"),
        (["--budget=flops:-1"], "neither evaluations:N nor flops:N"),
        (["--budget=evaluations:4", "--num_samples=2,3"], "leave out --num_samples"),
        (
            ["--budget=evaluations:1", "--estimators=leave_one_out"],
            "is too small for leave_one_out: K=2 costs 2",
        ),
        (["--problem=rainforth", "--objective=iwae", "--budget=flops:1e6"], "iwae is a different bound for each K"),
        (
            ["--problem=rainforth", "--objective=iwae", "--estimators=vimco"],
            "vimco needs K=2, and --objective=iwae is a different bound for K=1",
        ),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(*arguments, f"--output={tmp_path}")
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_users_function_must_return_a_problem(tmp_path, monkeypatch, capsys):
    (tmp_path / "of_a_number.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run("--problem=of_a_number:number")
    assert "--problem=of_a_number:number returned a int" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["broken_f", "broken_posterior", "broken_problem"])
def test_a_mistake_in_a_users_problem_keeps_its_traceback(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        run(f"--problem=broken:{name}", f"--output={tmp_path / 'out'}")
    assert "left out" not in capsys.readouterr().out


def test_an_estimator_that_would_change_the_bound_is_left_out(tmp_path, capsys):
    """`leave_one_out` needs K = 2, and the bound with K = 2 is not the bound with K = 1."""
    task = Task(problems.rainforth(), "iwae")
    names = ["reparam", "leave_one_out", "vimco"]
    cases = choose_cases(task, names, samples=[1], budget=None, strict=False, store=Store(tmp_path))
    assert [(case.estimator, case.num_samples) for case in cases] == [("reparam", 1)]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert [line.split(": ")[1] for line in printed] == ["leave_one_out", "vimco"]


@pytest.mark.slow
def test_rainforth_slopes(tmp_path):
    """SNR against K = 4..256: theta +1/2, phi -1/2, DReG's phi up (arXiv:1802.04537)."""
    draws = ["--draws=10000", "--reference_draws=10000", "--reference=dreg", "--rounds=3"]
    problem = ["--problem=rainforth", "--objective=iwae", "--num_samples=4,16,64,256", "--estimators=reparam,dreg"]
    run(*problem, *draws, f"--output={tmp_path}")
    rows = read(tmp_path / "layers.csv")

    def slope(name, part):
        points = [(int(r["num_samples"]), float(r["snr"])) for r in rows if (r["estimator"], r["part"]) == (name, part)]
        return np.polyfit(*np.log(np.array(points).T), 1)[0]

    assert slope("reparam", "theta") == pytest.approx(0.5, abs=0.1)
    assert slope("reparam", "phi.b") == pytest.approx(-0.5, abs=0.1)
    assert slope("dreg", "phi") > 0.3
