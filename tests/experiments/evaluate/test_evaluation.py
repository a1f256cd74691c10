"""Runs of a program are evaluated again from its checkpoints: those that were chosen, each with its own parameters."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags

from experiments.common import assess, build, program_state, results, trained_run
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.evaluate import __main__ as evaluate_command
from experiments.evaluate import annealing, evaluation
from experiments.evaluate import flags as evaluate_flags
from tests.helpers import pages
from tests.helpers.report_pages import run_command
from tests.helpers.written_workdirs import Written, write_checkpoints, write_program, write_rows, write_workdir
from vae import ais, checkpoint, models
from vae import evaluate as vae_evaluate
from vae.evaluate import rate_distortion

# Four runs of one program: two are done, one diverged and one is not finished.
SEEDS = {0: "done", 1: "diverged", 2: "done", 3: None}
BEST_EPOCHS = (1, 1, 2, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep with a program of four runs and a program of one run, which has no checkpoint."""
    alike = {"hidden": (4,), "latent_dim": (2,), "epochs": 2, "validation_size": 100, "eval_samples": 2}
    runs = [Written(Settings(**alike, seed=seed), status=status) for seed, status in SEEDS.items()]
    runs.append(Written(Settings(**alike | {"latent_dim": (3,)}), status=None))
    folder = write_workdir(tmp_path_factory.mktemp("written") / "sweep", runs)
    write_checkpoints(ProgramFolder(folder / "programs/0"), (1, 2), BEST_EPOCHS)
    return folder


@pytest.fixture
def sweep(written, tmp_path):
    return shutil.copytree(written, tmp_path / "sweep")


def evaluate(sweep, *arguments) -> list[dict]:
    """The rows that the command appends for the first program, with two samples."""
    path = sweep / "programs/0/evaluations.jsonl"
    before = path.read_text().count("\n") if path.exists() else 0
    run_command(evaluate_command, f"--workdir={sweep}", "--eval_samples=2", *arguments)
    return [json.loads(line) for line in path.read_text().splitlines()][before:] if path.exists() else []


def figures(row: dict) -> dict:
    return {name: value for name, value in row.items() if name.startswith("test_")}


def test_the_runs_that_run_chooses_are_evaluated_with_their_own_parameters(sweep, capsys):
    [row] = evaluate(sweep, "--run=seed=2")
    assert (row["run"], row["epoch"], row["eval_samples"]) == (2, 2, 2)
    assert "1 run" in capsys.readouterr().out
    [other] = evaluate(sweep)  # does not repeat the run
    said = capsys.readouterr().out
    assert other["run"] == 0
    assert "programs/0 (run2_seed=2) was evaluated before, with as many samples" in said
    assert "--again evaluates anew" in said
    assert "2 runs" in said
    assert f"{row['test_nll_nats']:.2f}" not in said  # the table has means over seeds
    first, second = evaluate(sweep, "--again")
    assert (first["run"], second["run"]) == (0, 2)
    assert figures(first) == pytest.approx(figures(other), rel=1e-5)
    assert figures(second) == pytest.approx(figures(row), rel=1e-5)
    # Control: the runs have other parameters, and so other figures.
    assert abs(first["test_nll_nats"] - second["test_nll_nats"]) > 0.1


def test_a_figure_is_that_of_the_parameters_in_the_checkpoint(sweep):
    """The ELBO of one run, computed from its slice of the stacked state."""
    [row] = evaluate(sweep, "--run=seed=2", "--checkpoint=1")
    folder = ProgramFolder(sweep / "programs/0")
    run = folder.runs()[2]
    data = build.load_trained(run, None)
    functions = build.functions(run, data)
    shape = program_state.shape_of(functions, len(SEEDS), validation=True).without_optimizer()
    _, stacked = checkpoint.restore(folder.checkpoints, shape, at=[1])
    params = jax.tree.map(lambda leaf: leaf[2], stacked.state.params["model"])
    x = assess.pixels(data, "test")
    elbo = jax.jit(lambda params: rate_distortion(functions.evaluated.apply, params, x, assess.key(), 10)["elbo"])
    assert row["test_elbo_nats"] == pytest.approx(float(np.mean(elbo(params))), rel=1e-5)
    assert "codes_used" not in row  # the latent variables are real numbers


