"""The laboratory from its command line: what it writes, what it refuses, and what a budget buys."""

import contextlib
import csv
import functools
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments.common import build, candidates, problems, tables
from experiments.common.run_folder import RunFolder
from experiments.compare_estimators import __main__ as compare_estimators
from experiments.compare_estimators import laboratory
from experiments.compare_estimators import verdicts as laboratory_tables
from vae import diagnostics, distributions
from vae.estimators import BY_NAME

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments):
    values = flags.FlagValues()
    compare_estimators.define_flags(values)
    values(["compare_estimators", *arguments])
    compare_estimators.main(values)


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory):
    """K = 1 and 4 of three estimators on a cost whose gradients are known."""
    folder = tmp_path_factory.mktemp("quadratic")
    run(
        "--problem=quadratic",
        "--estimators=reparam,reinforce,leave_one_out",
        "--num_samples=1,4",
        "--draws=4000",
        "--rounds=3",
        f"--output={folder}",
    )
    return folder


def test_results_have_a_row_for_each_estimator_and_k(quadratic):
    rows = read(quadratic / "results.csv")
    found = [(row["estimator"], row["num_samples"]) for row in rows]
    assert found == [(name, k) for k in "14" for name in ("reparam", "reinforce", "leave_one_out")][:2] + [
        ("leave_one_out", "2"),
        ("reparam", "4"),
        ("reinforce", "4"),
        ("leave_one_out", "4"),
    ]
    reparam = rows[0]
    assert float(reparam["phi_variance"]) == pytest.approx(4 + 4 * 4 + 8, rel=0.15)  # k = -1: m = 2
    for row in rows:
        assert row["truth"] == "exact (closed form)"
        assert row["evaluations"] == row["num_samples"]
        assert float(row["flops"]) > 0
        assert float(row["seconds"]) > 0
        assert row["phi_biased"] == "False"
        for figure in ("variance", "snr", "cosine", "variance_x_flops", "variance_x_seconds"):
            low, value, high = (float(row[f"phi_{figure}{end}"]) for end in ("_low", "", "_high"))
            assert low <= value <= high
        product = float(row["phi_variance"]) * float(row["flops"])
        assert float(row["phi_variance_x_flops"]) == pytest.approx(product, rel=1e-5)


def test_layers_and_pairs(quadratic):
    layers = read(quadratic / "layers.csv")
    assert {row["part"] for row in layers} == {"phi", "phi.mean", "phi.scale"}
    pairs = read(quadratic / "pairs.csv")
    assert len(pairs) == 2 * 3 * 3  # two K, three pairs, three figures
    first = next(p for p in pairs if (p["first"], p["second"], p["figure"]) == ("reparam", "reinforce", "variance"))
    assert first["verdict"] == "first is better"
    assert float(first["ratio_low"]) < float(first["ratio"]) < float(first["ratio_high"]) < 1


def test_tables_figures_and_config(quadratic):
    markdown, latex = ((quadratic / f"results.{kind}").read_text() for kind in ("md", "tex"))
    assert "| reparam" in markdown
    assert "gradient of phi" in markdown
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 1
    assert r"leave\_one\_out" in latex
    for name in ("bias", "variance_cost", "snr"):
        for kind in ("png", "pdf"):
            assert (quadratic / "figures" / f"{name}.{kind}").stat().st_size > 5000
    config = json.loads((quadratic / "config.json").read_text())
    assert config["settings"]["draws"] == 4000
    assert config["settings"]["objective"] == "elbo"
    assert "jax" in config["versions"]


@pytest.mark.slow
def test_a_sweep_of_the_cost_parameter(tmp_path):
    run(
        "--problem=cosine",
        "--cost_parameter=2,0.5",
        "--estimators=reparam,nvil",
        "--draws=2000",
        "--rounds=3",
        "--cv_steps=20",
        f"--output={tmp_path}",
    )
    rows = read(tmp_path / "results.csv")
    assert [(row["estimator"], row["cost_parameter"]) for row in rows] == [
        ("reparam", "0.5"),
        ("nvil", "0.5"),
        ("reparam", "2.0"),
        ("nvil", "2.0"),
    ]
    assert (tmp_path / "figures" / "variance_cost_parameter.png").exists()


