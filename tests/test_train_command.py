"""`python -m experiments.train` as a user meets it: files, sweeps, resumption, refusals."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests import entry_points

# One worker for all, so that the runs are made once.
pytestmark = pytest.mark.xdist_group("train_command")
SMALL = ["--epochs=2", "--hidden=16", "--latent_dim=2", "--eval_samples=4", "--eval_every=1"]


def train(folder: Path, *cases: list[str]) -> list[entry_points.Outcome]:
    plain = lambda case: [] if "--figures" in case else ["--nofigures"]
    return entry_points.run("experiments.train", [[*SMALL, *plain(case), *case] for case in cases], folder)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A single run, a run of a sweep alone, the sweep, the sweep again and larger, and the single run again."""
    folder = tmp_path_factory.mktemp("runs")
    sweep = ["--seed=0,1", "--learning_rate=1e-3,1e-2", f"--workdir={folder}/sweep"]
    outcomes = train(
        folder / "outcomes",
        [f"--workdir={folder}/single", "--tensorboard", "--figures"],
        ["--seed=1", "--learning_rate=1e-2", f"--workdir={folder}/alone"],
        sweep,
        ["--seed=0,1,2", *sweep[1:]],
        [f"--workdir={folder}/single"],
        [f"--workdir={folder}/map", "--sweep_mode=map", "--seed=0,1"],
        [f"--workdir={folder}/long", "--epochs=4"],
    )
    return folder, outcomes


def test_all_end_well_and_show_the_figures(runs):
    folder, outcomes = runs
    assert [outcome.code for outcome in outcomes] == [0] * len(outcomes), [outcome.err for outcome in outcomes]
    assert "-log p(x) (K=4)" in outcomes[0].out
    assert "active units" in outcomes[0].out
    for picture in ("learning_curves", "reconstructions", "prior_samples", "latent_plane", "interpolations"):
        assert str(folder / "single/figures" / f"{picture}.png") in outcomes[0].out
        assert (folder / "single/figures" / f"{picture}.pdf").stat().st_size > 1000
    assert all("\r" not in outcome.out + outcome.err for outcome in outcomes), "no progress bar without a terminal"


def test_config_says_what_was_run(runs):
    config = json.loads((runs[0] / "single/config.json").read_text())
    assert config["settings"]["hidden"] == "16"
    assert config["settings"]["binarization"] == "dynamic"
    assert config["data"]["images"] == {"train": 1500, "validation": 0, "test": 297}
    assert len(config["data"]["checksum"]) == 64
    assert {"python", "jax", "flax", "optax"} <= set(config["versions"])
    assert config["settings"]["matmul_precision"] == "default"


def test_metrics_hold_a_row_an_evaluation_and_wall_clock_stands_apart(runs):
    metrics, timing = rows(runs[0] / "single/metrics.jsonl"), rows(runs[0] / "single/timing.jsonl")
    assert [row["step"] for row in metrics] == [23, 46]
    assert [row["examples"] for row in metrics] == [23 * 64, 46 * 64]
    for row in metrics:
        assert row["split"] == "test"
        assert row["elbo_nats"] == pytest.approx(-(row["rate_nats"] + row["distortion_nats"]), abs=1e-4)
    assert not any("second" in name for name in metrics[0])
    assert timing[1]["train_seconds"] > timing[0]["train_seconds"] > 0
    assert list((runs[0] / "single/tensorboard").iterdir())


def test_a_run_of_a_sweep_is_the_run_alone(runs):
    folder, _ = runs
    [member] = (folder / "sweep/runs").glob("*learning_rate=0.01_seed=1_*")
    for ours, theirs in zip(rows(member / "metrics.jsonl"), rows(folder / "alone/metrics.jsonl"), strict=True):
        for name, value in theirs.items():
            expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert ours[name] == expected
    [mapped] = (folder / "map/runs").glob("seed=0_*")
    assert (mapped / "metrics.jsonl").read_bytes() == (folder / "single/metrics.jsonl").read_bytes()