def test_the_page_of_the_commands_loads_a_run_in_python(sweep):
    """The run has the parameters that are evaluated, and the block of the page works on it."""
    [block] = pages.blocks((pages.ROOT / "experiments/README.md").read_text())
    names = {}
    exec(block.replace('"results/first"', f"{str(sweep)!r}, 'seed=2'"), names)
    run, x = names["run"], names["x"]
    assert (run.settings.seed, run.epoch, run.average) == (2, 2, None)
    assert names["reconstructions"].shape == x.shape == (10, 8, 8, 1)
    elbo = rate_distortion(run.model.apply, run.variables, run.images(), assess.key(), 10)["elbo"]
    [row] = evaluate(sweep, "--run=seed=2")
    assert row["test_elbo_nats"] == pytest.approx(float(np.mean(elbo)), rel=1e-5)
    np.testing.assert_array_equal(run.images(), assess.pixels(run.data, "test"))
    grey = assess.pixels(run.data, "train")
    drawn = run.images("train")
    assert set(np.unique(drawn)) == {0, 1} < set(np.unique(grey))
    assert np.abs(drawn.mean() - grey.mean()) < 0.01
    assert trained_run.load(sweep, "seed=0,latent_dim=2", "best").epoch == BEST_EPOCHS[0]


def test_a_run_that_cannot_be_loaded_is_refused(sweep):
    with pytest.raises(ValueError, match="holds 5 runs; choose one"):
        trained_run.load(sweep)
    with pytest.raises(ValueError, match="--checkpoint=3 is not in"):
        trained_run.load(sweep, "seed=2", "3")
    shutil.rmtree(sweep / "programs/0/checkpoints")
    with pytest.raises(ValueError, match="holds no checkpoint that can be read"):
        trained_run.load(sweep, "seed=2")


def test_a_run_is_loaded_and_evaluated_without_its_optimizer(sweep):
    path = sweep / "programs/0/runs.json"
    record = json.loads(path.read_text())
    record["settings"]["optimizer"] = "nowhere:lion:b1=0.5"
    path.write_text(json.dumps(record))
    chosen = "seed=2,optimizer=nowhere:lion:b1=0.5"
    assert trained_run.load(sweep, chosen).settings.optimizer == "nowhere:lion:b1=0.5"
    [row] = evaluate(sweep, f"--run={chosen}")
    assert row["run"] == 2


def test_best_is_the_best_state_of_each_run_at_its_own_epoch(sweep, capsys):
    rows = evaluate(sweep, "--checkpoint=best")
    assert [(row["run"], row["epoch"]) for row in rows] == [(0, 1), (2, 2)]
    assert "checkpoint best: epochs 1 to 2\n" in capsys.readouterr().out
    latest = evaluate(sweep)  # other parameters at the same epoch of run 2, which is read from the file
    assert [(row["run"], row["epoch"]) for row in latest] == [(0, 2)]


def test_runs_that_diverged_or_are_not_finished_are_left_out_and_named(sweep, capsys):
    write_rows(sweep / "programs/0/evaluations.jsonl", [evaluated(0), evaluated(2)])
    assert evaluate(sweep) == []
    left_out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert left_out == [
        f"left out: {sweep}/programs/0 (run1_seed=1) diverged at step 24",
        f"left out: {sweep}/programs/0 (run3_seed=3) is not finished; train it to its end, or name an epoch by"
        " --checkpoint",
        f"left out: {sweep}/programs/1 is not finished; train it to its end, or name an epoch by --checkpoint",
    ]


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("seed=1", "programs/0 (run1_seed=1) diverged at step 24"),
        ("seed=3", "programs/0 (run3_seed=3) is not finished; train it to its end"),
        ("latent_dim=3", "programs/1 is not finished; train it to its end"),
        ("latent_dim=4", "--run=latent_dim=4 matches none of the 5 runs"),
    ],
)
def test_a_single_run_that_is_left_out_is_an_error(run, sentence, sweep, capsys):
    with pytest.raises(SystemExit):
        evaluate(sweep, f"--run={run}")
    assert sentence in capsys.readouterr().err


def test_options_of_annealing_need_its_steps(sweep, capsys):
    with pytest.raises(SystemExit):
        evaluate(sweep, "--ais_chains=3")
    assert "--ais_chains needs --ais_steps" in capsys.readouterr().err


