"""The toy problems have the right exact values, and the command trains, writes and draws them."""

import csv
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments.common import candidates, plots, problems
from experiments.common.problems import bits
from experiments.common.task import make_estimator
from experiments.toy_bernoulli import __main__ as toy_bernoulli
from tests.helpers.report_pages import make_page
from tests.helpers.wrong_files import unknown_names
from vae import diagnostics
from vae.estimators import bind


def run(*arguments):
    values = flags.FlagValues()
    toy_bernoulli.define_flags(values)
    values(["toy_bernoulli", *arguments])
    toy_bernoulli.main(values)


_TOYS = {
    "one coin": lambda: problems.coins(0.45),
    "coins": lambda: problems.coins(0.3, 1.5, dimensions=3, batch_size=2),
    "three bits": problems.three_bits,
    "table": lambda: problems.table(4, batch_size=2),
    "classes": lambda: problems.classes(2, 3),
}


@pytest.mark.parametrize("toy", _TOYS)
def test_the_closed_form_of_the_loss_is_the_sum_over_all_states(toy):
    problem = _TOYS[toy]()
    logits = np.linspace(-0.7, 0.4, jax.tree.leaves(problem.params)[0].size, dtype=np.float32)
    params = jax.tree.map(lambda leaf: np.reshape(logits, leaf.shape), problem.params)
    expect = bind(make_estimator("exact", 1), {}, {}, jax.random.key(0))
    bound = lambda params: jnp.mean(problem.bounds["elbo"](params, problem.data, expect).value)
    value, gradient = jax.jit(jax.value_and_grad(bound))(params)
    expected, slope = jax.jit(jax.value_and_grad(problem.expected))(params, problem.data)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(jax.tree.leaves(gradient)[0], jax.tree.leaves(slope)[0], rtol=1e-4, atol=1e-6)


def test_the_derivative_of_the_cost_is_finite_where_a_relaxed_coin_equals_the_target():
    problem = problems.coins(0.5, 1.5)
    at = lambda z: bits._power(jnp.abs(z - 0.5), problem.data["power"][0])
    assert jax.grad(at)(0.5) == 0


def test_the_oracle_of_one_coin_is_the_published_gradient():
    """For a fair coin, the gradient of the cost (b - t)^2 in the logit is (1 - 2 t) / 4; here f is minus the cost."""
    oracle = problems.coins(0.45).oracle("elbo", 1)
    np.testing.assert_allclose(oracle["phi"]["logits"], [-0.025], rtol=1e-6)
    gradient = diagnostics.make_gradient(problems.coins(0.45).bounds["elbo"], make_estimator("exact", 1))
    problem = problems.coins(0.45)
    exact = jax.jit(gradient)(jax.random.key(0), problem.params, problem.data)
    np.testing.assert_allclose(exact["phi"]["logits"], [-0.025], rtol=1e-5)


