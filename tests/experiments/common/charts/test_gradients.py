"""Charts of measured gradients show the rows, and their guides are where they are defined to be."""

import numpy as np

from experiments.common import plots
from experiments.common.charts import gradients
from experiments.report import plotly_charts
from tests.helpers.gradient_rows import make_rows


def guides(chart, kind):
    return [guide for guide in chart.guides if guide.kind == kind]


def test_variance_against_cost_shows_each_positive_variance_with_its_interval():
    rows = make_rows({"reparam": 3.0, "exact": 0.0, "stl": 1.0}, samples=(1, 4))

    chart = gradients.variance_against_cost(rows, "phi", "flops")

    assert [(series.label, series.style) for series in chart.series] == [("Reparameterization", 0), ("STL", 7)]
    np.testing.assert_allclose(chart.series[0].x, [1, 4])
    np.testing.assert_allclose(chart.series[0].y, [3, 0.75])
    np.testing.assert_allclose(chart.series[0].low, [2.7, 0.675])
    np.testing.assert_allclose(chart.series[0].high, [3.6, 0.9])
    assert (chart.x.scale, chart.y.scale) == ("log", "log")


def test_the_pareto_front_passes_through_unbiased_points_that_nothing_beats():
    rows = make_rows({"reparam": 3.0, "stl": 1.0}, samples=(1, 4)) + make_rows({"hollow": 0.1}, phi_biased=True)

    chart = gradients.variance_against_cost(rows, "phi", "flops")

    [front] = guides(chart, "front")
    right, top = chart.x.limits[1], chart.y.limits[1]
    np.testing.assert_allclose(front.x, [1, 1, 1, 4, 4, right])
    np.testing.assert_allclose(front.y, [top, top, 1, 1, 0.25, 0.25])
    assert [series.hollow for series in chart.series] == [False, False, True]
    assert chart.note == "hollow: found biased"


def test_equal_products_are_lines_of_one_decade_each():
    chart = gradients.variance_against_cost(make_rows({"reparam": 3.0}, samples=(1, 4)), "phi", "flops")

    products = np.array([guide.x * guide.y for guide in guides(chart, "equal product")])

    np.testing.assert_allclose(products[:, 0], products[:, 1])
    np.testing.assert_allclose(np.diff(np.log10(products[:, 0])), 1)


def test_against_k_has_the_slopes_of_a_half():
    chart = gradients.against(make_rows({"reparam": 3.0}, samples=(1, 4, 16)), "phi", "num_samples", "snr")

    slopes = [np.diff(np.log(guide.y[[0, -1]])) / np.diff(np.log(guide.x[[0, -1]])) for guide in guides(chart, "slope")]

    np.testing.assert_allclose(np.ravel(slopes), [0.5, -0.5])
    assert chart.x.ticks == (1, 4, 16)


def test_evenly_spaced_points_have_a_linear_axis():
    rows = [row for epoch in (20, 40, 60) for row in make_rows({"reparam": 3.0}, epoch=epoch)]
    uneven = [row for k in (0.1, 1, 10) for row in make_rows({"reparam": 3.0}, cost_parameter=k)]

    assert gradients.against(rows, "phi", "epoch", "variance").x.scale == "linear"
    assert gradients.against(uneven, "phi", "cost_parameter", "variance").x.scale == "log"


def test_rows_of_a_bias_stand_in_their_order_from_above():
    rows = make_rows({"reparam": 3.0, "stl": 1.0}) + make_rows({"st": 1.0}, phi_biased=True, declared_biased=True)

    chart = gradients.bias(rows, "phi")

    assert chart.y.names == ("st *", "STL", "Reparameterization")
    chance, biased = chart.series
    np.testing.assert_array_equal(chance.y, [2, 1])
    np.testing.assert_array_equal(biased.y, [0])
    np.testing.assert_allclose(chance.x, [1, 1])
    np.testing.assert_allclose(chance.high, [3, 3])
    assert (chance.hollow, biased.hollow) == (True, False)


def test_both_renderers_draw_the_points_of_the_description():
    rows = make_rows({"reparam": 3.0, "stl": 1.0}, samples=(1, 4, 16))
    chart = gradients.against(rows, "phi", "num_samples", "snr")

    figure = plotly_charts.draw(chart, hover="")
    lines = {line.get_label(): line for line in plots.against(rows, ["phi"], "num_samples", "snr").axes[0].lines}

    traces = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
    for series in chart.series:
        np.testing.assert_array_equal(lines[series.label].get_xydata(), np.stack([series.x, series.y], axis=-1))
        np.testing.assert_array_equal(traces[series.label]["x"], series.x)
        np.testing.assert_array_equal(traces[series.label]["y"], series.y)
