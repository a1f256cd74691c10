"""Two results that several tests use: a sweep and a measurement of the laboratory."""

import json

import pytest

from experiments.common import plots
from experiments.compare_estimators import __main__ as compare_estimators
from tests.helpers.report_pages import make_page, run_command
from tests.helpers.written_workdirs import write_sweep


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """A sweep of two learning rates with two seeds each: one program. It has every figure, and one run was evaluated
    again."""
    alike = {"binarization": "none", "likelihood": "gaussian", "validation_size": 300}
    points = [
        ({"learning_rate": 1e-3, "seed": 0}, 0.0),
        ({"learning_rate": 1e-3, "seed": 1}, 0.3),
        ({"learning_rate": 1e-2, "seed": 0}, -1.0),
        ({"learning_rate": 1e-2, "seed": 1}, -1.2),
    ]
    folder = write_sweep(tmp_path_factory.mktemp("swept"), [(alike | point, shift) for point, shift in points])
    row = {
        "run": 0,
        "epoch": 100,
        "eval_samples": 5000,
        "test_nll_nats": 21.987,
        "versions": ", ".join(9 * ["package 0.10.2"]),
    }
    (folder / "programs/0/evaluations.jsonl").write_text(json.dumps(row) + "\n")
    return folder, make_page(folder)


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """A result of the laboratory: one estimator at two costs and with two K."""
    folder = tmp_path_factory.mktemp("measured")
    arguments = ["--estimators=reparam", "--num_samples=1,4"]
    arguments += ["--problem=quadratic:cost_parameter=1,quadratic:cost_parameter=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", lambda figure, path: [])  # the page draws its charts itself
        run_command(compare_estimators, *arguments, "--draws=400", "--rounds=3", f"--output={folder}")
    return folder, make_page(folder)
