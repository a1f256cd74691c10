"""The figures of the plotly renderer are valid."""

import pytest


def test_charts_are_what_plotly_knows(swept, measured):
    """Every property by plotly's own schema, with the names of colours replaced by colours."""
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
