"""The laboratory on a trained run."""

import contextlib
import io

import jax
import numpy as np
import pytest

from experiments.common import build, candidates, measuring, plots, program_state
from experiments.common.measuring import Protocol
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from experiments.common.task import Task
from experiments.compare_estimators import flags
from experiments.compare_estimators.trained_problem import from_workdir
from tests.helpers import entry_points, pages
from tests.helpers.laboratory import read, run, train
from tests.helpers.written_workdirs import Written, change_result, write_checkpoints, write_workdir
from vae import checkpoint


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run after one and two epochs, and the laboratory on its images for a bound that its estimator does not fit."""
    folder = tmp_path_factory.mktemp("trained")
    objective = ["--objective=iwae", "--estimator=dreg", "--num_samples=2", "--checkpoint_every=1"]
    [trained] = entry_points.train(folder / "training", [*objective, f"--workdir={folder / 'run'}"])
    assert trained.code == 0, trained.err
    measuring = ["--estimators=reparam,leave_one_out", "--batch_size=8", "--draws=100", "--rounds=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", lambda figure, path: [])  # test_command.py looks at the pictures
        place = [f"--workdir={folder / 'run'}", "--checkpoint=all", "--objective=elbo", f"--output={folder / 'out'}"]
        run(*place, *measuring)
    return folder


def problems_of(workdir, *arguments):
    values = pages.parse("experiments.compare_estimators", [f"--workdir={workdir}", *arguments])
    return from_workdir(flags.from_flags(values))


def test_every_checkpoint_is_measured(measured):
    rows = read(measured / "out" / "results.csv")
    assert [(row["estimator"], row["epoch"]) for row in rows] == [
        ("reparam", "1"),
        ("leave_one_out", "1"),
        ("reparam", "2"),
        ("leave_one_out", "2"),
    ]
    assert {row["truth"] for row in rows} == {"mean of 1,000 draws of reparam, K=1"}
    assert {row["num_samples"] for row in rows} == {"2"}  # as trained
    assert {row["encoder_biased"] for row in rows} | {row["decoder_biased"] for row in rows} == {"False"}


def test_layers_have_the_names_of_the_networks(measured):
    parts = {row["part"] for row in read(measured / "out" / "layers.csv")}
    assert {"encoder", "encoder.network.hidden_0", "encoder.parameters", "decoder.network.outputs"} <= parts


def test_the_problem_is_at_the_checkpoint_that_was_asked_for(measured):
    [newest] = problems_of(measured / "run")
    [first] = problems_of(measured / "run", "--checkpoint=1")
    assert list(newest.bounds) == ["iwae"]
    assert newest.point == {"epoch": 2}
    assert first.point == {"epoch": 1}
    assert newest.identity != first.identity


def test_bad_input_is_one_sentence(measured):
    assert "choose latest or one of 1, 2" in refusal(measured, "--checkpoint=7")
    assert "choose one of elbo_analytic, elbo, iwae, renyi, thermodynamic" in refusal(measured, "--objective=elbow")
    of_stl = refusal(measured, "--objective=elbo_analytic", "--estimators=stl")
    assert "--estimators=stl: stl needs log q(z) in the integrand, as with" in of_stl


def test_a_checkpoint_that_cannot_be_read_is_named(measured, monkeypatch):
    monkeypatch.setattr(checkpoint, "restore", lambda folder, like, at: None)
    assert "--checkpoint=1 cannot be read; choose another checkpoint" in refusal(measured, "--checkpoint=1")


def test_a_run_on_other_data_is_refused(measured):
    record = measured / "run" / "runs.json"
    written = record.read_text()
    try:
        record.write_text(written.replace(ProgramFolder(measured / "run").record()["data"]["checksum"], "0" * 64))
        assert "holds a run on other data" in refusal(measured)
    finally:
        record.write_text(written)


def test_a_run_that_diverged_is_refused(measured):
    record = measured / "run" / "runs.json"
    written = record.read_text()
    try:
        change_result(measured / "run", 0, status="diverged", step=7)
        assert "diverged at step 7" in refusal(measured)
    finally:
        record.write_text(written)


# --- A run of a sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two programs of three and one runs. The second run of the first diverged."""
    alike = {"hidden": (4,), "latent_dim": (2,), "epochs": 2, "batch_size": 8, "objective": "elbo"}
    status = ("done", "diverged", None)
    runs = [Written(Settings(**alike, seed=seed), status=status[seed]) for seed in (0, 1, 2)]
    runs.append(Written(Settings(**alike | {"num_samples": 3, "hidden": (5,)})))
    folder = write_workdir(tmp_path_factory.mktemp("written") / "sweep", runs)
    write_checkpoints(ProgramFolder(folder / "programs/0"), (1, 2))
    write_checkpoints(ProgramFolder(folder / "programs/1"), (2,))
    return folder


