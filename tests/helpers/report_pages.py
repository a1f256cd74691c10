"""Reports made by the command, and read back cell by cell."""

import json
from html.parser import HTMLParser
from pathlib import Path

from absl import flags

from experiments.report import __main__ as report


def run_command(entry, *arguments: str) -> None:
    """Runs the command of the module `entry` with these flags."""
    values = flags.FlagValues()
    entry.define_flags(values)
    values(["", *arguments])
    entry.main(values)


def make_page(folder: Path, *arguments: str) -> "Page":
    """The report of a folder."""
    run_command(report, f"--workdir={folder}", *arguments)
    return Page((folder / "report.html").read_text())


class Page(HTMLParser):
    """The tables of a page, cell by cell (text, data-value), its charts, and whatever it would load."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tables, self.loads, self.scripts, self.text, self.alerts = {}, [], [], "", 0
        self._table = self._cell = self._script = None
        self.feed(text)
        self.charts = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ("src", "href", "data", "action") if name in attributes]
        self.alerts += any(name.startswith("on") for name in attributes)
        if tag == "table":
            self._table = self.tables.setdefault(attributes["aria-label"], [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._cell = ["", attributes.get("data-value")]
        if tag == "script":
            self._script = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._table[-1].append(tuple(self._cell))
            self._cell = None
        if tag == "script":
            self.scripts.append("".join(self._script))
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self._script.append(data)
            return
        self.text += data
        if self._cell:
            self._cell[0] += data
