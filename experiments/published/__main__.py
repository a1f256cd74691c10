"""Published numbers against those obtained here: the README's table of results, from the rows that scripts left.

    bash scripts/reproduce_flax_vae.sh DIR && python -m experiments.published

Every claim (claims.py) names its script. What the scripts left in --results is read, written to published.csv, beside
this file, and put into README.md; a claim whose script was not run keeps what was obtained before. Nothing is measured
here.
"""

import csv
import itertools
from pathlib import Path

from absl import flags

from experiments.common import cli, tables
from experiments.published.claims import CLAIMS

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "experiments/published/published.csv"
README = ROOT / "README.md"
MARKS = ("<!-- published: made by python -m experiments.published -->\n", "<!-- /published -->\n")
FORMS = [claim.forms() for claim in CLAIMS]
COLUMNS = ("result", "published", "obtained", "K", "data", "precision", "machine", "minutes", "commit", "script")

flags.DEFINE_string("results", None, "folder in which the scripts left theirs; by default results/, if it is there")
FLAGS = flags.FLAGS


def main() -> None:
    with cli.one_sentence():
        folder = Path(FLAGS.results or "results")
        if FLAGS.results and not folder.is_dir():
            raise ValueError(f"--results={folder} is no folder; run a script of scripts/reproduce_*.sh first")
        rows = collect(folder, read_rows())
        README.write_text(in_readme(README.read_text(), rows))
        ROWS.write_text(tables.to_csv(rows))
    print(to_markdown(rows))


def collect(folder: Path, before: list[dict[str, str]]) -> list[dict[str, str]]:
    """A row for each claim that was ever tried, in the order of the claims: of its longest form."""
    known = {row["result"]: row for row in before}
    for claim in itertools.chain(*FORMS):
        if (folder / claim.folder).exists():
            head = {"result": claim.result, "published": claim.published, "script": claim.script}
            try:
                row = head | claim.read(folder / claim.folder)
                if (seeds := row.get("seeds", claim.seeds)) < claim.seeds:
                    raise ValueError(
                        f"{folder / claim.folder} has {seeds} of {claim.seeds} seeds; let the script go on"
                    )
            except ValueError as error:  # a script that is not through
                print(f"left out: {claim.result}: {error}")
                continue
            known[claim.result] = {name: row[name] for name in COLUMNS}
    tried = ([claim for claim in forms if claim.result in known] for forms in FORMS)
    longest = [claims[0] for claims in tried if claims]
    return [known[claim.result] | {"published": claim.published, "script": claim.script} for claim in longest]


def read_rows() -> list[dict[str, str]]:
    if not ROWS.exists():
        return []
    with open(ROWS, newline="") as file:
        return list(csv.DictReader(file))


def to_markdown(rows: list[dict[str, str]]) -> str:
    return tables.to_markdown([list(COLUMNS), *([row[name] for name in COLUMNS] for row in rows)])


def in_readme(text: str, rows: list[dict[str, str]]) -> str:
    """The text with the table between its marks.

    Raises:
      ValueError: if the marks are not there.
    """
    start, end = MARKS
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"README.md has no place for the table: it lacks the lines {start.strip()} and {end.strip()}")
    return text[: text.index(start) + len(start)] + to_markdown(rows) + "\n" + text[text.index(end) :]


if __name__ == "__main__":
    cli.run(main)
