"""The section about a toy problem names the least loss."""

import json
import math

from experiments.common import tables
from tests.helpers.report_pages import make_page


def test_an_estimator_that_diverged_does_not_have_the_least_loss(tmp_path):
    """The estimator in the first row diverged; then all estimators do."""
    head = {"settings": {"toy": "coin", "steps": 10, "seeds": 1, "num_samples": 2}, "command": "python", "versions": {}}
    (tmp_path / "config.json").write_text(json.dumps(head))
    for losses, sentence in (((math.nan, 0.25, 0.5), "0.250000 arm"), ((math.nan, math.nan, math.inf), "- ")):
        rows = [
            {"point": "p", "estimator": name, "family": "f", "final_loss": loss, "final_loss_stderr": math.nan}
            | {"first_variance": 1.0}
            for name, loss in zip(("nvil", "arm", "relax"), losses, strict=True)
        ]
        curves = [
            {"point": "p", "estimator": row["estimator"], "seed": 0, "step": step, "loss": row["final_loss"]}
            | {"variance": variance if row["estimator"] == "arm" else math.nan}
            for row in rows
            for step, variance in ((0, 4.0), (10, 2.0))
        ]
        (tmp_path / "results.csv").write_text(tables.to_csv(rows))
        (tmp_path / "curves.csv").write_text(tables.to_csv(curves))
        page = make_page(tmp_path)
        assert f"p: least loss{sentence}" in page.text
        assert page.charts[-1]["data"][1]["y"] == [4, 2]
