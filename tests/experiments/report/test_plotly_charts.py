"""The figures of the plotly renderer are valid for plotly."""

import pytest


def test_plotly_accepts_every_property_of_a_figure(swept, measured):
    """plotly checks each property of a figure. Names of colours, such as @0, are replaced by a colour first."""
    from plotly.graph_objects import Figure

    def coloured(part):
        if isinstance(part, dict):
            return {key: coloured(value) for key, value in part.items()}
        if isinstance(part, list):
            return [coloured(value) for value in part]
        return "#123456" if isinstance(part, str) and part.startswith("@") else part

    for chart in swept[1].charts + measured[1].charts:
        Figure(coloured({"data": chart["data"], "layout": chart["layout"]}))
    with pytest.raises(ValueError, match="elephant"):
        Figure({"data": [{"type": "scatter", "elephant": 1}]})