def test_a_command_that_leaves_out_every_run_is_an_error(sweep, capsys):
    record = json.loads((sweep / "programs/0/runs.json").read_text())
    record["runs"] = [run | {"result": {"status": "diverged", "step": 24}} for run in record["runs"]]
    (sweep / "programs/0/runs.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit):
        evaluate(sweep)
    reason = f"{sweep}/programs/0 (run0_seed=0) diverged at step 24"
    assert f"none of the 5 runs can be evaluated: {reason}\n" in capsys.readouterr().err


def test_an_unfinished_run_is_evaluated_at_an_epoch_that_is_named(sweep):
    [row] = evaluate(sweep, "--checkpoint=1", "--run=seed=3")
    assert (row["run"], row["epoch"]) == (3, 1)


def evaluated(run: int, epoch: int = 2) -> dict:
    """A row of evaluations.jsonl with two samples."""
    nats = {"test_nll_nats": 30.0 + run, "test_elbo_nats": -31.0, "test_rate_nats": 1.0, "test_distortion_nats": 30.0}
    return {"run": run, "epoch": epoch, "eval_samples": 2} | nats


def test_earlier_rows_are_those_of_the_same_run_epoch_and_number_of_samples(tmp_path):
    folder = write_program(tmp_path, [Written(Settings(seed=seed)) for seed in (0, 1, 2)])
    rows = [evaluated(0, epoch=1), evaluated(1), evaluated(2) | {"eval_samples": 3}]
    two = {"eval_samples": 2}
    last = evaluated(1) | {"test_nll_nats": 7.0, "versions": "jax 1"}
    write_rows(tmp_path / "evaluations.jsonl", [*rows, last])
    assert evaluation.earlier_rows(folder, [2, 2, 2], two) == {1: last}
    assert list(evaluation.earlier_rows(folder, [1, 2, 2], two)) == [0, 1]  # the best epochs of runs may differ
    assert list(evaluation.earlier_rows(folder, [2, 2, 2], {"eval_samples": 3})) == [2]


COMMIT = "0123456789" * 4
NOW = {"git_commit": COMMIT, "versions": "python 3.11, jax 0.10.2"}


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (NOW, ""),
        (NOW | {"git_commit": "abcdef0123" * 4}, ", by commit abcdef0"),
        (NOW | {"versions": "python 3.11, jax 0.9.1"}, ", by jax 0.9.1"),
        (
            {"git_commit": "abcdef0123" * 4, "versions": "python 3.10, jax 0.10.2"},
            ", by commit abcdef0 and python 3.10",
        ),
        ({}, ", by an unknown commit"),
    ],
)
def test_the_commit_and_the_versions_of_earlier_figures_are_named_if_they_differ(code, named, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_describe_code", lambda: NOW)
    folder = write_program(tmp_path, [Written(Settings())])
    sentence = evaluation.describe_known(folder, {0: evaluated(0) | code})
    assert sentence == f"{tmp_path} was evaluated before, with as many samples{named}; --again evaluates anew"


def test_a_commit_with_changes_is_always_named_and_once(tmp_path, monkeypatch):
    changed = NOW | {"git_commit": f"{COMMIT}+"}
    monkeypatch.setattr(evaluation, "_describe_code", lambda: changed)
    folder = write_program(tmp_path, [Written(Settings(seed=seed)) for seed in (0, 1)])
    sentence = evaluation.describe_known(folder, {i: evaluated(i) | changed for i in (0, 1)})
    assert "2 runs in" in sentence
    assert ", with as many samples, by commit 0123456+; --again" in sentence


def test_a_bug_during_the_evaluation_keeps_its_traceback(sweep, monkeypatch):
    def fail(*args):
        raise ValueError("a bug")

    monkeypatch.setattr(assess, "test_figures", fail)
    with pytest.raises(ValueError, match="a bug"):
        evaluate(sweep)


def test_earlier_bounds_are_those_of_the_same_annealing(tmp_path):
    folder = write_program(tmp_path, [Written(Settings(seed=seed)) for seed in (0, 1)])
    annealed = {"ais_steps": 7, "ais_chains": 2}
    rows = [evaluated(0), evaluated(1) | annealed | {"ais_gap_nats": 0.5}]
    write_rows(tmp_path / "evaluations.jsonl", rows)
    earlier = lambda **made_with: evaluation.earlier_rows(folder, [2, 2], {"eval_samples": 2} | made_with)
    assert earlier(**annealed) == {1: rows[1]}
    assert list(earlier()) == [0, 1]
    assert earlier(**annealed | {"ais_chains": 3}) == {}


def test_annealing_refuses_bits_in_a_sentence():
    model = models.make_vae((2, 2, 1), latent_dim=2, hidden=(3,), posterior="bernoulli")
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2, 2, 1)), jax.random.key(1))
    with pytest.raises(
        ValueError, match="they must be able to take all real values, and Bernoulli does not say that they can"
    ):
        annealing.check(model, params)


