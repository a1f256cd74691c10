"""What every chart shows, described once.

A function of this package turns rows of numbers into a `Chart`: which points are drawn, in which order, on which axes,
with which intervals and names. Two renderers draw a chart: `experiments.common.plots` with matplotlib for papers, and
`experiments.report.plotly_charts` with plotly for the HTML report. A renderer chooses colours, markers and sizes, and
nothing else.
"""

from experiments.common.charts.description import Axis as Axis
from experiments.common.charts.description import Chart as Chart
from experiments.common.charts.description import Guide as Guide
from experiments.common.charts.description import Series as Series