def test_a_sweep_started_again_trains_only_what_is_new(runs):
    folder, outcomes = runs
    with open(folder / "sweep/results.csv") as file:
        table = list(csv.DictReader(file))
    assert sorted((r["seed"], r["learning_rate"]) for r in table) == sorted(
        (seed, rate) for seed in "012" for rate in ("0.001", "0.01")
    )
    assert "±" in outcomes[3].out
    assert "6 runs" in outcomes[3].out
    for row in table:
        assert row["status"] == "done"
        assert float(row["test_nll_nats"]) <= -float(row["test_elbo_nats"]) + 0.5
    means = {}
    for row in table:
        means.setdefault(row["learning_rate"], []).append(float(row["test_nll_nats"]))
    for values in means.values():
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert f"{np.mean(values):.2f} ± {error:.2f}" in outcomes[3].out
    assert (folder / "sweep/figures/compare_runs.png").exists()


def test_a_finished_run_is_not_trained_again(runs):
    folder, outcomes = runs
    assert len(rows(folder / "single/metrics.jsonl")) == 2
    assert "-log p(x)" in outcomes[4].out


def test_a_run_cut_off_goes_on_to_the_same_bytes(runs, tmp_path):
    """What a kill leaves behind: checkpoints, rows beyond them, half a line; no result."""
    folder, _ = runs
    cut = tmp_path / "cut"
    shutil.copytree(folder / "long", cut)
    (cut / "result.json").unlink()
    shutil.rmtree(cut / "checkpoints/4")
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 5, "st')
    [outcome] = train(tmp_path / "outcomes", [f"--workdir={cut}", "--epochs=4"])
    assert outcome.code == 0, outcome.err
    for name in ("metrics.jsonl", "result.json"):
        assert (cut / name).read_bytes() == (folder / "long" / name).read_bytes()


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Every refusal, with what its sentence must hold."""
    folder = tmp_path_factory.mktemp("bad")
    digits = load_digits().images.astype(np.float32) / 16
    spoiled = digits.copy()
    spoiled[3, 2, 1] = np.nan
    np.savez(folder / "nan.npz", images=spoiled)
    np.savez(folder / "large.npz", images=digits * 3)
    np.savez(folder / "flat.npz", images=np.zeros(10, np.uint8))
    np.savez(folder / "ints.npz", images=np.zeros((10, 4, 4), np.int64))
    np.savez(folder / "objects.npz", images=np.array([[None, 1]], dtype=object))
    (folder / "text.npz").write_text("no archive")
    (folder / "file").write_text("")
    (folder / "other").mkdir()
    config = {"settings": {"dataset": "digits"}, "data": {"checksum": ""}}
    (folder / "other/config.json").write_text(json.dumps(config))
    cases = {
        "--dataset=digitz": ("--dataset", "digits"),
        "--dataset=mnist": ("--data_dir", "prepare"),
        f"--dataset=mnist --data_dir={folder}": ("mnist", "prepare_data.sh"),
        "--dataset=npz:/nowhere/x.npz": ("/nowhere/x.npz",),
        f"--dataset=npz:{folder}/nan.npz": ("NaN",),
        f"--dataset=npz:{folder}/large.npz": ("0 to 1",),
        f"--dataset=npz:{folder}/flat.npz": ("flat.npz",),
        f"--dataset=npz:{folder}/ints.npz": ("int64",),
        f"--dataset=npz:{folder}/objects.npz": ("objects.npz",),
        f"--dataset=npz:{folder}/text.npz": ("text.npz",),
        "--batch_size=2000": ("--batch_size", "1500"),
        "--batch_size=0": ("batch_size", "0"),
        "--latent_dim=-1": ("latent_dim",),
        "--latent_dim=two": ("latent_dim", "integer"),
        "--latent_dim=": ("latent_dim", "empty"),
        "--seed=0,,1": ("seed", "empty"),
        "--learning_rate=0": ("learning_rate", "above 0"),
        "--learning_rate=nan": ("learning_rate", "finite"),
        "--learning_rate=fast": ("learning_rate", "number"),
        "--beta=-1": ("beta", "below 0"),
        "--num_samples=0": ("num_samples", "below 1"),
        "--epochs=1.5": ("epochs", "integer"),
        "--validation_size=1500": ("--validation_size",),
        "--estimator=reinfroce": ("estimator", "reinforce"),
        "--estimator=dreg": ("--estimator=dreg", "reparam"),
        "--objective=iwae --estimator=stl": ("--estimator=stl", "dreg"),
        "--estimator=leave_one_out": ("--num_samples",),
        "--estimator=reparam_antithetic --num_samples=3": ("even",),
        "--posterior=bernoulli": ("--estimator=reparam", "leave_one_out"),
        "--posterior=student_t": ("StudentT", "elbo"),
        "--objective=elbo --beta=2": ("--beta", "elbo_analytic"),
        "--posterior=full_covariance --free_bits=1": ("free bits",),
        "--binarization=none": ("--likelihood=bernoulli", "--binarization"),
        "--likelihood=discretized_logistic": ("--binarization=none",),
        f"--workdir={folder}/file": (str(folder / "file"),),
        f"--workdir={folder}/file/below": (str(folder / "file"),),
        f"--workdir={folder}/other": ("other settings",),
        "--no_such_flag=1": ("no_such_flag",),
        "epochs=3": ("epochs=3",),
    }
    argvs = [[f"--workdir={folder}/fresh/{i}", *case.split()] for i, case in enumerate(cases)]
    return folder, cases, train(folder / "outcomes", *argvs)


def test_bad_input_is_one_sentence_and_no_work(bad):
    folder, cases, outcomes = bad
    for (case, words), (code, out, err) in zip(cases.items(), outcomes, strict=True):
        assert code != 0, case
        assert "Traceback" not in out + err, (case, err)
        assert all(word in err for word in words), (case, err)
        if not case.startswith("epochs"):  # absl prints the usage below its own sentence
            assert len(err.strip().splitlines()) == 1, (case, err)
    assert not list(folder.glob("fresh/*/metrics.jsonl"))


def test_a_run_that_diverges_stops_and_the_others_go_on(tmp_path):
    [alone, swept] = train(
        tmp_path / "outcomes",
        [f"--workdir={tmp_path}/alone", "--learning_rate=1e30"],
        [f"--workdir={tmp_path}/swept", "--learning_rate=1e30,1e-3"],
    )
    for outcome in (alone, swept):
        assert outcome.code == 1
        assert "not finite at step" in outcome.err
        assert "--clip_norm" in outcome.err
        assert "Traceback" not in outcome.err
    result = json.loads((tmp_path / "alone/result.json").read_text())
    assert result["status"] == "diverged"
    assert result["step"] >= 1
    statuses = {json.loads(p.read_text())["status"] for p in tmp_path.glob("swept/runs/*/result.json")}
    assert statuses == {"done", "diverged"}
    assert "diverged" in swept.out


def test_a_disk_too_small_is_one_sentence_before_any_training(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        [outcome] = train(tmp_path / "outcomes", [f"--workdir={disk}/run", "--hidden=128"])
        left = [path.name for path in disk.rglob("*.jsonl")]
    finally:
        subprocess.run(["umount", disk], check=True)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: --workdir={disk}/run")
    assert len(outcome.err.splitlines()) == 1
    assert not left


def test_evaluate_again_with_more_samples(runs, tmp_path):
    folder, _ = runs
    [good, sweep, none] = entry_points.run(
        "experiments.evaluate",
        [
            [f"--workdir={folder}/single", "--eval_samples=64"],
            [f"--workdir={folder}/sweep", "--eval_samples=4"],
            [f"--workdir={tmp_path}"],
        ],
        tmp_path / "outcomes",
    )
    assert good.code == 0, good.err
    [row] = rows(folder / "single/evaluations.jsonl")
    trained = json.loads((folder / "single/result.json").read_text())
    assert row["eval_samples"] == 64
    assert row["test_nll_nats"] < trained["test_nll_nats"]
    assert row["test_elbo_nats"] == pytest.approx(trained["test_elbo_nats"], rel=1e-6)
    assert sweep.code == 0, sweep.err
    assert "6 runs" in sweep.out
    assert none.code == 1
    assert "config.json" in none.err
