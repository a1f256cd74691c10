"""Charts of a toy problem: the exact loss and the variance of the gradient while each estimator trains."""

import numpy as np

from experiments.common.charts.chart import Axis, Chart, Series
from experiments.common.charts.styles import paper_label

FIGURES = {"loss": "expected loss", "variance": "gradient variance"}
# Variances below this fraction of the largest variance are rounding errors of float32.
ROUNDING = 1e-11

# The values of all seeds at each step.
Curve = dict[int, list[float]]


def curves(values: dict[str, Curve], families: dict[str, list[str]], figure: str) -> Chart:
    """The mean of "loss" or "variance" over seeds against steps, at one point of a toy problem.

    Args:
      values: The curve of each estimator.
      families: The estimators of each family, in the order in which they are drawn. The group of an estimator's series
        is its family, and the style is its place in the family.
    """
    every = [value for curve in values.values() for seeds in curve.values() for value in seeds]
    finite = [value for value in every if np.isfinite(value)]
    rounding = ROUNDING * max(finite, default=0.0)
    series = []
    for family, names in families.items():
        for style, name in enumerate(names):
            curve = values.get(name, {})
            mean = np.array([sum(seeds) / len(seeds) for seeds in curve.values()], dtype=float)
            if figure == "variance":
                mean[~(mean > rounding)] = np.nan
            series.append(
                Series(paper_label(name), style, np.array(list(curve), dtype=float), mean, group=family, remark=family)
            )
    return Chart(series, Axis("step"), Axis(FIGURES[figure], "log" if figure == "variance" else "linear"))