USERS = """
import jax
import jax.numpy as jnp
from experiments import problems
from vae import distributions
from vae.estimators import BY_NAME

def problem():
    params = {"phi": {"logits": jnp.array([0.3, -0.8, 1.0])}, "theta": {"w": jnp.array([1.0, 2.0, -1.0])}}
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    f = lambda params, z, q: jnp.square(z @ params["theta"]["w"] - 0.4) - q.log_prob(z)
    return problems.of_integrand("mine", params, posterior, f)

def nothing():
    return 3
"""


def test_a_users_problem_and_a_budget_from_the_shell(tmp_path):
    """The true command: a discrete problem of one's own, whose truth is a sum over all states."""
    (tmp_path / "mine.py").write_text(USERS)
    command = [sys.executable, "-m", "experiments.compare_estimators", "--problem=mine:problem", "--draws=2000"]
    command += ["--estimators=reinforce,leave_one_out", "--budget=evaluations:5", "--rounds=3", "--output=out"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the budget buys leave_one_out K=5" in done.stdout
    rows = read(tmp_path / "out" / "results.csv")
    assert {row["num_samples"] for row in rows} == {"5"}
    assert {row["truth"] for row in rows} == {"exact (sum over all states)"}
    assert {row["phi_biased"] for row in rows} == {"False"}
    assert "it/s" not in done.stderr  # no progress bar where nobody looks


def _environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--problem=nonsense"], "--problem=nonsense is none of quadratic"),
        (["--problem=no_such_module:f"], "cannot be imported"),
        (["--problem=experiments.problems:nothing_there"], "cannot be imported"),
        (["--problem=json:loads"], "give a function without arguments"),
        (["--problem=quadratic", "--workdir=x"], "name two problems"),
        (["--workdir=/nonexistent/run"], "holds no run"),
        (["--estimators=nonsense"], "there is no estimator 'nonsense'; choose one of reparam"),
        (["--estimators=dreg"], "dreg cannot estimate elbo with Normal latents; these can: reparam"),
        (["--objective=iwae"], "--objective=iwae is not an objective of quadratic; it has elbo"),
        (["--num_samples=0"], "--num_samples must be 1 or more"),
        (["--num_samples=two"], "--num_samples: 'two' is not an integer"),
        (["--estimators=reparam_antithetic", "--num_samples=3"], "must be even"),
        (["--cost_parameter=x"], "--cost_parameter: 'x' is not a number"),
        (["--cost_parameter=1", "--problem=rainforth"], "--cost_parameter is k of quadratic"),
        (["--batch_size=3"], "--batch_size is for --workdir"),
        (["--draws=1009"], "--draws=1009 cannot be cut into 10 to 50 equal chunks; take 1010"),
        (["--reference_draws=1234567"], "--reference_draws=1234567 must be a multiple of 50"),
        (["--reference_draws=50"], "--reference_draws=50 must be a multiple of 50, and 100 or more"),
        (["--reference=nonsense"], "--reference: there is no estimator 'nonsense'"),
        (["--reference=dreg"], "--reference: dreg cannot estimate elbo with Normal latents"),
        (["--problem=coins", "--reference=gumbel_softmax"], "--reference: gumbel_softmax is biased, and its mean is"),
        (["--budget=5"], "neither evaluations:N nor flops:N"),
        (["--budget=flops:-1"], "neither evaluations:N nor flops:N"),
        (["--budget=evaluations:4", "--num_samples=2,3"], "leave out --num_samples"),
        (["--budget=evaluations:1", "--estimators=leave_one_out"], "does not buy leave_one_out its least K=2"),
        (
            ["--problem=rainforth", "--objective=iwae", "--budget=flops:1e6"],
            "of which --objective=iwae is another bound",
        ),
        (
            ["--problem=rainforth", "--objective=iwae", "--estimators=vimco"],
            "vimco needs K=2, of which --objective=iwae is another",
        ),
        (["--temperature=0.3"], "leave it out, or measure one of these"),
        (["--temperature=0.3", "--estimators=reparam"], "leave it out, or measure one of these"),
    ],
)
def test_refusals(arguments, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(*arguments, f"--output={tmp_path}")
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


BROKEN = """
import jax.numpy as jnp
from experiments import problems
from vae import distributions

def broken_f():
    posterior = lambda params: distributions.Normal(**params["phi"])
    phi = {"mean": jnp.zeros(2), "log_var": jnp.zeros(2)}
    return problems.of_integrand("broken", {"phi": phi}, posterior, lambda params, z, q: z @ jnp.ones((3, 4)))

def broken_posterior():
    return broken_f()._replace(bounds={"elbo": lambda params, data, expect: int("forty")})

def broken_problem():
    raise ValueError("a mistake of the user's")
"""


@pytest.mark.parametrize("name", ["broken_f", "broken_posterior", "broken_problem"])
def test_a_mistake_in_a_users_problem_keeps_its_traceback(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        run(f"--problem=broken:{name}", f"--output={tmp_path / 'out'}")
    assert "left out" not in capsys.readouterr().out


def test_a_workdir_at_each_of_its_checkpoints(tmp_path):
    """A run that was just begun, and the laboratory on its images, of a bound that the run's estimator does not fit."""
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "--epochs=2",
        "--eval_every=1",
        "--hidden=16",
        "--latent_dim=2",
    ]
    command += ["--objective=iwae", "--estimator=dreg", "--num_samples=2"]
    command += ["--eval_samples=2", "--nofigures", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run(
        f"--workdir={tmp_path / 'run'}",
        "--checkpoint=all",
        "--objective=elbo",
        "--estimators=reparam,leave_one_out",
        "--batch_size=8",
        "--draws=100",
        "--rounds=3",
        f"--output={tmp_path / 'out'}",
    )
    rows = read(tmp_path / "out" / "results.csv")
    assert [(row["estimator"], row["epoch"]) for row in rows] == [
        ("reparam", "1"),
        ("leave_one_out", "1"),
        ("reparam", "2"),
        ("leave_one_out", "2"),
    ]
    assert {row["truth"] for row in rows} == {"mean of 1,000 draws of reparam, K=1"}
    assert {row["num_samples"] for row in rows} == {"2"}  # as trained
    assert {row["encoder_biased"] for row in rows} | {row["decoder_biased"] for row in rows} == {"False"}
    [newest] = problems.of_workdir(str(tmp_path / "run"))
    [first] = problems.of_workdir(str(tmp_path / "run"), at="1")
    assert (list(newest.bounds), newest.point, first.point) == (["iwae"], {"epoch": 2}, {"epoch": 1})
    _refuses(tmp_path, ["--checkpoint=7"], "take latest, best or one of 1, 2")
    _refuses(tmp_path, ["--objective=elbow"], "is none of elbo_analytic, elbo, iwae, renyi, thermodynamic")
    _refuses(tmp_path, ["--objective=elbo_analytic", "--estimators=stl"], "it can with --objective=elbo")
    config = tmp_path / "run" / "config.json"
    written = config.read_text()
    config.write_text(written.replace(RunFolder(tmp_path / "run").config()["data"]["checksum"], "0" * 64))
    _refuses(tmp_path, [], "holds a run on other data")
    config.write_text(written)
    result = tmp_path / "run" / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"status": "diverged", "step": 7}))
    _refuses(tmp_path, [], "diverged at step 7")
    (tmp_path / "sweep" / "runs").mkdir(parents=True)
    (tmp_path / "run").rename(tmp_path / "sweep" / "runs" / "one")
    (tmp_path / "run").symlink_to(tmp_path / "sweep")
    _refuses(tmp_path, [], "is a sweep of 1 runs; give one of them, such as .*/runs/one")
    parts = {row["part"] for row in read(tmp_path / "out" / "layers.csv")}
    assert {"encoder", "encoder.network.hidden_0", "encoder.parameters", "decoder.network.outputs"} <= parts


