"""Pictures of measured gradients."""

from experiments.common import plots
from tests.helpers.gradient_rows import make_rows


def test_points_on_each_other_share_a_label_with_the_names_of_papers():
    rows = make_rows({"leave_one_out": 3.0, "stl": 1.0, "nvil": 3.001}, samples=(1,))
    figure = plots.variance_against_cost(rows, ["phi"])
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == {"RLOO, NVIL", "STL"}
    apart = plots.variance_against_cost(make_rows({"leave_one_out": 30.0, "stl": 1.0}, samples=(1,)), ["phi"])
    assert {text.get_text() for ax in apart.axes for text in ax.texts} == {"RLOO", "STL"}


def test_the_legend_of_many_long_names_is_inside_the_figure():
    names = (
        "reparam",
        "reparam_antithetic",
        "reparam_rqmc",
        "reparam_linear_cv",
        "reinforce_ema",
        "stl",
        "nvil",
        "relax",
    )
    figure = plots.variance_against_cost(
        make_rows({name: 1.0 + i for i, name in enumerate(names)}, samples=(1,)), ["phi"]
    )
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.contains(box.x0, box.y0)
    assert figure.bbox.contains(box.x1, box.y1)
