"""The numbers of a short run of each estimator are those of the release before, for each minor version of jax."""

import json

import numpy as np
import pytest

from tests.helpers import golden_runs
from vae.estimators import BY_NAME

FAST = ("reparam", "leave_one_out", "disarm")
# Of float32, after five steps of Adam, between processors and compilers. A formula that changes moves far more.
RTOL = 2e-5


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in BY_NAME]
)
def test_numbers_are_those_before(name):
    if not golden_runs.PATH.exists():
        pytest.skip(f"no {golden_runs.PATH.name} yet: python -m tests.helpers.golden_runs")
    golden = json.loads(golden_runs.PATH.read_text())
    assert name in golden, "python -m tests.helpers.golden_runs"
    np.testing.assert_allclose(golden_runs.bounds(name), golden[name], rtol=RTOL)


def test_another_run_has_other_numbers():
    """The control: no two estimators have the same bounds, unless by theory."""
    golden = json.loads(golden_runs.PATH.read_text())
    assert len({tuple(np.round(run, 3)) for run in golden.values()}) > len(golden) / 2
    assert not np.allclose(golden["reparam"], golden["leave_one_out"], rtol=100 * RTOL)
