"""A negative control that meets its claim makes the command fail, and every committed control contradicts its claim."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import tables
from experiments.published import __main__ as published
from experiments.published import controls, readme
from experiments.published.claims import CLAIMS
from experiments.published.controls import Control, figures
from tests.experiments.published.test_readers import write_toy
from tests.helpers.written_workdirs import write_laboratory, write_sweep

ROOT = Path(__file__).resolve().parents[3]
COSINE = "variance of the gradient of E cos 5z: score function"


def write_cosine(folder, estimator, ratio):
    """Writes a measurement in which the variance of an estimator is `ratio` times that of reparam, up to 10 %."""
    rows = [{"problem": "cosine", "estimator": name, "num_samples": 8} for name in ("reparam", estimator)]
    write_laboratory(folder, "phi", rows)
    pair = {"group": "phi", "figure": "variance", "first": estimator, "second": "reparam"}
    pair |= {"ratio": ratio, "ratio_low": 0.9 * ratio, "ratio_high": 1.1 * ratio}
    (folder / "pairs.csv").write_text(tables.to_csv([pair]))


def test_a_control_that_fails_its_claim_stands_in_the_row(tmp_path):
    write_cosine(tmp_path / "costs/cosine", "reinforce", 0.06)
    write_cosine(tmp_path / "costs_control/cosine", "reinforce_summed", 4.0)
    [row] = published.collect(tmp_path, [])
    assert row["result"] == COSINE
    assert row["control"] == "reinforce_summed: 4.00 [3.60, 4.40] of reparam's, fails"
    assert row["control_commit"] == row["commit"] == "0123456+"


@pytest.mark.parametrize("ratio", [0.5, 1.05])  # clearly below the limit of 1, and not clearly above
def test_a_control_that_meets_its_claim_is_refused(ratio, tmp_path):
    write_cosine(tmp_path / "costs/cosine", "reinforce", 0.06)
    write_cosine(tmp_path / "costs_control/cosine", "reinforce_summed", ratio)
    with pytest.raises(ValueError, match=f"{COSINE}: the control reinforce_summed meets the claim: {ratio:.2f}"):
        published.collect(tmp_path, [])


def test_a_control_of_a_number_that_contradicts_its_own_claim_is_refused(tmp_path):
    write_cosine(tmp_path / "costs/cosine", "reinforce", 3.0)
    write_cosine(tmp_path / "costs_control/cosine", "reinforce_summed", 4.0)
    with pytest.raises(ValueError, match="contradicts the claim, so its control proves nothing"):
        published.collect(tmp_path, [])


def test_a_control_that_was_not_run_again_keeps_its_earlier_columns(tmp_path):
    write_cosine(tmp_path / "costs/cosine", "reinforce", 0.06)
    write_cosine(tmp_path / "costs_control/cosine", "reinforce_summed", 4.0)
    earlier = published.collect(tmp_path, [])
    (tmp_path / "costs_control").rename(tmp_path / "moved")
    write_cosine(tmp_path / "costs/cosine", "reinforce", 0.07)
    [row] = published.collect(tmp_path, earlier)
    assert row["obtained"].startswith("0.0700")
    assert row["control"] == earlier[0]["control"]


def test_every_committed_control_contradicts_its_claim_and_every_obtained_number_does_not():
    of_claim = {form.result: form.control for claim in CLAIMS for form in claim.forms() if form.control}
    rows = [row for row in published.read_rows() if row["control"]]
    for row in rows:
        of_claim[row["result"]].check(row)
        assert row["control"].startswith(f"{of_claim[row['result']].slip}: ")
        assert row["control"].endswith(", fails")
    # In place of the control, the number that this project obtained is refused.
    for row in rows:
        control = of_claim[row["result"]]
        with pytest.raises(ValueError, match="meets the claim"):
            control.check(row | {"control": f"{control.slip}: {row['obtained']}, fails"})


@pytest.mark.parametrize(
    ("contradicts", "met", "missed"),
    [
        (controls.away_from(0.5, tolerance=0.2), ["0.388 ± 0.001", "0.28 ± 0.02"], ["0.20 ± 0.02", "-0.4 ± 0.1"]),
        (controls.away_from(76), ["75.60 [72.24, 79.08]"], ["70.00 [68.00, 75.00]", "2.1e3 [2.0e3, 2.2e3]"]),
        (
            controls.away_from(86.76, tolerance=5),
            ["89.55 nats, 22 units (1 seed)", "87.37 nats, 38+6 units (1 seed)"],
            ["99.00 nats, 86 units (1 seed)"],
        ),
        (controls.above(1), ["0.257 [0.248, 0.264] of reparam's", "1.1 [0.9, 1.2] of x's"], ["1.2 [1.1, 1.3] of x's"]),
        (controls.below(10), ["599 [587, 612] of reparam's", "9.9 [9.5, 10.5] of x's"], ["4.0 [3.5, 4.6] of x's"]),
        (
            controls.out_of_order("a", "b", "c"),
            ["a 0.1 ± 0.01, b 0.2 ± 0.01, c 0.3 (5 seeds)", "b 0.2 ± 0.01, a 0.21 ± 0.01, c 0.3 (5 seeds)"],
            ["b 0.2 ± 0.01, a 0.25 ± 0.01, c 0.3 (5 seeds)", "a 0.1, c 0.2, b 0.3 (1 seed)"],
        ),
        (
            controls.nearer_to_the_others("x", "best", "other"),
            ["best 0.1, x 0.14 ± 0.01, other 0.2", "best 0.1, x 0.16 ± 0.01, other 0.2"],
            ["best 0.1, x 0.19 ± 0.01, other 0.2", "best 0.1, other 0.2, x 0.3"],
        ),
    ],
)
def test_a_claim_is_contradicted_only_beyond_the_interval(contradicts, met, missed):
    assert not any(contradicts(figures(obtained)) for obtained in met)
    assert all(contradicts(figures(obtained)) for obtained in missed)


def test_a_slip_takes_the_place_of_the_right_estimator_in_a_ranking():
    control = Control("a_turned", read=None, contradicts=controls.out_of_order("a", "b"), replaces="a")
    row = {"result": "losses", "obtained": "a 0.1, b 0.2 (1 seed)", "control": "a_turned: b 0.2, a_turned 0.3, fails"}
    control.check(row)
    with pytest.raises(ValueError, match="losses: the control a_turned meets the claim"):
        control.check(row | {"control": "a_turned: a_turned 0.1, b 0.2, fails"})


@pytest.mark.parametrize("right", [0.1, 0.25, 0.35])
def test_a_slip_counts_in_place_of_the_right_estimator_where_both_are_ranked(right):
    control = Control("a_turned", read=None, contradicts=controls.out_of_order("a", "b"), replaces="a")
    row = {"result": "losses", "obtained": "a 0.1, b 0.2 (1 seed)"}
    control.check(row | {"control": f"a_turned: a {right}, b 0.2, a_turned 0.3 (1 seed), fails"})
    with pytest.raises(ValueError, match="meets the claim"):
        control.check(row | {"control": f"a_turned: a_turned 0.15, b 0.2, a {right} (1 seed), fails"})


def write_coin(folder, losses):
    points = [f"target {target}" for target in (0.45, 0.499)]
    rows = [
        {"point": point, "estimator": name, "final_loss": loss, "final_loss_stderr": 1e-3}
        for point in points
        for name, loss in losses.items()
    ]
    write_toy(folder, "bernoulli", rows)


def test_the_control_of_a_ranking_is_read_beside_the_estimators_that_it_is_ranked_with(tmp_path):
    write_coin(tmp_path / "toys_quick/bernoulli", {"relax": 0.2026, "rebar": 0.203, "reinforce": 0.21})
    write_coin(tmp_path / "toys_quick_control/bernoulli", {"rebar_with_a_wrong_sign": 0.25, "reinforce": 0.21})
    [row, other] = published.collect(tmp_path, [])
    slip = "rebar_with_a_wrong_sign 0.2500 ± 0.0010"
    assert row["control"] == f"rebar_with_a_wrong_sign: reinforce 0.2100 ± 0.0010, {slip} (2 seeds), fails"
    assert other["control"] == ""
    shown = readme.all_tables([row])["toys_bernoulli"]
    assert re.search(r"\| t = 0.45 \| rebar_with_a_wrong_sign \| 0.2500 ± 0.0010 \| fails +\|", shown)
    assert re.search(r"\| t = 0.45 \| reinforce +\| 0.2100 ± 0.0010 \| +\|", shown)


@pytest.mark.parametrize("first", ["iwae", "iwae_short"])
def test_the_whole_and_the_short_iwae_have_the_same_control(first, tmp_path):
    settings = {"objective": "elbo", "latent_dim": 50, "dataset": "mnist"}
    write_sweep(tmp_path / first, [(settings, 65.0)])
    write_sweep(tmp_path / "iwae_control/elbo_k1_one_layer", [(settings, 80.0)])
    earlier = published.collect(tmp_path, [])
    assert earlier[0]["control"] == "reparam_without_scale: 102.12 nats, 8 units (1 seed), fails"
    (tmp_path / "iwae_control").rename(tmp_path / "moved")
    write_sweep(tmp_path / "iwae", [(settings, 64.0)])
    [row] = published.collect(tmp_path, earlier)
    assert row["obtained"].startswith("86.12 nats")
    assert row["control"] == earlier[0]["control"]


def test_the_slips_of_the_claims_are_those_that_the_import_adds():
    """In a process of its own, so that the table of the other tests stays as it is."""
    code = "from vae.estimators import BY_NAME; n = len(BY_NAME); import experiments.published.slips;"
    code += " print(*[*BY_NAME][n:])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted({claim.control.slip for claim in CLAIMS if claim.control})
