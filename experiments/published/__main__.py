"""Updates the tables of scripts/README.md, which compare published numbers with those that the scripts obtained.

    bash scripts/reproduce_flax_vae.sh DIR && python -m experiments.published

A claim (claims.py) is a published number or ranking, and names the script that repeats its experiment. The command
reads the results that the scripts left in --results, writes a row for each claim to published.csv beside this file, and
updates the tables of scripts/README.md. A claim whose script was not run keeps its row. Nothing is measured here.

A claim may have a negative control (controls.py), which the same script measures. If a control meets its claim, the
command fails.
"""

from pathlib import Path

from absl import flags

from experiments.common import cli, files, tables
from experiments.published import readme
from experiments.published.claims import CLAIMS, Claim

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "experiments/published/published.csv"
README = ROOT / "scripts/README.md"
COLUMNS = ("result", "published", "obtained", "K", "data", "precision", "machine", "minutes", "commit", "script")
CONTROL_COLUMNS = ("control", "control_commit")
COLUMNS += CONTROL_COLUMNS

Row = dict[str, str]


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "results",
        None,
        "Folder in which the scripts left their results; by default results/, if it exists.",
        flag_values=values,
    )


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    with cli.one_sentence():
        folder = Path(options.results or "results")
        if options.results and not folder.is_dir():
            raise ValueError(f"--results={folder} is not a folder; run one of scripts/reproduce_*.sh first")
        rows = collect(folder, read_rows())
        files.write_text(README, readme.with_tables(README.read_text(encoding="utf-8"), rows))
        files.write_text(ROWS, tables.to_csv(rows))
    print("\n\n".join(f"{name}\n\n{table}" for name, table in readme.all_tables(rows).items()))


def collect(folder: Path, before: list[Row]) -> list[Row]:
    """A row for each claim whose script was ever run, in the order of the claims.

    If both the whole script and shorter forms of it were run, the row shows the longest run.

    Args:
      folder: The folder in which the scripts left their results.
      before: The rows of earlier results. A row stays if its script was not run again or has not finished.

    Raises:
      ValueError: If the negative control of a claim meets the claim.
    """
    rows = {row["result"]: row for row in before}
    for claim in CLAIMS:
        for form in claim.forms():
            try:
                if (folder / form.folder).exists():
                    rows[form.result] = _read(form, folder) | _earlier_control(form, claim, rows)
                if form.control and form.result in rows and (folder / form.control_folder).exists():
                    rows[form.result] |= form.control.columns(folder / form.control_folder)
            except ValueError as error:  # the script has not finished
                print(f"left out: {form.result}: {error}")
    collected = []
    for claim in CLAIMS:
        tried = [form for form in claim.forms() if form.result in rows]
        if tried:
            longest = tried[0]
            row = rows[longest.result] | {"published": longest.published, "script": longest.script}
            if row["control"]:
                longest.control.check(row)
            collected.append(row)
    return collected


def _earlier_control(form: Claim, claim: Claim, rows: dict[str, Row]) -> Row:
    """The columns about the control in the earlier row of this form, or of another form that has the same control."""
    alike = [other.result for other in claim.forms() if other.control_folder == form.control_folder]
    earlier = next((rows[result] for result in alike if result in rows), {})
    return {name: earlier.get(name, "") for name in CONTROL_COLUMNS}


def read_rows() -> list[Row]:
    """The rows of published.csv."""
    return tables.read_csv(ROWS, texts=COLUMNS) if ROWS.exists() else []


def _read(claim: Claim, folder: Path) -> Row:
    path = folder / claim.folder
    row = {"result": claim.result, "published": claim.published, "script": claim.script} | claim.read(path)
    seeds = row.get("seeds", claim.seeds)
    if seeds < claim.seeds:
        raise ValueError(f"{path} has {seeds} of {claim.seeds} seeds; run the script again to finish it")
    return {name: row[name] for name in COLUMNS if name not in CONTROL_COLUMNS}


if __name__ == "__main__":
    import experiments.published.slips  # noqa: F401  (runs of controls name the slips that trained them)

    define_flags(flags.FLAGS)
    cli.run(main)
