"""Makes the tables of scripts/README.md. Each table is between two marks, which are HTML comments."""

import re

from experiments.common import tables
from experiments.published.claims import CLAIMS, TABLES, TRUNCATED, Claim
from experiments.published.controls import slip_and_obtained

START = "<!-- published: {name} -->\n"
END = "<!-- /published -->\n"
# A list of names and numbers, a unit and the number of seeds: "relax -1.2 ± 0.1, rebar -1.3 ± 0.1 nats (3 seeds)".
RANKING = re.compile(r"(?P<items>.*\d|.*-)(?P<unit> nats)? \((?P<seeds>\d+ seeds?)\)")
ITEM = re.compile(r"(?P<name>.+?) (?P<value>-?\d[\d.e-]*(?: ± [\d.e-]+)?|-)")
SOURCE = re.compile(r", arXiv:[\d.]+")

Row = dict[str, str]


def with_tables(text: str, rows: list[Row]) -> str:
    """The text of scripts/README.md with the current tables between their marks.

    Raises:
      ValueError: If the marks of a table are missing.
    """
    for name, table in all_tables(rows).items():
        start = START.format(name=name)
        before, opening, rest = text.partition(start)
        _, closing, after = rest.partition(END)
        if not opening or not closing or start in after:
            raise ValueError(
                f"scripts/README.md has no place for the table {name}; write {start.strip()} and {END.strip()} where"
                " the table belongs, once and on lines of their own"
            )
        text = f"{before}{start}{table}\n{END}{after}"
    return text


def all_tables(rows: list[Row]) -> dict[str, str]:
    """The tables by name, in Markdown. A claim whose script was never run has no row."""
    by_result = {row["result"]: row for row in rows}
    made = {}
    for name in TABLES:
        tried = []
        for claim in (claim for claim in CLAIMS if claim.table == name):
            row = next((by_result[form.result] for form in claim.forms() if form.result in by_result), None)
            if row:
                length = row["result"].removeprefix(claim.result).removesuffix(TRUNCATED)
                tried.append((claim._replace(name=f"{claim.name}{length}"), row))
        numbers = [(claim, row) for claim, row in tried if not claim.ranks]
        rankings = [(claim, row) for claim, row in tried if claim.ranks]
        parts = [_ranking_table(rankings)] if rankings else []
        parts += [_number_table(numbers)] if numbers else []
        parts += [_provenance([row for _, row in tried])] if tried else ["Not run yet."]
        if controls := [(claim, row) for claim, row in tried if row["control"]]:
            parts.append(_controls(controls))
        made[name] = "\n\n".join(parts)
    return made


def _provenance(rows: list[Row]) -> str:
    """A line that names the scripts and the commits that made the rows."""
    commits: dict[str, dict[str, None]] = {}
    for row in rows:
        truncated = " (TRUNCATED)" if row["result"].endswith(TRUNCATED) else ""
        script = f"`{row['script']}`{truncated}"
        commits.setdefault(script, {}).update(dict.fromkeys(row["commit"].split(", ")))
    lines = (f"{script} at {', '.join(names)}" for script, names in commits.items())
    return f"Made by {'; '.join(lines)}."


def _controls(claims: list[tuple[Claim, Row]]) -> str:
    """The negative controls, which all fail, with the estimators that were ranked beside them, and their commits."""
    lines = []
    for claim, row in claims:
        slip, obtained = slip_and_obtained(row)
        ranked = _ranked(obtained) if claim.ranks else [(slip, obtained)]
        lines += [[claim.name, name, value, "fails" if name == slip else ""] for name, value in ranked]
    commits = ", ".join(dict.fromkeys(row["control_commit"] for _, row in claims))
    table = tables.to_markdown([["claim", "estimator", "obtained", "control"], *lines])
    return f"Negative controls, made at {commits}:\n\n{table}"


def _number_table(claims: list[tuple[Claim, Row]]) -> str:
    """A line for each claim. The source is left out, because the heading above the table names it."""
    lines = [[claim.name, SOURCE.sub("", row["published"]), row["obtained"], row["K"]] for claim, row in claims]
    return tables.to_markdown([["claim", "published", "obtained", "K"], *lines])


def _ranking_table(claims: list[tuple[Claim, Row]]) -> str:
    """A line for each estimator of each claim, the best first."""
    lines = []
    for claim, row in claims:
        seeds = RANKING.fullmatch(row["obtained"])["seeds"].split()[0]
        for place, (name, value) in enumerate(_ranked(row["obtained"]), start=1):
            lines.append([claim.name, str(place), name, value, seeds, row["K"]])
    return tables.to_markdown([["claim", "place", "estimator", "obtained", "seeds", "K"], *lines])


def _ranked(obtained: str) -> list[tuple[str, str]]:
    """The names of a ranking and their numbers with the unit, the best first."""
    matched = RANKING.fullmatch(obtained)
    entries = (ITEM.fullmatch(item) for item in matched["items"].split(", "))
    return [(entry["name"], f"{entry['value']}{matched['unit'] or ''}") for entry in entries]