def test_the_command_writes_curves_tables_and_a_picture_and_does_not_train_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "mine.toys", "--steps=400"])
    arguments = ["--estimators=exact,leave_one_out,reinforce", "--steps=400", "--records=9", "--seeds=3", "--draws=512"]
    run(*arguments, f"--output={tmp_path}")
    with open(tmp_path / "curves.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 * 3 * 9
    first = [r for r in rows if r["step"] == "0" and r["point"] == "target 0.45"]
    np.testing.assert_allclose([float(r["loss"]) for r in first], 0.2525, rtol=1e-5)
    variance = {
        n: np.mean([float(r["variance"]) for r in first if r["estimator"] == n]) for n in ("leave_one_out", "exact")
    }
    assert variance["leave_one_out"] == pytest.approx(6.25e-4, rel=0.1)
    assert variance["exact"] < 1e-12
    loss = lambda name, step: np.mean(
        [float(r["loss"]) for r in rows if (r["estimator"], r["step"], r["point"]) == (name, step, "target 0.499")]
    )
    assert loss("exact", "400") < loss("leave_one_out", "400") < loss("reinforce", "400")
    assert (tmp_path / "figures" / "toy.png").stat().st_size > 10_000
    assert unknown_names(tmp_path) == set()
    assert "picture:" in capsys.readouterr().out

    # The same command does not train again, and writes the file that is missing.
    written = (tmp_path / "curves.csv").read_bytes()
    (tmp_path / "curves.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(toy_bernoulli, "train_all", None)
        run(*arguments, f"--output={tmp_path}")
    assert (tmp_path / "curves.csv").read_bytes() == written
    assert "holds the curves" in capsys.readouterr().out

    page = make_page(tmp_path)
    with open(tmp_path / "results.csv") as file:
        last = list(csv.DictReader(file))
    shown = [line for point in ("0.45", "0.49", "0.499") for line in page.tables[f"toy target {point}"][1:]]
    assert [(line[0][0], float(line[2][1])) for line in shown] == [
        (r["estimator"], float(r["final_loss"])) for r in last
    ]
    losses = {trace["name"]: trace["y"] for trace in page.charts[4]["data"]}
    assert losses["REINFORCE"][-1] == pytest.approx(loss("reinforce", "400"))
    assert [trace["y"] for trace in page.charts[5]["data"] if trace["name"] == "Exact"] == [[None] * 9]
    assert "python -m mine.toys --steps=400" in page.text


def test_an_estimator_without_a_finite_loss_is_last(tmp_path, monkeypatch):
    curves = {
        name: {key: np.full((3, 2, 3), 0.25) for key in ("loss", "variance")} for name in ("arm", "exact", "nvil")
    }
    curves["exact"]["loss"][:, 1, -1] = np.nan
    curves["arm"]["loss"] += 0.1
    monkeypatch.setattr(toy_bernoulli, "train_all", lambda points, names, training: curves)
    flags = ["--estimators=arm,exact,nvil", "--steps=2", "--records=3", "--seeds=2", "--num_samples=2"]
    run(*flags, f"--output={tmp_path}")
    with open(tmp_path / "results.csv") as file:
        assert [row["estimator"] for row in csv.DictReader(file)] == 3 * ["nvil", "arm", "exact"]


@pytest.mark.usefixtures("undrawn")
def test_each_setting_is_trained_once_and_its_curves_fill_the_tables(tmp_path, monkeypatch):
    """A curve at point i and record r is 100 i + r; the variance is 10 more."""
    trained = []

    def train_all(points, names, training):
        trained.append((training.learning_rate, training.draws, len(jax.tree.leaves(points[0].data)[0])))
        assert [training.samples(name) for name in names] == [1, 2]
        curve = np.float32([[[100 * i + r for r in range(3)]] * 2 for i in range(len(points))])
        return {name: {"loss": curve, "variance": curve + 10} for name in names}

    monkeypatch.setattr(toy_bernoulli, "train_all", train_all)
    base = ["--estimators=reinforce,leave_one_out", "--steps=4", "--records=3", "--seeds=2", "--num_samples=1"]
    for more in ([], ["--learning_rate=0.1"], ["--batch_size=3"], ["--draws=7"], ["--learning_rate=0.1"]):
        run(*base, *more, f"--output={tmp_path}/bernoulli")
    run(*base, "--toy=polynomial", f"--output={tmp_path}/polynomial")
    run(*base, "--toy=polynomial", "--batch_size=3", f"--output={tmp_path}/polynomial")
    assert trained == [(0.01, 256, 1), (0.1, 256, 1), (0.01, 256, 3), (0.01, 7, 1), (0.01, 16, 64), (0.01, 16, 3)]
    with open(tmp_path / "bernoulli/curves.csv") as file:
        curves = [tuple(float(row[name]) for name in ("step", "loss", "variance")) for row in csv.DictReader(file)]
    assert set(curves) == {(2 * r, 100 * i + r, 100 * i + r + 10) for i in range(3) for r in range(3)}
    with open(tmp_path / "bernoulli/results.csv") as file:
        results = [(float(row["final_loss"]), float(row["first_variance"])) for row in csv.DictReader(file)]
    assert results == [(100 * i + 2, 100 * i + 10) for i in range(3) for _ in range(2)]


def test_the_picture_has_a_column_for_each_family():
    steps, names = np.arange(5), ("reinforce", "arm", "disarm")
    curves = {name: {key: np.ones((2, 3, 5)) for key in ("loss", "variance")} for name in names}
    curves["arm"]["loss"][1] = [[1, 2, 3, 4, 5]] * 3
    families = {"score": ["reinforce"], "coupled": ["arm", "disarm"]}
    axes = plots.toy_curves(steps, curves, ["easy", "hard"], families).axes
    assert len(axes) == (1 + 2 * 2) * 2
    assert [[text.get_text() for text in ax.get_legend().get_texts()] for ax in axes[:2]] == [
        ["REINFORCE"],
        ["ARM", "DisARM"],
    ]
    hard = axes[5]
    coloured = [line for line in hard.lines if line.get_marker() != "None"]
    assert [list(line.get_ydata()) for line in coloured] == [[1, 2, 3, 4, 5], [1] * 5]
    assert axes[4].get_ylabel() == "expected loss\nhard"


@pytest.mark.usefixtures("undrawn")
def test_estimators_that_do_not_fit_are_left_out_unless_they_were_asked_for(tmp_path, capsys, monkeypatch):
    entries = {name: candidates.BY_NAME[name] for name in ("arm", "reinforce", "disarm")}
    monkeypatch.setattr(candidates, "BY_NAME", entries)
    run("--num_samples=3", "--steps=2", "--records=2", "--seeds=1", f"--output={tmp_path}")
    left_out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert [line.split(": ")[1] for line in left_out] == ["arm", "disarm"]
    with open(tmp_path / "results.csv") as file:
        assert {row["estimator"] for row in csv.DictReader(file)} == {"reinforce"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--records=50", "--steps=20"], "--steps=20 must be a multiple of --records minus 1, which is 49"),
        (["--num_samples=3", "--estimators=arm"], "an even number of samples, got num_samples=3"),
        (["--estimators="], "--estimators is empty"),
        (["--estimators=reparam"], "reparam cannot estimate gradients with Bernoulli latents"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        run(*arguments, f"--output={tmp_path}")
    assert exit.value.code == 1
    assert sentence in capsys.readouterr().err
