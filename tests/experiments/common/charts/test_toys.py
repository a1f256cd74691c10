"""Charts of a toy problem show means over seeds, family by family."""

import numpy as np

from experiments.common.charts import toys

FAMILIES = {"score": ["reinforce"], "coupled": ["arm", "disarm"]}


def test_curves_are_means_over_seeds_in_the_order_of_the_families():
    values = {name: {0: [1.0, 3.0], 10: [place, place]} for place, name in enumerate(("arm", "disarm", "reinforce"))}

    chart = toys.curves(values, FAMILIES, "loss")

    assert [(series.label, series.group, series.style) for series in chart.series] == [
        ("REINFORCE", "score", 0),
        ("ARM", "coupled", 0),
        ("DisARM", "coupled", 1),
    ]
    np.testing.assert_array_equal([series.y for series in chart.series], [[2, 2], [2, 0], [2, 1]])
    np.testing.assert_array_equal(chart.series[0].x, [0, 10])


def test_a_variance_that_is_a_rounding_error_is_a_gap():
    values = {"reinforce": {0: [4.0]}, "arm": {0: [1e-12]}, "disarm": {0: [0.0]}}

    chart = toys.curves(values, FAMILIES, "variance")

    np.testing.assert_array_equal([series.y for series in chart.series], [[4], [np.nan], [np.nan]])
    assert chart.y.scale == "log"
