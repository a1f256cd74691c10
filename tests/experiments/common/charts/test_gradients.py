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


def test_the_pareto_front_goes_right_from_the_cheapest_of_the_unbiased_points_that_nothing_beats():
    rows = make_rows({"reparam": 3.0, "stl": 1.0}, samples=(1, 4)) + make_rows({"hollow": 0.1}, phi_biased=True)

    chart = gradients.variance_against_cost(rows, "phi", "flops")

    [front] = guides(chart, "front")
    np.testing.assert_allclose(front.x, [1, 4, 4, chart.x.limits[1]])
    np.testing.assert_allclose(front.y, [1, 1, 0.25, 0.25])
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


def test_a_long_interval_is_written_at_the_edge_and_leaves_room_for_the_others():
    rows = make_rows({"reparam": 3.0, "stl": 1.0, "nvil": 1.0})
    rows += make_rows({"reinforce": 1.0}, phi_bias=0.28, phi_bias_low=-0.14, phi_bias_high=0.7)
    rows += make_rows({"muprop": 1.0}, phi_bias=-0.02, phi_bias_low=-0.17, phi_bias_high=0.13)
    rows += make_rows({"st": 1.0}, phi_bias=-0.6, phi_bias_low=-0.7, phi_bias_high=-0.5, phi_biased=True)
    rows += make_rows({"rebar": 1.0}, phi_bias=0.01, phi_bias_low=-0.02, phi_bias_high=0.05)

    chart = gradients.bias(rows, "phi")

    np.testing.assert_allclose(chart.x.limits, (-5.5, 5.5))  # around the longest of the intervals that are shown
    texts = {chart.y.names[int(edge.y)]: (edge.text.replace("\N{MINUS SIGN}", "-"), edge.right) for edge in chart.edges}
    assert texts == {
        "REINFORCE": ("28 [-14, 70] \N{RIGHTWARDS ARROW}", True),
        "MuProp": ("-2.0 [-17, 13] \N{RIGHTWARDS ARROW}", True),
        "st": ("\N{LEFTWARDS ARROW} -60 [-70, -50]", False),
    }
    figure = plots.bias_forest(rows, ["phi"], confidence=0.9)
    drawn = {text.get_text() for text in figure.axes[0].texts}
    notes = {note["text"] for note in plotly_charts.draw(chart, hover="", bars=True)["layout"]["annotations"]}
    assert drawn == notes == {edge.text for edge in chart.edges}
    assert figure.legends[0].get_title().get_text() == "truth: exact; bars: 90 % intervals"
    assert gradients.bias(rows[:3], "phi").x.limits is None


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
