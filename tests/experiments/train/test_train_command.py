"""`python -m experiments.train` as a user meets it: files, sweeps, resumption. Bad input is in test_bad_input.py."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.common import provenance, workdirs
from experiments.common.program_folder import ProgramFolder, programs_of
from tests.helpers import entry_points, hooks
from tests.helpers.entry_points import train
from tests.helpers.written_workdirs import forget_results
from tests.helpers.wrong_files import unknown_names
from vae import checkpoint

SECONDS = re.compile(r" \(after \d+ s\)$", re.MULTILINE)
LONG = ["--epochs=5", "--validation_size=200", "--eval_every=2", "--checkpoint_every=1", "--learning_rate=0.5"]
LONG += ["--ema=0.9"]
MEASURED = ["--on_evaluation=tests.helpers.hooks:append", "--measure_gradient=1", "--measure_draws=20"]


def program_of(workdir: Path) -> ProgramFolder:
    """The only program of the workdir."""
    [program] = programs_of(workdir)
    return program


def leaves(program: ProgramFolder, epoch: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by default the newest, by its name."""
    import orbax.checkpoint as ocp

    path = program.checkpoints / str(epoch or checkpoint.steps(program.checkpoints)[-1]) / "state"
    return ocp.StandardCheckpointer().restore(path.absolute())


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A single run, a run of a sweep alone, the sweep, the sweep again and larger, and the single run again."""
    folder = tmp_path_factory.mktemp("runs")
    sweep = ["--seed=0,1", "--learning_rate=1e-3,1e-2", f"--workdir={folder}/sweep"]
    outcomes = train(
        folder / "outcomes",
        [f"--workdir={folder}/single", "--tensorboard", "--figures=sweep"],
        ["--seed=1", "--learning_rate=1e-2", f"--workdir={folder}/alone", "--on_evaluation=tests.helpers.hooks:fail"],
        sweep,
        ["--seed=0,1,2", *sweep[1:], "--figures=sweep"],
        [f"--workdir={folder}/single", "--tensorboard", "--profile_steps=1:2"],
        [f"--workdir={folder}/map", "--sweep_mode=map", "--seed=0,1", *MEASURED],
        [f"--workdir={folder}/long", *LONG, "--profile_steps=30:60"],
    )
    return folder, outcomes


def test_all_end_well_and_show_the_figures(runs):
    folder, outcomes = runs
    assert [outcome.code for outcome in outcomes] == [0] * len(outcomes), [outcome.err for outcome in outcomes]
    assert "-log p(x) (K=4)" in outcomes[0].out
    assert "active units" in outcomes[0].out
    for picture in ("learning_curves", "reconstructions", "prior_samples", "latent_plane", "interpolations"):
        assert str(folder / "single/figures" / f"{picture}.png") in outcomes[0].out
    for picture in ("learning_curves", "latent_plane"):
        assert (folder / "single/figures" / f"{picture}.pdf").stat().st_size > 1000
    assert all("\r" not in outcome.out + outcome.err for outcome in outcomes), "no progress bar without a terminal"


def test_every_file_is_one_that_may_be_a_link_or_one_that_may_not(runs):
    folder, _ = runs
    made = [folder / name for name in ("single", "alone", "sweep", "map", "long")]
    assert unknown_names(*made, *folder.glob("*/programs/*")) == {"hook.jsonl"}  # made by tests.helpers.hooks


def lines(text: str) -> list[str]:
    """The lines that say what a command is doing, without their seconds."""
    return [SECONDS.sub("", line) for line in text.splitlines() if SECONDS.search(line)]


def test_every_phase_has_a_line(runs):
    _, outcomes = runs
    assert lines(outcomes[0].out) == ["compiling", "training, epochs 1 to 2", "evaluating, K=4", "drawing"]
    assert lines(outcomes[4].out) == []  # finished before, and --figures=none
    assert "figures/" in outcomes[0].out
    assert "figures/" not in outcomes[4].out  # it drew nothing
    too_late = "runs were finished without --profile_steps, and stay as they are; choose another --workdir"
    assert too_late in outcomes[4].out
    assert "finished without" not in outcomes[0].out


def test_config_says_what_was_run(runs):
    config = json.loads((runs[0] / "single/config.json").read_text())
    assert config["settings"]["hidden"] == "16"
    assert config["settings"]["binarization"] == "dynamic"
    assert config["data"]["images"] == {"train": 1500, "validation": 0, "test": 297}
    assert len(config["data"]["checksum"]) == 64
    assert {"python", "jax", "flax", "optax"} <= set(config["versions"])
    assert config["settings"]["matmul_precision"] == "default"
    assert "--xla_force_host_platform_device_count" in config["xla_flags"]
    assert f"--workdir={runs[0]}/single" in config["command"]


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


def test_the_users_function_gets_every_evaluation_and_result_with_the_state_of_its_run(runs):
    program = program_of(runs[0] / "map")
    lines = rows(program.path / "hook.jsonl")
    own = [line["row"] for line in lines]
    evaluations = [{name: row[name] for name in rows(program.path / "metrics.jsonl")[0]} for row in own[:4]]
    assert evaluations == rows(program.path / "metrics.jsonl")
    assert [(row["run"], row["seed"], row["status"]) for row in own[4:]] == [(0, 0, "done"), (1, 1, "done")]
    assert [row["test_nll_nats"] for row in own[4:]] == [row["test_nll_nats"] for row in program.results()]
    assert [line["step"] for line in lines] == [row["step"] for row in own] == [23, 23, 46, 46, 46, 46]
    assert [row["epoch"] for row in own] == [1, 1, 2, 2, 2, 2]
    first, last = [row["train_seconds"] for row in rows(program.path / "timing.jsonl")]
    assert [row["train_seconds"] for row in own] == [first, first, last, last, last, last]
    widths = [(64, 16), (16, 4), (2, 16), (16, 64)]  # the networks of one run
    assert lines[0]["parameters"] == sum(inputs * outputs + outputs for inputs, outputs in widths)


def test_a_run_outlives_the_users_function(runs):
    """The sentence comes once for the two evaluations and the result."""
    failed = r"--on_evaluation=tests.helpers.hooks:fail failed at step 23 \(RuntimeError: no connection, in line \d+ of"
    sentence = rf"{failed} {hooks.__file__}\); it is not called again, and the training goes on\n"
    assert re.fullmatch(sentence, runs[1][1].err)


def test_a_run_of_a_sweep_is_the_run_alone(runs):
    folder, _ = runs
    programs = programs_of(folder / "sweep")
    settings = {"seed": "1", "learning_rate": "0.01"}
    [ours] = [
        program.rows_by_run()[i]
        for program in programs
        for i, run in enumerate(program.runs())
        if settings.items() <= {name: str(value) for name, value in run.json().items()}.items()
    ]
    theirs = rows(folder / "alone/metrics.jsonl")
    for our, their in zip(ours, theirs, strict=True):
        for name in set(their) - {"run"}:
            assert our[name] == (
                pytest.approx(their[name], rel=1e-4) if isinstance(their[name], float) else their[name]
            )


def test_runs_one_after_the_other_are_trained_to_the_bits_of_the_run_alone(runs):
    """Their evaluations, which are made side by side, agree to rounding. Only they have measured gradients."""
    folder, _ = runs
    ours, theirs = program_of(folder / "map").rows_by_run()[0], rows(folder / "single/metrics.jsonl")
    assert [row["bound_nats"] for row in ours] == [row["bound_nats"] for row in theirs]
    mapped, single = (leaves(program_of(folder / name)) for name in ("map", "single"))
    assert mapped.keys() == single.keys()
    for name, leaf in single.items():
        np.testing.assert_array_equal(mapped[name][0], leaf[0])
    for our, their in zip(ours, theirs, strict=True):
        assert our["elbo_nats"] == pytest.approx(their["elbo_nats"], rel=1e-5)


def test_every_evaluation_has_the_figures_of_the_gradient_if_it_is_measured(runs):
    measured = rows(program_of(runs[0] / "map").path / "metrics.jsonl")
    assert not any(name.startswith("gradient") for name in rows(runs[0] / "single/metrics.jsonl")[0])
    for row in measured:
        for group in ("encoder", "decoder"):
            bias, stderr, variance, snr = (
                row[f"gradient/reparam/{group}/{name}"] for name in ("bias", "bias_stderr", "variance", "snr")
            )
            assert 0 < stderr < 1
            assert abs(bias) < 5 * stderr
            assert variance > 0
            assert snr > 0
    assert len({row["gradient/reparam/encoder/variance"] for row in measured}) == 4  # each run at each step its own


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
    assert sorted(len(program.runs()) for program in programs_of(folder / "sweep")) == [2, 4]


def test_a_finished_run_is_not_trained_again(runs):
    folder, outcomes = runs
    assert len(rows(folder / "single/metrics.jsonl")) == 2
    assert "-log p(x)" in outcomes[4].out


@pytest.fixture(scope="module")
def cut(runs, tmp_path_factory):
    """A run as a kill leaves it: without a result, with rows after the last checkpoint, and with half a line at the end
    of each file of rows."""
    folder, _ = runs
    copy = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(folder / "long", copy)
    forget_results(copy)
    (copy / ".runs.json.4711").write_text('{"settings": {"da')  # a write that was cut off
    shutil.rmtree(copy / "checkpoints/5")
    for name in ("metrics.jsonl", "timing.jsonl", "evaluations.jsonl"):
        with open(copy / name, "a") as file:
            file.write('{"epoch": 6, "st')
    return copy


def test_half_a_line_is_no_row_for_any_reader(runs, cut, tmp_path):
    folder, _ = runs
    copy = shutil.copytree(cut, tmp_path / "copy")
    again = [f"--workdir={copy}", "--eval_samples=1", "--checkpoint=4", "--again"]
    [evaluated] = entry_points.run("experiments.evaluate", [again], tmp_path / "a")
    [report] = entry_points.run("experiments.report", [[f"--workdir={copy}"]], tmp_path / "b")
    for outcome in (evaluated, report):
        assert (outcome.code, outcome.err) == (0, "")
    [*_, row] = rows(copy / "evaluations.jsonl")  # the half line is gone, and the new row follows the whole lines
    assert row["epoch"] == 4
    for name in ("metrics.jsonl", "timing.jsonl"):
        assert (copy / name).read_bytes() == (folder / "long" / name).read_bytes() + b'{"epoch": 6, "st'
        assert len(ProgramFolder(copy).rows(name)) == {"metrics.jsonl": 3, "timing.jsonl": 5}[name]
    assert len(workdirs.read([copy]).runs[0].seconds) == 3


def test_the_clock_is_told_with_every_checkpoint(runs):
    """Otherwise a run that is stopped between two evaluations would lose the seconds since the first of them."""
    timing = rows(runs[0] / "long/timing.jsonl")
    assert [row["epoch"] for row in timing] == [1, 2, 3, 4, 5]
    seconds = [row["train_seconds"] for row in timing]
    assert seconds == sorted(set(seconds))


def test_other_code_is_told_and_written_down(runs, cut, tmp_path):
    """A run is found by its settings. If the code has changed since, the command says so, for finished runs and for
    runs that it continues."""
    done, begun = tmp_path / "done", tmp_path / "begun"
    shutil.copytree(runs[0] / "single", done)
    shutil.copytree(cut, begun)
    for path in (done, begun):
        record = json.loads((path / "runs.json").read_text())
        assert record["code"] == provenance.code_digest()
        (path / "runs.json").write_text(json.dumps(record | {"code": "0" * 16, "git_commit": "0" * 40}))
    finished, goes_on, again = train(
        tmp_path / "outcomes", [f"--workdir={done}"], [f"--workdir={begun}", *LONG], [f"--workdir={begun}", *LONG]
    )
    assert "1 of 1 runs were trained by code that has changed since" in finished.out
    assert (
        "1 of 1 runs were begun by code that has changed since (the project); the present code continues" in goes_on.out
    )
    assert "other code" not in again.out
    record = ProgramFolder(begun).record()
    assert record["git_commit"] == "0" * 40
    assert [one["code"] for one in record["continued"]] == [provenance.code_digest()]
    assert (begun / "metrics.jsonl").read_bytes() == (runs[0] / "long/metrics.jsonl").read_bytes()


def test_a_run_cut_off_goes_on_to_the_same_bytes(runs, cut, tmp_path):
    folder, _ = runs
    [outcome] = train(tmp_path / "outcomes", [f"--workdir={cut}", *LONG])
    assert outcome.code == 0, outcome.err
    for name in ("metrics.jsonl", "runs.json"):
        assert (cut / name).read_bytes() == (folder / "long" / name).read_bytes()
    of_timing = lambda path: [(row["epoch"], row["step"]) for row in rows(path / "timing.jsonl")]
    assert of_timing(cut) == of_timing(folder / "long")


def test_the_average_of_the_parameters_is_evaluated_beside_them(runs):
    program = ProgramFolder(runs[0] / "long")
    for row in rows(program.path / "metrics.jsonl"):
        assert 0 < abs(row["ema_elbo_nats"] - row["elbo_nats"]) < 50
    [result] = program.results()
    assert result["ema_test_nll_nats"] != result["test_nll_nats"]
    assert "| -log p(x), EMA" in (program.path / "results.md").read_text()
    assert "ema_elbo_nats" not in rows(runs[0] / "single/metrics.jsonl")[0]


def test_the_newest_checkpoints_stay_and_the_best_states_by_the_validation_bound(runs, tmp_path):
    folder = runs[0] / "long"
    bounds = {row["epoch"]: row["elbo_nats"] for row in rows(folder / "metrics.jsonl")}
    best = max(bounds, key=bounds.get)
    assert list(bounds) == [2, 4, 5]
    assert best == 4
    assert checkpoint.steps(folder / "checkpoints") == [4, 5]
    newest, before = (leaves(ProgramFolder(folder), epoch) for epoch in (5, 4))
    for name in [name for name in before if name.startswith("state.params.")]:
        np.testing.assert_array_equal(newest[f"best.{name}"], before[name])
    workdir = f"--workdir={folder}"
    outcomes = entry_points.run(
        "experiments.evaluate",
        [[workdir, "--eval_samples=1", f"--checkpoint={name}"] for name in ("best", "latest", "4")],
        tmp_path,
    )
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert [row["epoch"] for row in rows(folder / "evaluations.jsonl")] == list(dict.fromkeys([best, 5, 4]))


def test_a_finished_program_keeps_its_last_state_without_the_optimizer_unless_it_is_asked_for_more(runs):
    """So the folder of a sweep stays small: the optimizer of Adam has twice as many numbers as the model."""
    single, long = (ProgramFolder(runs[0] / name) for name in ("single", "long"))
    assert checkpoint.steps(single.checkpoints) == [2]
    for program in (single, long):
        assert not any("opt_state" in name for name in leaves(program))
    assert any("opt_state" in name for name in leaves(long, 4))


def test_evaluate_again_with_more_samples(runs, tmp_path):
    folder, _ = runs
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "sweep", mixed)
    small, large = sorted(
        (program.path for program in programs_of(mixed)), key=lambda path: len(rows(path / "metrics.jsonl"))
    )
    record = json.loads((large / "runs.json").read_text())
    unfinished, diverged, *_ = record["runs"]
    del unfinished["result"]
    diverged["result"] = {"status": "diverged", "step": 31}
    (large / "runs.json").write_text(json.dumps(record))
    shutil.rmtree(small / "checkpoints")
    [good, repeated, anew, sweep, some_seeds, none, some, first, never] = entry_points.run(
        "experiments.evaluate",
        [
            *([f"--workdir={folder}/single", "--eval_samples=64", *again] for again in ([], [], ["--again"])),
            [f"--workdir={folder}/sweep", "--eval_samples=4"],
            [f"--workdir={folder}/sweep", "--eval_samples=4", "--run=seed=1,learning_rate=0.01"],
            [f"--workdir={tmp_path}"],
            [f"--workdir={mixed}", "--eval_samples=1"],
            [f"--workdir={mixed}", "--eval_samples=1", "--checkpoint=2"],
            [f"--workdir={mixed}", "--eval_samples=1", "--checkpoint=7"],
        ],
        tmp_path / "outcomes",
    )
    assert good.code == 0, good.err
    row, last = rows(folder / "single/evaluations.jsonl")
    assert row == last
    [begin], table = lines(good.out), good.out.partition("\n")[2]
    assert begin == f"evaluating program 1 of 1: {folder}/single, runs: 1"
    assert anew.out.endswith(f")\n{table}")
    assert "was evaluated before, with as many samples" in repeated.out
    assert repeated.out.endswith(f"; --again evaluates anew\n{table}")
    [trained] = ProgramFolder(folder / "single").results()
    assert row["eval_samples"] == 64
    assert row["test_nll_nats"] < trained["test_nll_nats"]
    assert row["test_elbo_nats"] == pytest.approx(trained["test_elbo_nats"], rel=1e-6)
    assert sweep.code == 0, sweep.err
    assert "6 runs" in sweep.out
    assert "was evaluated before" in some_seeds.out
    assert "1 run\n" in some_seeds.out
    assert none.code == 1
    assert "holds no run (no runs.json)" in none.err
    reasons = [(large, "is not finished"), (large, "diverged at step 31"), (small, "holds no checkpoint")]
    assert (some.code, some.err) == (0, "")
    said = [line for line in some.out.splitlines() if line.startswith("left out: ")]
    assert sorted(reason in line and str(path) in line for line in said for path, reason in reasons).count(True) == 3
    assert "2 runs" in some.out
    assert (first.code, first.err) == (0, "")  # a named epoch is the same in all runs
    assert first.out.count("left out: ") == 2
    assert "3 runs" in first.out
    assert (never.code, never.out.count("left out: ")) == (1, 2)
    assert never.err.startswith("error: none of the 6 runs can be evaluated: --checkpoint=7 is not in ")


def test_the_epochs_that_hold_the_steps_are_traced(runs):
    """Steps 30 to 60, where an epoch has 23 steps."""
    folder, outcomes = runs
    assert f"trace of epochs 2 to 3, for TensorBoard or ui.perfetto.dev: {folder}/long/profile" in outcomes[-1].out
    [trace] = (folder / "long/profile").glob("plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 1000


@pytest.mark.slow
def test_bfloat16_trains_to_the_bound_of_float32(tmp_path):
    settings = ["--compute_dtype=float32,bfloat16", "--epochs=60", "--hidden=128-64", "--latent_dim=8"]
    [outcome] = train(tmp_path / "outcomes", [f"--workdir={tmp_path}/runs", *settings, "--eval_samples=100"])
    assert outcome.code == 0, outcome.err
    results = [result for program in programs_of(tmp_path / "runs") for result in program.results()]
    bounds = {result["compute_dtype"]: result["test_elbo_nats"] for result in results}
    assert set(bounds) == {"float32", "bfloat16"}
    assert 0 < abs(bounds["float32"] - bounds["bfloat16"]) < 0.5
