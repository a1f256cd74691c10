"""The command from end to end: the table, its files, the figure, and losses of your own."""

import csv
import json
import re

import numpy as np
import pytest

from experiments.policy_gradients import __main__ as policy_gradients
from experiments.policy_gradients import losses, picture
from tests.helpers import pages


def run(*arguments):
    policy_gradients.main(pages.parse("experiments.policy_gradients", arguments))


def test_the_command_measures_and_writes_the_table_and_the_figure(tmp_path, capsys):
    run("--estimators=k2_sequence,k3_sequence", "--draws=4000", f"--output={tmp_path}")
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        k2, k3 = csv.DictReader(file)
    assert [row["estimator"] for row in (k2, k3)] == ["k2_sequence", "k3_sequence"]
    assert [row["gradient_of"] for row in (k2, k3)] == ["KL(pi, ref)", "KL(ref, pi)"]
    assert [row["verdict"].split(",")[0] for row in (k2, k3)] == ["best", "BIASED"]
    assert float(k2["exact_error"]) < 1e-12
    assert float(k3["bias_low"]) < float(k3["bias"]) < float(k3["bias_high"]) < 0
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert r"\begin{table}" in (tmp_path / "results.tex").read_text(encoding="utf-8")
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["draws"], settings["matmul_precision"]) == (4000, "float32")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "policy_gradients.png",
        "policy_gradients.pdf",
    }


def test_the_picture_says_which_gradient_a_loss_has():
    row = {"claims": "E[R]", "gradient_of": "0.75 x E[R]", "exact_error": 0.25}
    assert picture._label(row) == "0.75 x E[R], 25 % off"
    assert picture._label(row | {"gradient_of": "E[R]", "exact_error": 0.0}) == "as claimed"
    assert picture._label(row | {"gradient_of": "unknown", "exact_error": float("nan")}) == "unknown"


def test_a_loss_of_your_own_is_chosen_by_its_module_and_function(monkeypatch, tmp_path):
    (tmp_path / "my_losses.py").write_text(
        "from experiments.policy_gradients import losses\n"
        "def k2(): return losses.make_table()['k2_sequence']\n"
        "def unknown(): return k2()._replace(claims='KL')\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    choose = lambda names: policy_gradients.choose_losses(
        pages.parse("experiments.policy_gradients", [f"--estimators={names}"]), claims=("KL(pi, ref)",)
    )
    assert list(choose("rloo,my_losses:k2")) == ["rloo", "my_losses:k2"]
    assert choose("my_losses:k2")["my_losses:k2"].claims == "KL(pi, ref)"
    with pytest.raises(ValueError, match=r"claims='KL' must be one of KL\(pi, ref\)"):
        choose("my_losses:unknown")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--estimators=json:loads", "--estimators=json:loads cannot be called without arguments; give a function"),
        ("--estimators=nowhere:loss", "--estimators=nowhere:loss cannot be imported: No module named 'nowhere'"),
        ("--estimators=json:JSONDecoder", "the function must return experiments.policy_gradients.losses.Entry"),
        ("--estimators=rloo,rloo", "--estimators=rloo,rloo: rloo is given twice; give it once"),
        ("--estimators=k4", "--estimators=k4: there is no such loss; choose some of k1_sequence"),
    ],
)
def test_bad_input_ends_with_one_sentence(argument, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(argument, f"--output={tmp_path}")
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "without", "among"),
    [
        ("--group=2", "reinforce,k3_token", "rloo"),
        ("--beta=0.1", "rloo,k3_token", "grpo"),
        ("--clip=0.1", "rloo,old_rloo_ratio_token", "old_grpo"),
        ("--lag=0.5", "rloo,k3_token", "old_k3_token"),
        ("--distance=2", "reinforce,rloo", "k3_token"),
    ],
)
def test_a_flag_that_changes_no_loss_is_refused(flag, without, among):
    def check(names):
        options = pages.parse("experiments.policy_gradients", [f"--estimators={names}", flag])
        policy_gradients.check_flags_of_losses(options, policy_gradients.choose_losses(options, ()))

    check(f"{without},{among}")
    with pytest.raises(ValueError, match=rf"{flag.split('=')[0]} changes none .* add one of .*\b{among}\b"):
        check(without)


def test_the_losses_that_depend_on_clip_are_those_that_clip():
    group = losses.Group(*np.random.default_rng(0).normal(size=(3, 4, 3)), reward=np.arange(4.0))
    narrow, wide = losses.make_table(clip=0.01), losses.make_table(clip=0.9)
    differ = {name for name in narrow if not np.allclose(narrow[name].loss(group), wide[name].loss(group))}
    assert differ == {name for name, entry in narrow.items() if entry.clipped}


@pytest.mark.slow
def test_the_tables_of_the_page_are_those_of_the_command(tmp_path):
    page = (pages.ROOT / "experiments/policy_gradients/README.md").read_text(encoding="utf-8")
    stated = re.findall(r"^\| `(\w+)` +\| (.+?) +\| (.+?) +\| (.+?) +\|", page, re.MULTILINE)
    run(f"--output={tmp_path}")
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["estimator"] for row in rows] == [name for name, *_ in stated]
    for row, (name, gradient, error, ratio) in zip(rows, stated, strict=True):
        assert row["gradient_of"] == gradient, name
        assert 100 * float(row["exact_error"]) == pytest.approx(float(error), rel=0.005, abs=1e-9), name
        assert float(row["to_best"]) == pytest.approx(float(ratio), rel=0.005), name
        assert row["biased"] == str(gradient != row["claims"]), name
