"""published.csv holds what the scripts left, and the tables of scripts/README.md show its rows."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.common import checks, tables
from experiments.common.settings import Settings
from experiments.published import __main__ as published
from experiments.published import readers, readme
from experiments.published.claims import CLAIMS
from tests.helpers.written_workdirs import write_run

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


def test_a_finished_script_gives_a_row_and_an_unfinished_one_keeps_the_earlier_row(tmp_path, capsys):
    claim = FORMS[-1]
    head = {"result": claim.result, "published": claim.published, "script": claim.script}
    before = [dict.fromkeys(published.COLUMNS, "x") | head]
    assert before[0]["result"].endswith("TRUNCATED")
    flax = [Settings(binarization="static", dataset="mnist", seed=i) for i in range(3)]
    for i, clock in enumerate((1.0, 1.0, 2.0)):  # the first two runs trained together, so they have one clock
        write_run(tmp_path / f"flax_vae/runs/{i}", flax[i], shift=0.1 * i, finished=i < 2)
        _set_clock(tmp_path / f"flax_vae/runs/{i}", 60 * clock)
    assert published.collect(tmp_path, before) == before
    assert "has 2 finished of 3 runs; run the script again to finish it" in capsys.readouterr().out
    shutil.move(tmp_path / "flax_vae/runs/2", tmp_path / "aside")
    assert published.collect(tmp_path, before) == before
    assert "has 2 of 3 seeds" in capsys.readouterr().out
    write_run(tmp_path / "flax_vae/runs/2", flax[2], shift=0.2)
    _set_clock(tmp_path / "flax_vae/runs/2", 120)
    row, earlier = published.collect(tmp_path, before)
    assert row["obtained"] == "23.20 ± 0.06 nats (3 seeds)"
    assert row["data"] == "mnist, static"
    assert row["commit"] == "abc"
    assert row["minutes"] == "3.0"
    assert (row["precision"], row["machine"]) == ("float32", "cpu, 2 cores")
    assert row["K"] == "1; evaluated with 10"
    assert earlier == before[0]
    (tmp_path / "iwae").mkdir()
    assert published.collect(tmp_path, before) == [row, earlier]
    assert "holds no run" in capsys.readouterr().out
    assert published.collect(tmp_path, [earlier | {"published": "old", "script": "old.sh"}]) == [row, earlier]
    superseded = before[0] | {"result": f"{row['result']}, TRUNCATED"}
    assert published.collect(tmp_path, [superseded, *before]) == [row, earlier]


def test_a_ranking_lists_each_estimator_at_its_best_temperature(tmp_path, capsys):
    """One estimator was tried at two temperatures. The validation split decides between them."""
    at = lambda name, temperature, **others: Settings(
        estimator=f"{name}:temperature={temperature}", validation_size=10, **others
    )
    shifts = {("reinmax", 1.3): 0.0, ("st_gumbel_softmax", 1.3): 0.7, ("reinmax", 0.5): 9.0}
    points = [(*point, seed, shift + 0.1 * seed) for point, shift in shifts.items() for seed in range(3)]
    for i, (name, temperature, seed, shift) in enumerate(points):
        write_run(tmp_path / f"reinmax/runs/{i}", at(name, temperature, seed=seed), shift)
    assert published.collect(tmp_path, []) == []
    assert "has no run of gumbel_softmax; run the script again to finish it" in capsys.readouterr().out
    for seed in range(3):
        path = tmp_path / f"reinmax/runs/1{seed}"
        write_run(path, at("gumbel_softmax", 0.5, seed=seed, compute_dtype="bfloat16"), 2.0)
        _set_clock(path, 60.0 * (1 + seed))
    [row] = published.collect(tmp_path, [])
    assert row["obtained"] == (
        "reinmax:temperature=1.3 -24.20 ± 0.06, st_gumbel_softmax:temperature=1.3 -24.90 ± 0.06, "
        "gumbel_softmax -26.10 ± 0.00 nats (3 seeds)"
    )
    assert row["minutes"] == "6.0"  # 1 s for the nine runs above together, and the minutes of these three
    assert row["precision"] == "float32, bfloat16"
    write_run(tmp_path / "reinmax/runs/20", at("reinmax", 1.3, learning_rate=0.1), 0.0)
    assert published.collect(tmp_path, [row]) == [row]
    assert "runs that differ in learning_rate; move all but one aside" in capsys.readouterr().out


def test_a_row_shows_the_evaluation_with_the_most_samples_and_the_active_units_of_each_layer(tmp_path):
    run = Settings(dataset="mnist", latent_dim=(100, 50), objective="iwae", num_samples=5)
    write_run(tmp_path / "iwae_quick/runs/0", run)
    path = tmp_path / "iwae_quick/runs/0/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"active_units_by_layer": "21+5"}))
    [row] = published.collect(tmp_path, [])
    assert (row["obtained"], row["K"]) == ("22.12 nats, 21+5 units (1 seed)", "5; evaluated with 500")
    again = [{"epoch": epoch, "eval_samples": k, "test_nll_nats": nll} for epoch, k, nll in _LATER_EVALUATIONS]
    (tmp_path / "iwae_quick/runs/0/evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    [row] = published.collect(tmp_path, [])
    assert (row["obtained"], row["K"]) == ("21.50 nats, 21+5 units (1 seed)", "5; evaluated with 5000")
    shutil.copytree(tmp_path / "iwae_quick", tmp_path / "iwae_short")
    [longer] = published.collect(tmp_path, [])
    assert (longer["result"], longer["script"]) == (
        row["result"].replace(", TRUNCATED", " after 121 passes, TRUNCATED"),
        "reproduce_iwae.sh short",
    )


# The epoch, the samples and -log p(x) of later evaluations. The last one is not at the end of the run.
_LATER_EVALUATIONS = [(200, 5, 23.0), (200, 5000, 21.5), (200, 64, 22.5), (100, 10000, 21.0)]


def _set_clock(folder, seconds):
    """Sets the seconds of training at the last evaluation."""
    *rows, last = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    rows.append(last | {"train_seconds": seconds})
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("settings", "backend", "precision"),
    [
        ({}, "cpu", "float32"),
        ({"matmul_precision": "default"}, "gpu", "float32, default products"),
        ({"matmul_precision": "tensorfloat32"}, "gpu", "float32, tensorfloat32 products"),
        ({"matmul_precision": "float32"}, "gpu", "float32"),
        ({"compute_dtype": "bfloat16"}, "gpu", "bfloat16"),
    ],
)
def test_precision_and_machine_come_from_the_config(settings, backend, precision):
    config = {"settings": settings, "platform": f"{backend}, x86_64, 2 cores", "device": "8 x some kind"}
    made = readers.provenance_columns(config, 90.0)
    assert (made["precision"], made["machine"], made["minutes"]) == (precision, "8 x some kind, 2 cores", "1.5")


def test_measurements_of_the_laboratory_give_rows(tmp_path):
    head = {
        "settings": {"draws": 100, "confidence": 0.95},
        "platform": "cpu, x86_64, 2 cores",
        "device": "1 x cpu",
        "git_commit": "0123456789+",
        "seconds": 90.0,
    }
    _write_laboratory(
        tmp_path / "costs/quadratic",
        head,
        [
            {
                "problem": "quadratic",
                "cost_parameter": k,
                "estimator": name,
                "num_samples": 1,
                "phi_variance": 10 * k**2,
            }
            | {"phi_variance_low": 9 * k**2, "phi_variance_high": 11 * k**2, "phi_verdict": "best"}
            for k in (-3.0, 1.0)
            for name in ("reparam", "reinforce", "measure_valued")
        ],
    )
    pair = {"group": "phi", "figure": "variance", "first": "reparam", "second": "measure_valued"}
    ratios = {1.0: (9.0, 8.0, 10.0), -3.0: (2.0, 1.6, 2.5)}
    pairs = [
        {"cost_parameter": k} | pair | dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True))
        for k, ratio in ratios.items()
    ]
    (tmp_path / "costs/quadratic/pairs.csv").write_text(tables.to_csv(pairs))
    _write_laboratory(
        tmp_path / "snr",
        head,
        [
            {"problem": "rainforth", "estimator": name, "num_samples": k, "phi_snr": k**power, "theta_snr": k**0.5}
            | {
                f"{group}_snr_{end}": k**p * math.exp(sign * 0.196)
                for group, p in (("phi", power), ("theta", 0.5))
                for end, sign in (("low", -1), ("high", 1))
            }
            | {"phi_verdict": "best"}
            for k in (1, 4, 16)
            for name, power in (("reparam", -0.5), ("dreg", 0.4))
        ],
    )
    far = {"problem": "mnist", "estimator": "reinmax", "num_samples": 32, "encoder_verdict": "biased"}
    far |= {"encoder_relative_bias": 0.8933, "encoder_relative_stderr": 0.0383}
    _write_laboratory(tmp_path / "reinmax/gradients_1.3", head, [far])
    rows = published.collect(tmp_path, [])
    assert [row["obtained"] for row in rows] == [
        *(f"{slope} ± {0.1 / math.log(4) / math.sqrt(2):.3f}" for slope in ("0.500", "-0.500", "0.400")),
        *["90.00 [81.00, 99.00]"] * 2,
        "0.500 [0.400, 0.625] of reparam's",
        "0.89 (up to 0.04 by chance)",
    ]
    assert [row["K"] for row in rows] == ["1 to 16"] * 3 + ["1"] * 3 + ["32"]
    assert {row["minutes"] for row in rows} == {"1.5"}
    assert {row["commit"] for row in rows} == {"0123456+"}
    assert {row["machine"] for row in rows} == {"cpu, 2 cores"}


def test_toy_problems_give_rows(tmp_path):
    head = {"settings": {"toy": "bernoulli", "steps": 500, "seeds": 2, "num_samples": 2}, "platform": "cpu, 2 cores"}
    head["device"] = "1 x cpu"
    folder = tmp_path / "toys_quick/bernoulli"
    found = [
        {"point": f"target {target}", "estimator": name, "family": "x", "final_loss": loss}
        | {"final_loss_stderr": 1e-3, "first_variance": 1}
        for target in (0.45, 0.499)
        for name, loss in (("reinforce", 0.25), ("arm", 0.2), ("relax", 0.24), ("rebar", 0.26))
    ]
    _write_laboratory(folder, head | {"git_commit": "0123456789", "seconds": 90.0}, found)
    (folder / "curves.csv").write_text("point,estimator,seed,step,loss,variance\nx,arm,0,0,1.0,1.0\n")
    rows = published.collect(tmp_path, [])
    assert [row["obtained"] for row in rows] == [
        "relax 0.2400 ± 0.0010, reinforce 0.2500 ± 0.0010, rebar 0.2600 ± 0.0010 (2 seeds)"
    ] * 2
    assert rows[0]["data"] == "bernoulli toy, 500 steps"
    assert rows[0]["script"] == "reproduce_toys.sh --quick"
    found = [
        {"point": "three_bits", "estimator": name, "family": "x", "final_loss": 0.2, "final_loss_stderr": 1e-3}
        | {"first_variance": variance, "first_variance_stderr": 2e-5}
        for name, variance in (("reinforce", 0.455), ("leave_one_out", 0.00722), ("unordered_set", 0.00596))
    ]
    head["settings"] |= {"toy": "categorical", "num_samples": 1}
    _write_laboratory(tmp_path / "toys_quick/categorical", head | {"git_commit": "0123456789", "seconds": 9.0}, found)
    shutil.copy(folder / "curves.csv", tmp_path / "toys_quick/categorical")
    *_, row = published.collect(tmp_path, [])
    assert row["obtained"] == (
        "unordered_set 0.005960 ± 0.000020, leave_one_out 0.007220 ± 0.000020, reinforce 0.455000 ± 0.000020 (2 seeds)"
    )
    assert (row["K"], row["data"]) == ("1, 2", "categorical toy")
    path = tmp_path / "toys_quick/categorical/results.csv"
    path.write_text(path.read_text().replace("leave_one_out,x,0.2,0.001,0.00722", "leave_one_out,x,0.2,0.001,"))
    *_, row = published.collect(tmp_path, [])
    assert row["obtained"].endswith("reinforce 0.455000 ± 0.000020, leave_one_out - (2 seeds)")


def _write_laboratory(folder, config, rows):
    """Writes a result of the laboratory, with ones in the columns that no claim reads."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"command": "python", "versions": {}}))
    groups = [name.removesuffix("_verdict") for name in rows[0] if name.endswith("_verdict")]
    others = {"declared_biased": False, "truth": "exact", "flops": 1, "seconds": 1} if groups else {}
    others |= {f"{group}_{figure}": 1 for group in groups for figure in checks.LABORATORY}
    (folder / "results.csv").write_text(tables.to_csv([row | others | row for row in rows]))


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("reproduce_*.sh")), ids=lambda path: path.name)
def test_the_header_of_a_script_says_what_it_makes_how_long_it_takes_and_what_to_expect(script):
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    head = text.split("set -euo pipefail")[0]
    for word in ("Expected", "--quick", "TRUNCATED", "results/", f"bash scripts/{script.name}"):
        assert word in head, word
    assert any(word in head for word in ("minute", "hour", "day"))
    assert 'echo "TRUNCATED' in text
