"""The laboratory on a trained run."""

import contextlib
import io
import json
import re

import pytest

from experiments.common import candidates, measuring
from experiments.common.measuring import Protocol
from experiments.common.run_folder import RunFolder
from experiments.common.task import Task
from experiments.compare_estimators.trained_problem import from_workdir
from tests.helpers.laboratory import read, run, train
from vae import checkpoint


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run after one and two epochs, and the laboratory on its images for a bound that its estimator does not fit."""
    folder = tmp_path_factory.mktemp("trained")
    objective = ["--objective=iwae", "--estimator=dreg", "--num_samples=2", "--latent_dim=2"]
    train(folder / "run", "--epochs=2", "--eval_every=1", *objective)
    measuring = ["--estimators=reparam,leave_one_out", "--batch_size=8", "--draws=100", "--rounds=3"]
    run(f"--workdir={folder / 'run'}", "--checkpoint=all", "--objective=elbo", *measuring, f"--output={folder / 'out'}")
    return folder


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
    [newest] = from_workdir(str(measured / "run"))
    [first] = from_workdir(str(measured / "run"), at="1")
    assert list(newest.bounds) == ["iwae"]
    assert newest.point == {"epoch": 2}
    assert first.point == {"epoch": 1}
    assert newest.identity != first.identity


def test_bad_input_is_one_sentence(measured):
    assert "choose latest, best or one of 1, 2" in refusal(measured, "--checkpoint=7")
    assert "choose one of elbo_analytic, elbo, iwae, renyi, thermodynamic" in refusal(measured, "--objective=elbow")
    assert "stl fits --objective=elbo" in refusal(measured, "--objective=elbo_analytic", "--estimators=stl")


def test_a_checkpoint_that_cannot_be_read_is_named(measured, monkeypatch):
    monkeypatch.setattr(checkpoint, "restore", lambda folder, like, at: None)
    assert "--checkpoint=1 cannot be read; choose another checkpoint" in refusal(measured, "--checkpoint=1")


def test_a_run_on_other_data_is_refused(measured):
    config = measured / "run" / "config.json"
    written = config.read_text()
    try:
        config.write_text(written.replace(RunFolder(measured / "run").config()["data"]["checksum"], "0" * 64))
        assert "holds a run on other data" in refusal(measured)
    finally:
        config.write_text(written)


def test_a_run_that_diverged_is_refused(measured):
    result = measured / "run" / "result.json"
    written = result.read_text()
    try:
        result.write_text(json.dumps(json.loads(written) | {"status": "diverged", "step": 7}))
        assert "diverged at step 7" in refusal(measured)
    finally:
        result.write_text(written)


def test_a_sweep_is_refused_and_one_of_its_runs_is_named(measured, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(measured / "run")
    (measured / "sweep").symlink_to(tmp_path)
    assert re.search("is a sweep of 1 runs; give one of them, such as .*/runs/one", refusal(measured, name="sweep"))


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
        [problem] = from_workdir(str(tmp_path / "run"), objective, batch_size=4)
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
    [problem] = from_workdir(str(tmp_path / "run"), batch_size=4)
    new = problem._replace(trained=None)
    scale = lambda problem, name="rebar": float(Task(problem, "elbo").start(name, 1).learned["scale"])
    assert scale(new) == 1
    assert abs(scale(problem) - 1) > 1e-3
    assert scale(problem, "relax") == 1  # another estimator starts anew
    [other] = from_workdir(str(tmp_path / "run"), "elbo_analytic", batch_size=4)
    assert other.trained.start is None
    protocol = Protocol(20, 20, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    assert measuring.learn(Task(problem, "elbo"), "rebar", 1, protocol).learned["scale"] == scale(problem)