def annealing_options(*arguments: str) -> evaluate_flags.Options:
    values = flags.FlagValues()
    evaluate_command.define_flags(values)
    values(["", "--workdir=x", *arguments])
    return evaluate_flags.from_flags(values)


def test_each_run_is_annealed_with_its_own_parameters_also_if_it_was_evaluated_before(sweep, monkeypatch):
    total = lambda params: float(sum(np.sum(leaf) for leaf in jax.tree.leaves(params)))
    monkeypatch.setattr(annealing, "figures", lambda model, params, *_: {"ais_gap_nats": total(params)})
    write_rows(sweep / "programs/0/evaluations.jsonl", [evaluated(0), evaluated(2)])
    rows = evaluate(sweep, "--ais_steps=1")
    own = [total(trained_run.load(sweep, f"seed={seed},latent_dim=2").variables) for seed in (0, 2)]
    assert [row["run"] for row in rows] == [0, 2]
    assert [row["ais_gap_nats"] for row in rows] == pytest.approx(own)
    assert abs(own[0] - own[1]) > 0.1


def test_the_options_on_the_command_line_are_those_of_the_annealing(monkeypatch):
    seen = {}

    def bounds(apply, params, x, key, *, z, first, **options):
        seen.update(options)
        return {"lower": x + z + first}

    monkeypatch.setattr(ais, "bounds", bounds)
    monkeypatch.setattr(vae_evaluate, "log_likelihood", lambda *args: np.float32(args[4]) + args[7])
    options = annealing_options(
        *"--eval_samples=40 --ais_steps=3 --ais_chains=2 --ais_leapfrog=5 --ais_start=q".split()
    )
    made = annealing._make_bounds(models.make_vae((2, 2, 1), latent_dim=2, hidden=()), options)
    assert made({}, 1.0, jax.random.key(0), 10.0, 700) == {"lower": 711, "importance": 740}
    assert seen.pop("batch_size") >= 1
    assert seen == {"num_steps": 3, "num_chains": 2, "leapfrog_steps": 5, "start": "q"}


def test_the_annealed_figures_are_means_over_test_images_and_over_simulated_ones(monkeypatch):
    """Two images are done at once. The bounds are the number of the image, plus 10 for each kind and 100 with a z."""
    monkeypatch.setattr(assess, "CPU_DECODED", 4)
    kinds = ("importance", "lower", "upper", "ess_share", "acceptance")
    seen, keys = [], set()

    def bounds(params, x, key, z, first):
        seen.append((first, x, z))
        keys.add(tuple(jax.random.key_data(key).tolist()))
        numbers = first + np.arange(len(x)) + (0 if z is None else 100)
        return {kind: np.float32(numbers + 10 * place) for place, kind in enumerate(kinds)}

    monkeypatch.setattr(annealing, "_make_bounds", lambda model, options: bounds)
    options = annealing_options("--ais_steps=3", "--ais_chains=2", "--ais_images=5", "--ais_start=q")
    data = build.load_data(Settings(), None)
    model = models.make_vae((8, 8, 1), latent_dim=2, hidden=())
    x = assess.pixels(data, "test")[:5]
    params = model.init(jax.random.key(0), x, jax.random.key(1))

    row = annealing.figures(model, params, data, options)

    assert row == {
        **{"ais_steps": 3, "ais_chains": 2, "ais_leapfrog": options.ais_leapfrog, "ais_images": 5, "ais_start": "q"},
        **{"ais_test_iw_nats": 2, "ais_test_lower_nats": 12, "ais_ess_share": 32, "ais_acceptance": 42},
        **{"ais_simulated_iw_nats": 102, "ais_simulated_lower_nats": 112, "ais_simulated_upper_nats": 122},
        "ais_gap_nats": 10,
    }
    assert [first for first, *_ in seen] == 2 * [0, 2, 4]
    np.testing.assert_array_equal(np.concatenate([images for _, images, z in seen if z is None]), x)
    simulated = [(images, z) for _, images, z in seen if z is not None]
    assert [(len(images), z.shape) for images, z in simulated] == [(n, (n, 2)) for n in (2, 2, 1)]
    # The importance samples of the images have the keys of `keys_of_data`.
    of_images = jax.random.key_data(vae_evaluate.keys_of_data(assess.key(), 0, 5))
    assert len(keys - set(map(tuple, of_images.tolist()))) == 2


