"""The parts of a page as HTML: tables that can be sorted, large figures, charts and pictures.

This file escapes the text that it gets, because names, settings and paths may come from anybody.
"""

import base64
import json
import math
from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

from experiments.report.plotly_charts import Figure

# Longer tables are shown in pages of so many lines; the number is also in report.js.
PAGE = 50


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      text: The text that is shown.
      value: The exact number, by which the table is sorted.
      interval: The interval of the number, shown below it.
    """

    text: str
    value: Any = None
    interval: str = ""


class Fact(NamedTuple):
    """A large figure: its name, its value as text, and a unit or remark."""

    name: str
    value: str
    unit: str = ""


class Section(NamedTuple):
    """A section of the page: its anchor, its heading (plain text) and its HTML."""

    anchor: str
    heading: str
    html: str


class Charts:
    """The charts of a page, collected while its sections are made."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(self, figure: Figure, name: str) -> str:
        """Adds a chart and returns its HTML: its buttons, and an empty element for report.js to draw in.

        Screen readers read `name` aloud.
        """
        self.figures.append(figure)
        buttons = "".join(
            f'<button type="button" aria-pressed="{"false" if i else "true"}">{escape(choice["label"])}</button>'
            for i, choice in enumerate(figure["choices"])
        )
        choices = f'<div class="choices" role="group" aria-label="horizontal axis">{buttons}</div>' if buttons else ""
        place = f'<div class="plot" role="img" aria-label="{escape(name)}"></div>'
        return f'<div class="chart" data-chart="{len(self.figures) - 1}">{choices}{place}</div>'

    def json(self) -> str:
        """All charts as JSON, with <, > and & escaped, so that an HTML parser finds no tag."""
        text = json.dumps(_rounded(self.figures), separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(header: list[str], lines: list[list[Cell]], name: str, sortable: bool = True) -> str:
    """A table, whose columns of numbers are sorted by the numbers' values. Screen readers read `name` aloud."""
    numeric = [_is_numeric([line[i].value for line in lines]) for i in range(len(header))]
    head = []
    for title, right in zip(header, numeric, strict=True):
        kind = ' class="number"' if right else ""
        content = f'<button type="button">{escape(title)}</button>' if sortable else escape(title)
        head.append(f'<th scope="col"{kind}{" aria-sort=none" if sortable else ""}>{content}</th>')
    body = []
    for line in lines:
        cells = [_cell(cell, right) for cell, right in zip(line, numeric, strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    kind = "sortable" if sortable else "plain"
    kind += " paged" if len(lines) > PAGE else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}" aria-label="{escape(name)}">'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def cell_with_interval(text: str, value: Any) -> Cell:
    """The cell of a figure and its interval or error, such as "1.5 ± 0.2" or "1.5 [1.3, 1.7]"."""
    figure, _, interval = text.partition(" ")
    return Cell(figure, value, interval)


def without_shared(header: list[str], lines: list[list[Cell]], shared: Iterable[str]) -> tuple[list, list, str]:
    """A table without those of the columns `shared` that are the same in all of its lines, and a paragraph that says
    their values."""
    places = [i for i, title in enumerate(header) if title in shared and len({line[i].text for line in lines}) == 1]
    if len(lines) < 2 or not places:
        return header, lines, ""
    without = lambda row: [content for i, content in enumerate(row) if i not in places]
    values = "; ".join(f"{header[i]}: {lines[0][i].text}" for i in places)
    return without(header), [without(line) for line in lines], f"<p>The same in all lines: {escape(values)}.</p>"


def listed(names: Iterable[str], most: int = 10) -> str:
    """The names, joined by commas. Only the first are listed if there are many."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def large_figures(facts: list[Fact]) -> str:
    """A line of large figures."""
    lines = (
        f"<div><dt>{escape(fact.name)}</dt><dd>{escape(fact.value)} <small>{escape(fact.unit)}</small></dd></div>"
        for fact in facts
    )
    return f'<dl class="facts">{"".join(lines)}</dl>'


def picture(data: bytes, caption: str) -> str:
    """A PNG file embedded in the page, with its caption."""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def folded(summary: str, html: str) -> str:
    """HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def with_minus_signs(text: str) -> str:
    """The text of a number with typographic minus signs in place of hyphens."""
    return text if text == "-" else text.replace("-", "\N{MINUS SIGN}")


def _cell(cell: Cell, right: bool) -> str:
    kind = ' class="number"' if right else ""
    value = f' data-value="{cell.value!r}"' if right and cell.value is not None else ""
    text = escape(cell.text) + (f" <small>{escape(cell.interval)}</small>" if cell.interval else "")
    return f"<td{kind}{value}>{with_minus_signs(text) if right else text}</td>"


def _is_numeric(values: list[Any]) -> bool:
    """Whether a column holds numbers, some of which may be missing."""
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)


def _rounded(content: Any) -> Any:
    """Nested lists and dicts with their numbers rounded to the seven digits of a float32.

    Numbers that are not finite become None, because JSON has no NaN and no infinity. plotly leaves None out.
    """
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(value) for value in content]
    if not isinstance(content, float):
        return content
    if not math.isfinite(content):
        return None
    number = float(f"{content:.7g}")
    return int(number) if number.is_integer() else number
