"""A simulator in NumPy: the example of the page, from the shell and in this process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import problems
from experiments.common.task import Task
from experiments.compare_estimators import user_problem
from tests.helpers import pages
from tests.helpers.laboratory import read, run
from vae import distributions

PARAMS = {"phi": {"logits": jnp.array([0.3, -0.2, 0.1])}, "theta": {"w": jnp.ones(3)}}


def problem(f):
    return problems.from_integrand("mine", PARAMS, lambda params: distributions.Bernoulli(**params["phi"]), f)


def call(z, **options):
    shape = jax.ShapeDtypeStruct(z.shape[:-1], jnp.float32)
    return jax.pure_callback(lambda z: np.asarray(z, np.float64).max(axis=-1), shape, z, **options)


@pytest.fixture
def pumps(tmp_path, monkeypatch):
    """A folder with the module pumps.py of the page, as the current folder."""
    _, block = pages.blocks((pages.ROOT / "experiments/compare_estimators/README.md").read_text())
    (tmp_path / "pumps.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_simulator_of_the_page_is_judged_by_evaluations(pumps, capsys):
    small = ["--draws=400", "--rounds=3", "--replicates=200", "--output=out"]
    run("--problem=pumps:problem", "--budget=evaluations:64", "--estimators=leave_one_out,local_expectation", *small)
    score, local = read(pumps / "out" / "results.csv")
    assert (score["num_samples"], score["evaluations"]) == ("64", "64")
    assert (local["num_samples"], local["evaluations"]) == ("9", "63")
    for row in (score, local):
        assert row["truth"] == "exact (sum over all states)"
        assert row["phi_biased"] == "False"
        assert abs(float(row["phi_bias"])) < 4.5 * float(row["phi_bias_stderr"]) < 0.1
        product = float(row["phi_variance"]) * float(row["evaluations"])
        assert float(row["phi_variance_x_evaluations"]) == pytest.approx(product, rel=1e-5)
        assert "phi_variance_x_flops" not in row
    assert (score["phi_verdict"], local["phi_verdict"]) == ("worse", "best")
    said = capsys.readouterr().out
    assert "compares variance x evaluations, because f calls the host (pure_callback), where FLOP are not" in said
    assert "| variance x evaluations | variance x time" in said
    assert "FLOP |" not in said


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "--judge_by=flops",
            "--judge_by=flops: f calls the host (pure_callback), whose FLOP nobody",
        ),
        ("--budget=flops:1e6", "--budget=flops:1e6: f calls the host (pure_callback), whose FLOP nobody counts; take"),
        (
            "--estimators=gumbel_softmax",
            "gumbel_softmax differentiates f in z, and f is a black box on the host",
        ),
        ("--reference=relax", "--reference=relax: relax differentiates f in z, and f is a black box"),
    ],
)
def test_what_a_simulator_cannot_give_is_refused_in_one_sentence(pumps, argument, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--problem=pumps:problem", argument)
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda params, z: call(z), id="cannot be vectorized"),
        pytest.param(lambda params, z: call(z * params["theta"]["w"], vmap_method="broadcast_all"), id="parameters"),
    ],
)
def test_a_call_of_the_host_that_jax_could_not_use_is_refused(f):
    sentence = r"^--problem=mine:problem: call the host as jax\.pure_callback\(simulate, .*; jax says: "
    with pytest.raises(user_problem.Unsuitable, match=sentence):
        user_problem.check(problem(f), "mine:problem")


def test_parameters_outside_of_the_simulator_are_allowed():
    f = lambda params, z: jnp.sum(params["theta"]["w"]) * call(z, vmap_method="broadcast_all")
    assert user_problem.check(problem(f), "mine:problem").name == "mine"


def test_a_simulator_with_a_derivative_of_its_own_is_differentiated_and_still_has_no_flop():
    sine = jax.custom_jvp(lambda z: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(z.shape, z.dtype), z))
    sine.defjvp(lambda primals, tangents: (sine(*primals), jnp.cos(primals[0]) * tangents[0]))
    task = Task(problem(lambda params, z: jnp.sum(sine(z), axis=-1)), "elbo")
    assert task.host_calls.names == ("pure_callback",)
    assert task.refusal("gumbel_softmax") is None
    assert Task(problem(lambda params, z: call(z)), "elbo").refusal("gumbel_softmax") is not None