def test_a_run_of_a_sweep_is_measured_at_its_own_parameters(sweep):
    [first] = problems_of(sweep, "--run=hidden=4,seed=0")
    [third] = problems_of(sweep, "--run=seed=2", "--checkpoint=2")
    [other] = problems_of(sweep, "--run=num_samples=3")
    states = ProgramFolder(sweep / "programs/0")
    settings = states.runs()[0]
    data = build.load_trained(settings, None)
    restored = program_state.restore(states, data, build.functions(settings, data))
    for problem, number in ((first, 0), (third, 2)):
        expected = jax.tree.map(lambda leaf, number=number: leaf[number], restored.state.params["model"]["params"])
        assert set(problem.params) == set(expected)
        for name, group in problem.params.items():
            jax.tree.map(np.testing.assert_array_equal, group, expected[name])
    # Control: the runs have different parameters.
    assert first.identity != third.identity
    assert np.abs(jax.tree.leaves(first.params)[0] - jax.tree.leaves(third.params)[0]).max() > 0.1
    assert (first.num_samples, third.num_samples, other.num_samples) == (1, 1, 3)
    assert (first.point, third.point, other.point) == ({"epoch": 2}, {"epoch": 2}, {"epoch": 2})


def test_every_checkpoint_of_a_run_of_a_sweep_is_a_problem(sweep):
    problems = problems_of(sweep, "--run=hidden=4,seed=2", "--checkpoint=all")
    assert [problem.point for problem in problems] == [{"epoch": 1}, {"epoch": 2}]
    assert len({problem.identity for problem in problems}) == 2


def test_a_sweep_needs_the_choice_of_one_run(sweep):
    folder = sweep.parent
    assert "holds 4 runs; choose one by --run=NAME=VALUE,...: hidden is 4, 5; " in refusal(folder, name="sweep")
    several = refusal(folder, "--run=hidden=4", name="sweep")
    assert "--run=hidden=4 matches 3 runs in " in several
    assert "seed is 0, 1, 2" in several
    assert "--run=seed=9 matches none of the 4 runs in " in refusal(folder, "--run=seed=9", name="sweep")
    assert "diverged at step 24" in refusal(folder, "--run=seed=1", name="sweep")
    assert "--checkpoint=1 is not in " in refusal(folder, "--run=hidden=5", "--checkpoint=1", name="sweep")


def refusal(folder, *arguments, name="run"):
    """What the command says before it exits."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit):
        run(f"--workdir={folder / name}", "--batch_size=8", f"--output={folder / 'refused'}", *arguments)
    return said.getvalue()


@pytest.mark.slow
def test_a_run_by_layer_is_measured_by_layer(tmp_path):
    """Its evaluations are counted by layer: K for each of the two layers. Another bound takes all layers at once."""
    model = ["--posterior=bernoulli", "--latent_dim=4-3", "--layer_hidden=8", "--objective=elbo", "--epochs=1"]
    train(tmp_path / "run", *model, "--estimator=leave_one_out:by_layer=true", "--num_samples=2")
    evaluations = {}
    for objective in ("elbo", "iwae"):
        [problem] = problems_of(tmp_path / "run", f"--objective={objective}", "--batch_size=4")
        task = Task(problem, objective)
        own = problem.trained.name if objective == "elbo" else "leave_one_out"
        evaluations[objective] = task.cost("evaluations", own, 2)
        names = candidates.choose(task)
        assert names
        for name in names:
            task.admit(name, 2)
    assert evaluations == {"elbo": 4, "iwae": 2}


@pytest.mark.slow
def test_a_runs_own_estimator_continues_from_what_it_had_learned(tmp_path):
    model = ["--posterior=bernoulli", "--latent_dim=3", "--objective=elbo"]
    train(tmp_path / "run", *model, "--estimator=rebar", "--epochs=2")
    [problem] = problems_of(tmp_path / "run", "--batch_size=4")
    new = problem._replace(trained=None)
    scale = lambda problem, name="rebar": float(Task(problem, "elbo").start(name, 1).learned["scale"])
    assert scale(new) == 1
    assert abs(scale(problem) - 1) > 1e-3
    assert scale(problem, "relax") == 1  # another estimator starts anew
    [other] = problems_of(tmp_path / "run", "--objective=elbo_analytic", "--batch_size=4")
    assert other.trained.start is None
    protocol = Protocol(20, 20, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    assert measuring.learn(Task(problem, "elbo"), "rebar", 1, protocol).learned["scale"] == scale(problem)
