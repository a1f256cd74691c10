"""The report as one HTML file: its head, its sections, the charts, and the scripts that draw the charts.

The style sheet report.css and the script report.js are beside this file.
"""

from html import escape
from pathlib import Path

import numpy as np

from experiments.common import results
from experiments.common.comparison import Comparison
from experiments.common.workdirs import Contents
from experiments.report import laboratory, reproduce, toys, training
from experiments.report import pictures as run_pictures
from experiments.report.elements import Charts, Section

FOLDER = Path(__file__).parent
# The size of the largest page, of which plotly.js takes half. Pictures that do not fit are left out and named. If the
# page is still too large, its curves get fewer points.
MAX_BYTES = 10_000_000
# Bytes that are kept free for the headings and captions of the pictures.
MARGIN = 20_000
PICTURES_PLACE = "<!-- pictures -->"


@np.errstate(all="ignore")  # others may have written the numbers, which may overflow in a chart
def make_page(contents: Contents, comparison: Comparison | None, title: str) -> str:
    """The whole file, with the verdict of the comparison first.

    The curves lose points until the file has at most MAX_BYTES, or one point is left of each.
    """
    longest = max((len(run.rows) for run in contents.runs), default=0)
    for power in range(longest.bit_length() + 1):
        page = _page_with_every_nth_point(contents, comparison, title, 2**power)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def _page_with_every_nth_point(contents: Contents, comparison: Comparison | None, title: str, n: int) -> str:
    from plotly.offline import get_plotlyjs  # slow to import

    charts = Charts()
    sections = [training.verdict(comparison, charts)] if comparison else []
    sections += training.sections(contents, charts, n, PICTURES_PLACE) if contents.runs else []
    sections += [laboratory.section(one, charts, number) for number, one in enumerate(contents.laboratories)]
    sections += [toys.section(one, charts, number) for number, one in enumerate(contents.toys)]
    sections.append(reproduce.section(contents))
    page = "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title><style>{_own('report.css')}</style></head>",
            f"<body><header>{_head(contents, comparison, title)}{_navigation(sections)}</header>",
            f"<main>{''.join(map(_section, sections))}</main>",
            f'<script type="application/json" id="charts">{charts.json()}</script>',
            f"<script>{get_plotlyjs()}</script><script>{_own('report.js')}</script></body></html>\n",
        ]
    )
    free = MAX_BYTES - len(page.encode()) - MARGIN
    return page.replace(PICTURES_PLACE, run_pictures.pictures(contents, free))


def _own(name: str) -> str:
    """The content of a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def _head(contents: Contents, comparison: Comparison | None, title: str) -> str:
    """The title, a summary of each result, and the most important figures."""
    parts = [f'<p class="kind">Report</p><h1>{escape(title)}</h1>']
    if contents.finished:
        parts.append(f"<p>{escape(results.heading(contents.finished))}</p>")
        parts.append(training.first_setting(contents, comparison))
    for one in contents.laboratories:
        parts.append(f"<p>{escape(laboratory.protocol(one))}</p>{laboratory.best_estimators(one)}")
    for one in contents.toys:
        parts.append(f"<p>{escape(toys.protocol(one))}</p>{toys.least_losses(one)}")
    unfinished = len(contents.runs) - len(contents.finished)
    if unfinished:
        sentence = f"{unfinished} of {len(contents.runs)} runs are not finished; only their curves are shown."
        parts.append(f'<p class="warning">{sentence}</p>')
    return "".join(parts)


def _navigation(sections: list[Section]) -> str:
    links = (f'<a href="#{section.anchor}">{escape(section.heading)}</a>' for section in sections)
    return f"<nav>{''.join(links)}</nav>"


def _section(section: Section) -> str:
    return f'<section id="{section.anchor}"><h2>{escape(section.heading)}</h2>{section.html}</section>'
