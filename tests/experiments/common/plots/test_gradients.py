"""Pictures of measured gradients."""

from experiments.common import plots
from tests.helpers.gradient_rows import make_rows


def test_points_are_named_unless_they_lie_on_each_other():
    rows = make_rows({"reparam": 3.0, "stl": 1.0, "nvil": 3.001}, samples=(1,))
    figure = plots.variance_against_cost(rows, ["phi"])
    for ax in figure.axes:
        assert [text.get_text() for text in ax.texts] == ["stl"]
    apart = plots.variance_against_cost(make_rows({"reparam": 30.0, "stl": 1.0}, samples=(1,)), ["phi"])
    assert {text.get_text() for ax in apart.axes for text in ax.texts} == {"reparam", "stl"}
