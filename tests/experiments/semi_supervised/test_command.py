"""The command from end to end."""

import csv
import json
import re

import numpy as np
import pytest

from experiments.semi_supervised import __main__ as semi_supervised
from tests.helpers import pages


@pytest.mark.slow
def test_the_command_writes_the_table_and_the_figure(tmp_path, capsys):
    arguments = ["--estimators=exact,nvil", "--seeds=2", "--epochs=12", f"--output={tmp_path}"]
    semi_supervised.main(pages.parse("experiments.semi_supervised", arguments))
    control, exact, nvil = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert [row["estimator"] for row in (control, exact, nvil)] == ["labels alone", "exact", "nvil"]
    assert (exact["evaluations"], nvil["evaluations"]) == ("10", "1")
    assert float(control["error_percent"]) < 25
    assert float(exact["error_percent"]) < 25
    assert (tmp_path / "results.md").read_text() in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["seeds"] == 2
    assert (tmp_path / "figures" / "styles.png").exists()


@pytest.fixture
def trained(monkeypatch):
    """The names of what was trained with one seed. The first training of `nvil` is interrupted."""
    names = []

    def train_and_measure(vae, name, *rest):
        names.append(name)
        if names.count("nvil") == 1:
            raise KeyboardInterrupt
        figures = {"error_percent": np.array([12.34567]), "elbo_nats": np.array([-23.0])}
        return {"figures": figures, "params": {}} | ({} if name == semi_supervised.CONTROL else {"evaluations": 10})

    monkeypatch.setattr(semi_supervised, "train_and_measure", train_and_measure)
    monkeypatch.setattr(semi_supervised, "draw", lambda *args: None)
    return names


def test_an_interrupted_command_continues_after_the_last_trained_estimator(trained, tmp_path):
    arguments = ["--estimators=exact,nvil", "--seeds=1", f"--output={tmp_path}"]
    values = pages.parse("experiments.semi_supervised", arguments)
    with pytest.raises(KeyboardInterrupt):
        semi_supervised.main(values)
    semi_supervised.main(values)
    assert trained == ["labels alone", "exact", "nvil", "nvil"]
    [control, exact, _] = (tmp_path / "results.md").read_text().splitlines()[2:5]
    assert [cell.strip() for cell in control.split("|")[1:-1]] == ["labels alone", "-", "12.3", "-", "-"]  # no error
    assert [cell.strip() for cell in exact.split("|")[1:-1]] == ["exact", "10", "12.3", "0", "-23.0"]


def test_the_gain_of_an_estimator_is_the_error_that_it_takes_from_the_labels_alone_for_each_seed():
    figures = {"error_percent": np.array([8.0, 9.0, 10.0]), "elbo_nats": np.array([-20.0, -23.0, -26.0])}
    row = semi_supervised.make_row("exact", figures, control=np.array([10.0, 12.0, 14.0]), evaluations=10)
    assert {name: row[name] for name in ("error_percent", "elbo_nats", "gain_percent")} == {
        "error_percent": 9.0,
        "elbo_nats": -23.0,
        "gain_percent": 3.0,
    }
    errors = [row[f"{name}_se"] for name in ("error_percent", "elbo_nats", "gain_percent")]
    np.testing.assert_allclose(errors, np.array([1, 3, 1]) / np.sqrt(3))


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--estimators=disarm", "--estimators=disarm: disarm cannot .* Categorical latents; .*leave_one_out"),
        ("--estimators=exactly", "--estimators=exactly: there is no estimator 'exactly' .did you mean exact"),
        ("--estimators=exact+reparam", "--estimators=exact.reparam must be one estimator, that of the class"),
        ("--estimators=leave_one_out:num_samples=1", "--estimators=.*: leave_one_out needs num_samples of at least 2"),
        ("--estimators=exact,exact", "--estimators=exact,exact: exact is given twice; give it once"),
        ("--estimators=", "--estimators is empty; leave it out for its default"),
        ("--labels=15", "--labels=15 must be a multiple of 10 and at most"),
        ("--batch_size=2000", "--batch_size=2000 is larger than the 1500 training images"),
    ],
)
def test_bad_input_ends_with_one_sentence(argument, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        semi_supervised.main(pages.parse("experiments.semi_supervised", [argument, f"--output={tmp_path}"]))
    assert re.search(sentence, capsys.readouterr().err)