def _refuses(folder, flags, sentence):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit):
        run(f"--workdir={folder / 'run'}", "--batch_size=8", f"--output={folder / 'refused'}", *flags)
    assert re.search(sentence, said.getvalue()), said.getvalue()


OUT_OF_PLACE = """
import jax.numpy as jnp
from experiments import problems
from vae import distributions

def _bits(f):
    posterior = lambda params: distributions.Bernoulli(params["phi"]["logits"])
    phi = {"logits": jnp.array([0.3, -0.5])}
    return problems.of_integrand("bits", {"phi": phi}, posterior, lambda params, z, q: jnp.sum(f(z), axis=-1))

def between_the_states():
    return _bits(lambda z: z + jnp.sqrt(2 * (2 * z - 1) ** 2 - 1))

def nothing_to_learn():
    return _bits(lambda z: z**3 - z)
"""


def test_a_gradient_that_is_not_finite_is_not_judged(tmp_path, monkeypatch, capsys):
    """f has no root between the states, where a relaxation looks."""
    (tmp_path / "out_of_place.py").write_text(OUT_OF_PLACE)
    monkeypatch.chdir(tmp_path)
    names = "--estimators=gumbel_softmax,leave_one_out,reinforce"
    run(
        "--problem=out_of_place:between_the_states", names, "--draws=2000", "--rounds=3", f"--output={tmp_path / 'out'}"
    )
    relaxed, best, plain = read(tmp_path / "out" / "results.csv")
    assert relaxed["phi_verdict"] == "NOT FINITE"
    assert (best["phi_verdict"], plain["phi_verdict"]) == ("best", "worse")
    assert (relaxed["temperature"], best["temperature"]) == ("0.5", "0.0")
    said = capsys.readouterr().out
    assert "gumbel_softmax: its gradient of phi is not finite in every draw" in said
    assert "leave_one_out: its gradient" not in said