@pytest.mark.slow
def test_annealing_adds_bounds_to_the_row_and_prints_their_table(sweep, capsys, monkeypatch):
    options = ("--run=seed=2", "--ais_steps=3", "--ais_chains=2", "--ais_images=5")
    [row] = evaluate(sweep, *options)
    assert set(results.ANNEALED) <= set(row)
    assert (row["ais_steps"], row["ais_chains"], row["ais_images"], row["ais_start"]) == (3, 2, 5, "prior")
    assert row["ais_gap_nats"] == row["ais_simulated_upper_nats"] - row["ais_simulated_lower_nats"]
    said = capsys.readouterr().out
    assert "AIS of 2 chains with 3 steps from prior; 5 test images at most and 5 simulated ones" in said
    assert f"{row['ais_gap_nats']:.2f}" in said
    assert evaluate(sweep, *options) == []  # is read from the file
    [other] = evaluate(sweep, *options[:-1], "--ais_images=4")
    assert other["ais_test_lower_nats"] != row["ais_test_lower_nats"]
    monkeypatch.setattr(assess, "CPU_DECODED", 4)  # two images at once
    [parts] = evaluate(sweep, *options, "--again")
    annealed = lambda row: [row[name] for name in results.ANNEALED]
    assert annealed(parts) == pytest.approx(annealed(row), rel=1e-5)


@pytest.mark.parametrize("run", [3, -1])
def test_an_earlier_figure_of_a_run_that_does_not_exist_is_refused(run, tmp_path):
    folder = write_program(tmp_path, [Written(Settings(seed=seed)) for seed in (0, 1, 2)])
    write_rows(tmp_path / "evaluations.jsonl", [evaluated(run)])
    with pytest.raises(ValueError, match=f"evaluations.jsonl has a row of run {run}, and there are 3 runs"):
        evaluation.earlier_rows(folder, [2, 2, 2], {"eval_samples": 2})


@pytest.mark.parametrize(
    ("steps", "name", "sentence"),
    [
        ((1, 2, 3), "2", "checkpoints/2 cannot be read; choose one of 1, 3$"),
        ((2,), "2", "holds no checkpoint that can be read; delete .*run and train it again$"),
        ((1, 2), "latest", "holds no checkpoint that can be read; delete .*run and train it again$"),
        ((1, 2), "best", "holds no checkpoint that can be read; delete .*run and train it again$"),
    ],
)
def test_what_is_left_is_named(steps, name, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(program_state, "shape_of", lambda *args: SimpleNamespace(without_optimizer=lambda: None))
    monkeypatch.setattr(checkpoint, "restore", lambda *args: None)
    folder = write_program(tmp_path / "run", [Written(Settings())])
    for step in steps:
        (folder.checkpoints / str(step)).mkdir(parents=True)
    with pytest.raises(ValueError, match=sentence):
        program_state.restore_readable(folder, SimpleNamespace(validation=[0]), None, name)


@pytest.mark.parametrize(("given", "read"), [(None, "recorded"), ("given", "given")])
def test_the_data_are_read_from_the_folder_of_the_training_unless_another_is_given(given, read, tmp_path, monkeypatch):
    class Read(Exception):
        """Ends the evaluation when it reads the data."""

    def load_trained(run, data_dir, cache_dir):
        raise Read(data_dir)

    folder = write_program(tmp_path, [Written(Settings())])
    monkeypatch.setattr(build, "load_trained", load_trained)
    monkeypatch.setattr(ProgramFolder, "data_dir", lambda self: "recorded")
    options = SimpleNamespace(data_dir=given, cache_dir=None, checkpoint="latest")
    with pytest.raises(Read, match=f"^{read}$"):
        evaluation.choose(folder, [0], options)
