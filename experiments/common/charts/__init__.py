"""The content of every chart, described once for two renderers.

A function of this package turns rows of numbers into a `Chart`, which says which points are drawn, in which order, on
which axes, and with which intervals and names. Two renderers draw charts: `experiments.common.plots` with matplotlib
for papers, and `experiments.report.plotly_charts` with plotly for the HTML report. A renderer chooses only colours,
markers and sizes.
"""

from experiments.common.charts.chart import Axis as Axis
from experiments.common.charts.chart import Chart as Chart
from experiments.common.charts.chart import Guide as Guide
from experiments.common.charts.chart import Series as Series