def test_a_bias_is_seen_where_the_true_gradient_is_zero(tmp_path, monkeypatch, capsys):
    """f is 0 at every state, and its slope is not."""
    (tmp_path / "flat.py").write_text(OUT_OF_PLACE)
    monkeypatch.chdir(tmp_path)
    names = "--estimators=straight_through,leave_one_out"
    run("--problem=flat:nothing_to_learn", names, "--draws=2000", "--rounds=3", f"--output={tmp_path / 'out'}")
    straight, score = read(tmp_path / "out" / "results.csv")
    assert (straight["phi_biased"], score["phi_biased"]) == ("True", "False")
    assert "uncertain" not in capsys.readouterr().out


def test_few_chunks_need_a_longer_deviation():
    """Of Student's t with 9 degrees of freedom 5 is too little for 0.01 %, with 49 it is not."""
    row = {"bias": 0.055, "bias_stderr": 0.01, "max_abs_z": 1.0, "critical_z": 4.0, "deviation": 1.0}
    assert not laboratory_tables.is_biased(row, chunks=10)
    assert laboratory_tables.is_biased(row, chunks=50)
    normal = np.random.default_rng(0).normal(size=(200_000, 10))
    t = np.abs(normal.mean(axis=1)) / (normal.std(axis=1, ddof=1) / np.sqrt(10))
    assert np.mean(t > diagnostics.students_t(1 - 1e-4, 10)) < 2e-4 < np.mean(t > 5)
    assert np.mean(t > diagnostics.students_t(0.95, 10)) == pytest.approx(0.05, abs=0.002)


# Arithmetic


def test_affordable_is_the_largest_k_within_the_budget():
    linear = lambda k: 3.0 + 2.0 * k
    assert candidates.affordable(("flops", 103.0), linear, "reparam") == 50
    assert candidates.affordable(("flops", 102.9), linear, "reparam") == 49
    assert candidates.affordable(("flops", 5.0), linear, "reparam") == 1

    def even(k):
        if k % 2:
            raise candidates.Refused("must be even")
        return float(k)

    assert candidates.affordable(("evaluations", 9.0), even, "reparam_antithetic") == 8
    with pytest.raises(ValueError, match="its least K=2"):
        candidates.affordable(("evaluations", 1.0), float, "leave_one_out")


def test_affordable_is_the_least_k_where_the_cost_does_not_grow():
    problem = problems.coins()
    cost = lambda k: candidates.cost(problem, "elbo", "exact", "evaluations", k)
    assert candidates.affordable(("evaluations", 16.0), cost, "exact") == 1


def test_budgets_count_the_same_f_for_all():
    """13 evaluations buy 13 samples, or 12 where only even numbers are taken; FLOP as many as they suffice for."""
    problem = problems.gaussian_cost("quadratic")
    cost = lambda name, kind: functools.partial(candidates.cost, problem, "elbo", name, kind)
    for name in ("reparam", "reparam_antithetic", "reinforce"):
        bought = candidates.affordable(("evaluations", 13.0), cost(name, "evaluations"), name)
        assert bought == (12 if "anti" in name else 13)
    budget = 10 * cost("reinforce", "flops")(1)
    for name in ("reparam", "reinforce"):
        flops = cost(name, "flops")
        k = candidates.affordable(("flops", budget), flops, name)
        assert k > 5
        assert flops(k) <= budget < flops(k + 1)


