"""Pictures of measured gradients."""

import itertools

from matplotlib.text import Text

from experiments.common import plots
from experiments.common.charts.styles import paper_label
from tests.helpers.gradient_rows import make_rows

COSTS = ("flops", "seconds")


def test_points_on_each_other_share_a_label_with_the_names_of_papers():
    rows = make_rows({"leave_one_out": 3.0, "stl": 1.0, "nvil": 3.001}, samples=(1,))
    figure = plots.variance_against_cost(rows, ["phi"], COSTS)
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == {"RLOO\nNVIL", "STL"}
    apart = plots.variance_against_cost(make_rows({"leave_one_out": 30.0, "stl": 1.0}, samples=(1,)), ["phi"], COSTS)
    assert {text.get_text() for ax in apart.axes for text in ax.texts} == {"RLOO", "STL"}


def test_every_point_has_a_label_that_covers_nothing_else():
    """Estimators of a VAE on the digits: some lie on each other by FLOP (millions), others by time (microseconds)."""
    measured = {
        "reparam": (46.9, 12.4, 152),
        "stl": (11.0, 12.4, 132),
        "reparam_antithetic": (8.25, 19.0, 160),
        "reparam_rqmc": (47.0, 12.5, 124),
        "reparam_linear_cv": (15.2, 60.7, 244),
        "measure_valued": (7.72, 87.3, 1043),
        "reinforce": (20182.0, 12.5, 167),
        "reinforce_ema": (544.0, 12.5, 147),
        "nvil": (64.8, 13.4, 135),
        "leave_one_out": (53.6, 19.3, 251),
        "muprop": (109.0, 17.1, 141),
    }
    rows = make_rows({name: variance for name, (variance, *_) in measured.items()})
    rows = [row | dict(zip(("flops", "seconds"), measured[row["estimator"]][1:], strict=True)) for row in rows]
    figure = plots.variance_against_cost(rows, ["phi"], COSTS)
    figure.draw_without_rendering()
    for ax, cost in zip(figure.axes, (1, 2), strict=True):
        labels = [Text.get_window_extent(text) for text in ax.texts]
        names = [name for text in ax.texts for name in text.get_text().split("\n")]
        assert sorted(names) == sorted(paper_label(name) for name in measured)
        assert not any(label.overlaps(other) for label, other in itertools.combinations(labels, 2))
        assert all(ax.bbox.contains(*corner) for label in labels for corner in label.corners())
        points = ax.transData.transform([(values[cost], values[0]) for values in measured.values()])
        assert not any(label.contains(*point) for label in labels for point in points)


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
        make_rows({name: 1.0 + i for i, name in enumerate(names)}, samples=(1,)), ["phi"], COSTS
    )
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.contains(box.x0, box.y0)
    assert figure.bbox.contains(box.x1, box.y1)
