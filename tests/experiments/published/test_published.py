"""published.csv holds what the scripts left, and the tables of scripts/README.md show its rows."""

import re
import subprocess
from pathlib import Path

import pytest

from experiments.published import __main__ as published
from experiments.published import readme
from experiments.published.claims import CLAIMS
from tests.helpers.written_workdirs import write_sweep

ROOT = Path(__file__).resolve().parents[3]


FORMS = [form for claim in CLAIMS for form in claim.forms()]


def test_the_readme_shows_the_rows_of_published_csv():
    text = published.README.read_text()
    rows = published.read_rows()
    assert rows
    assert readme.with_tables(text, rows) == text
    for row in rows:
        assert (ROOT / "scripts" / row["script"].split()[0]).exists()
        truncating = set(row["script"].split()[1:]) - {"nonlinear"}
        assert row["result"].endswith("TRUNCATED") == bool(truncating)
    claimed = {(claim.result, claim.published, claim.script) for claim in FORMS}
    assert {(row["result"], row["published"], row["script"]) for row in rows} <= claimed


def test_every_number_of_a_row_is_in_a_narrow_cell_of_a_table():
    rows = published.read_rows()
    text = "\n".join(readme.all_tables(rows).values())
    cells = [cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line[1:-1].split("|")]
    assert max(map(len, cells)) <= 60
    for row in rows:
        numbers = re.findall(r"-?\d+\.?\d*", row["obtained"])
        assert numbers
        numbers += re.findall(r"-?\d+\.\d+", row["control"])
        for number in numbers:
            assert any(number in cell for cell in cells), (row["result"], number)


def test_a_readme_without_the_marks_of_a_table_is_refused():
    text = published.README.read_text()
    with pytest.raises(ValueError, match="no place for the table iwae"):
        readme.with_tables(text.replace("<!-- published: iwae -->", ""), published.read_rows())


def test_names_of_claims_are_unique_and_scripts_write_into_the_folders_of_their_claims():
    assert len({claim.result for claim in FORMS}) == len(FORMS)
    for claim in FORMS:
        script = (ROOT / "scripts" / claim.script.split()[0]).read_text()
        folder = claim.folder.split("/")[0]
        if "output+=_quick" in script:
            folder = folder.removesuffix("_quick")
        assert re.search(rf"output=results/{folder}\b", script)


def earlier_rows():
    """The rows of an earlier command with one row, of a truncated script."""
    claim = FORMS[-1]
    row = {"result": claim.result, "published": claim.published, "script": claim.script}
    return [dict.fromkeys(published.COLUMNS, "x") | dict.fromkeys(published.CONTROL_COLUMNS, "") | row]


def write_flax_vae(folder, seeds):
    write_sweep(folder, [({"binarization": "static", "dataset": "mnist", "seed": seed}, 0.1 * seed) for seed in seeds])


def test_a_script_that_was_not_run_or_not_finished_keeps_its_earlier_row(tmp_path):
    earlier = earlier_rows()
    assert published.collect(tmp_path, earlier) == earlier
    (tmp_path / FORMS[-1].folder).mkdir(parents=True)
    assert published.collect(tmp_path, earlier) == earlier


def test_a_finished_script_adds_a_row_in_the_order_of_the_claims(tmp_path):
    earlier = earlier_rows()
    write_flax_vae(tmp_path / "flax_vae", range(3))
    [new, old] = published.collect(tmp_path, earlier)
    assert new["result"] == FORMS[0].result
    assert [old] == earlier


def test_an_earlier_row_takes_the_current_words_of_its_claim(tmp_path):
    earlier = earlier_rows()
    outdated = [row | {"published": "old", "script": "old.sh"} for row in earlier]
    assert published.collect(tmp_path, outdated) == earlier


def test_a_row_shows_the_longest_run_of_a_script(tmp_path):
    write_flax_vae(tmp_path / "flax_vae_quick", [0])
    [quick] = published.collect(tmp_path, [])
    assert (quick["script"], quick["result"]) == ("reproduce_flax_vae.sh --quick", f"{FORMS[0].result}, TRUNCATED")
    write_flax_vae(tmp_path / "flax_vae", range(3))
    [whole] = published.collect(tmp_path, [quick])
    assert (whole["script"], whole["result"]) == ("reproduce_flax_vae.sh", FORMS[0].result)


def test_the_short_form_of_iwae_is_longer_than_the_quick_form(tmp_path):
    run = {"dataset": "mnist", "latent_dim": (100, 50), "objective": "iwae", "num_samples": 5}
    for folder, script, length in (
        ("iwae_quick", "reproduce_iwae.sh --quick", ""),
        ("iwae_short", "reproduce_iwae.sh short", " after 121 passes"),
    ):
        write_sweep(tmp_path / folder, [(run, 0.0)])
        [row] = published.collect(tmp_path, [])
        assert row["script"] == script
        assert row["result"].endswith(f"(active units){length}, TRUNCATED")


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("reproduce_*.sh")), ids=lambda path: path.name)
def test_the_header_of_a_script_says_what_it_makes_how_long_it_takes_and_what_to_expect(script):
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    head = text.split("set -euo pipefail")[0]
    for word in ("Expected", "--quick", "TRUNCATED", "results/", f"bash scripts/{script.name}"):
        assert word in head, word
    assert any(word in head for word in ("minute", "hour", "day"))
    assert 'echo "TRUNCATED' in text