def test_what_is_another_bound_is_left_out(tmp_path, capsys):
    """`leave_one_out` needs K = 2, and that is no L_1."""
    run(
        "--problem=rainforth",
        "--objective=iwae",
        "--draws=20",
        "--replicates=100",
        "--rounds=3",
        f"--output={tmp_path}",
    )
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert {"leave_one_out", "vimco"} <= {line.split(": ")[1] for line in said}
    assert {row["num_samples"] for row in read(tmp_path / "results.csv")} == {"1"}


def test_cut():
    assert laboratory.cut(1000, 20) == 20
    assert laboratory.cut(990, 20) == 18
    assert laboratory.cut(20, 50) == 10


def test_summed_is_a_sum_a_quadrature_or_nothing():
    phi = {"mean": jnp.array([0.2]), "log_var": jnp.array([0.1])}
    posterior = lambda params: distributions.Normal(**params["phi"])
    smooth = lambda params, z, q: jnp.sin(z[..., 0])
    kinked = lambda params, z, q: jnp.abs(z[..., 0] - 1)
    how, gradient = laboratory.summed(problems.of_integrand("", {"phi": phi}, posterior, smooth), "elbo", 1)
    assert how == "quadrature, order 96"
    expected = np.cos(0.2) * np.exp(-np.exp(0.1) / 2)
    np.testing.assert_allclose(gradient["phi"]["mean"], [expected], rtol=1e-6)
    assert laboratory.summed(problems.of_integrand("", {"phi": phi}, posterior, kinked), "elbo", 1) is None
    wide = {"mean": jnp.zeros(9), "log_var": jnp.zeros(9)}
    assert laboratory.summed(problems.of_integrand("", {"phi": wide}, posterior, smooth), "elbo", 1) is None


def test_a_reference_of_more_samples_is_refused_where_they_make_another_bound():
    phi = {"mean": jnp.array([0.2]), "log_var": jnp.array([0.1])}
    kinked = lambda params, z, q: jnp.abs(z[..., 0] - 1)
    problem = problems.of_integrand("", {"phi": phi}, lambda params: distributions.Normal(**params["phi"]), kinked)
    protocol = laboratory.Protocol(100, 100, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    with pytest.raises(candidates.Refused, match="needs K=2, of which --objective=iwae is another bound than of K=1"):
        laboratory.find_truth(problem, "iwae", 1, protocol)
    assert laboratory.find_truth(problem, "elbo", 1, protocol)[0] == "mean of 100 draws of leave_one_out, K=2"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.5, "1234"), (0.01234, "0.0123"), (1.5e-7, "1.50e-7"), (2.5e9, "2.50e9"), (float("nan"), "-")],
)
def test_numbers(value, text):
    assert tables.number(value) == text


def test_errors_decide_the_digits():
    assert tables.plus_minus(1.23456, 0.0234) == "1.235 ± 0.023"
    assert tables.plus_minus(-123.4, 23.4) == "-123 ± 23"


@pytest.mark.slow
def test_rainforth_slopes(tmp_path):
    """SNR against K = 4..256: theta +1/2, phi -1/2, DReG's phi up (arXiv:1802.04537; ESTIMATORS.md C8)."""
    run(
        "--problem=rainforth",
        "--objective=iwae",
        "--num_samples=4,16,64,256",
        "--estimators=reparam,dreg",
        "--draws=10000",
        "--reference_draws=10000",
        "--reference=dreg",
        "--rounds=3",
        f"--output={tmp_path}",
    )
    rows = read(tmp_path / "layers.csv")

    def slope(name, part):
        points = [(int(r["num_samples"]), float(r["snr"])) for r in rows if (r["estimator"], r["part"]) == (name, part)]
        return np.polyfit(*np.log(np.array(points).T), 1)[0]

    assert slope("reparam", "theta") == pytest.approx(0.5, abs=0.1)
    assert slope("reparam", "phi.b") == pytest.approx(-0.5, abs=0.1)
    assert slope("dreg", "phi") > 0.3


