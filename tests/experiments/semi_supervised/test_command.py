"""The command from end to end."""

import csv
import json
import re

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


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--estimators=disarm", "--estimators=disarm: disarm cannot .* Categorical latents; .*leave_one_out"),
        ("--estimators=exactly", "--estimators=exactly: there is no estimator 'exactly' .did you mean exact"),
        ("--estimators=exact+reparam", "--estimators=exact.reparam must be one estimator, that of the class"),
        ("--estimators=leave_one_out:num_samples=1", "--estimators=.*: leave_one_out needs num_samples of at least 2"),
        ("--labels=15", "--labels=15 must be a multiple of 10 and at most"),
        ("--batch_size=2000", "--batch_size=2000 is larger than the 1500 training images"),
    ],
)
def test_bad_input_ends_with_one_sentence(argument, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        semi_supervised.main(pages.parse("experiments.semi_supervised", [argument, f"--output={tmp_path}"]))
    assert re.search(sentence, capsys.readouterr().err)