def test_the_temperature_reaches_the_estimators_that_have_one():
    q, cubed = distributions.Bernoulli(jnp.array([0.3, -1.0])), lambda z, q: jnp.sum(z, axis=-1) ** 3
    value = lambda estimator: float(estimator.estimate({}, {}, jax.random.key(0), q, cubed).value)
    warm = build.estimator("gumbel_softmax", 1, 3.0)
    assert value(warm) == value(BY_NAME["gumbel_softmax"].make(num_samples=1, temperature=3.0))
    assert value(warm) != value(build.estimator("gumbel_softmax", 1))
    assert value(build.estimator("reinforce", 1, 3.0)) == value(build.estimator("reinforce", 1))


def test_a_bias_is_of_the_whole_gradient_and_not_of_a_rare_event():
    """Coordinates of mean 1 that jump once in 300 draws: the worst of them looks certain of a wrong mean, for it has
    not jumped enough. The controls are off in every coordinate, and along the truth."""

    def draw(key, shift=0.0):
        key_event, key_noise = jax.random.split(key)
        jumps = jnp.where(jax.random.uniform(key_event, (400,)) < 1 / 300, 30.0, 0.0) - 0.1
        return {"a": jnp.concatenate([1 + shift + jumps, 1 + 3 * jax.random.normal(key_noise, (400,))])}

    truth = diagnostics.exactly({"a": np.ones(800)})

    def row(gradient):
        moments = diagnostics.gradient_moments(gradient, jax.random.key(0), 400, 20, 20, truth)
        figures = diagnostics.report(moments, truth)["a"]
        named = {"bias": figures["scale"] - 1, "bias_stderr": figures["scale_stderr"]}
        return figures | named | {"critical_z": diagnostics.critical_z(figures["size"])}

    rare, zero_mean = row(draw), lambda key: {"a": draw(key)["a"] + 0.5 * (-1.0) ** jnp.arange(800)}
    assert rare["max_abs_z"] > rare["critical_z"]
    assert not laboratory_tables.is_biased(rare, 20)
    assert laboratory_tables.is_biased(row(zero_mean), 20)
    assert laboratory_tables.is_biased(row(lambda key: draw(key, 0.3)), 20)


def test_a_run_by_layer_is_measured_by_layer(tmp_path):
    """And its evaluations counted so: K for each of its two layers; another bound takes all layers at once."""
    command = (
        f"{sys.executable} -m experiments.train --posterior=bernoulli --latent_dim=4-3 --hidden=8 --layer_hidden=8"
    )
    command += " --objective=elbo --estimator=leave_one_out --num_samples=2 --by_layer --epochs=1 --eval_samples=2"
    command += f" --nofigures --workdir={tmp_path / 'run'}"
    done = subprocess.run(command.split(), cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    evaluations = {}
    for objective in ("elbo", "iwae"):
        [point] = problems.of_workdir(str(tmp_path / "run"), objective, batch_size=4)
        evaluations[objective] = candidates.cost(point, objective, "leave_one_out", "evaluations", 2)
        assert candidates.choose(point, objective, None)
        for name in candidates.choose(point, objective, None):
            candidates.admitted(point, objective, name, 2)
    assert evaluations == {"elbo": 4, "iwae": 2}


def test_a_runs_own_estimator_goes_on_from_what_it_had_learned(tmp_path):
    command = f"{sys.executable} -m experiments.train --posterior=bernoulli --latent_dim=3 --hidden=8 --objective=elbo"
    command += f" --estimator=rebar --epochs=2 --eval_samples=2 --nofigures --workdir={tmp_path / 'run'}"
    done = subprocess.run(command.split(), cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, point = problems.of_workdir(str(tmp_path / "run"), batch_size=4)
    new = point._replace(learned=None)
    scale = lambda point, name="rebar": float(candidates.initial(point, "elbo", name, 1)[0]["scale"])
    assert scale(new) == 1
    assert abs(scale(point) - 1) > 1e-3
    assert scale(point, "relax") == 1  # another estimator starts anew
    *_, other = problems.of_workdir(str(tmp_path / "run"), "elbo_analytic", batch_size=4)
    assert other.learned is None
    protocol = laboratory.Protocol(20, 20, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    assert laboratory.train(point, "elbo", "rebar", 1, protocol)[0]["scale"] == scale(point)
