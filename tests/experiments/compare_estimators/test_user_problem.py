"""A problem of the user's own: what is refused in one sentence before anything is measured."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import problems
from experiments.compare_estimators import user_problem
from tests.helpers.laboratory import run
from vae import distributions

PHI = {"mean": jnp.zeros(2), "log_var": jnp.zeros(2)}
BATCH = {"mean": jnp.zeros((3, 2)), "log_var": jnp.zeros((3, 2))}
SQUARE = lambda params, z: jnp.sum(z**2, axis=-1)


def normal(params):
    return distributions.Normal(**params["phi"])


def check(f, phi=PHI, posterior=normal):
    return user_problem.check(problems.from_integrand("mine", {"phi": phi}, posterior, f), "mine:problem")


@pytest.mark.parametrize(
    ("f", "came"),
    [
        (lambda params, z: jnp.sum(z**2, axis=-1, keepdims=True), r"a float32 array of shape \(3, 3, 1\)"),
        (lambda params, z: jnp.sum(z**2), r"a float32 array of shape \(\)"),
        (lambda params, z: jnp.mean(jnp.sum(z**2, axis=-1), axis=0), r"a float32 array of shape \(3,\)"),
        (lambda params, z: [1.0, 2.0, 3.0], "a list"),
        (lambda params, z: jnp.sum(z > 0, axis=-1), r"a int32 array of shape \(3, 3\)"),
    ],
)
def test_an_integrand_of_the_wrong_shape_is_refused(f, came):
    sentence = rf"--problem=mine:problem: the function f returned {came} for 3 samples z of shape \(3, 3, 2\).*\(3, 3\)"
    with pytest.raises(ValueError, match=sentence):
        check(f, BATCH)


def test_a_mean_over_as_many_data_as_samples_is_refused():
    """The first number of samples is the size of the batch, so only the second shows the mistake."""
    with pytest.raises(ValueError, match=r"shape \(3,\) for 5 samples.*= \(5,\)"):
        check(lambda params, z: jnp.zeros(3))


def test_the_function_is_called_by_its_name():
    def my_cost(params, z):
        return jnp.sum(z)

    with pytest.raises(ValueError, match="the function my_cost returned"):
        check(my_cost)


def test_parameters_must_be_float_arrays():
    with pytest.raises(ValueError, match=r"params\['phi'\]\['mean'\] is a int32 array; gradients need a float array"):
        check(SQUARE, {"mean": jnp.array([0, 1]), "log_var": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"params\['phi'\]\['mean'\] is a float; gradients need a float array"):
        check(SQUARE, {"mean": 0.5, "log_var": jnp.zeros(2)})


def test_a_posterior_must_be_a_distribution():
    with pytest.raises(ValueError, match="the posterior is a tuple; it must be a distribution of vae.distributions"):
        check(SQUARE, posterior=lambda params: (params["phi"]["mean"], params["phi"]["log_var"]))


def test_a_function_that_is_not_pure_is_refused():
    counter, rng = itertools.count(), np.random.default_rng(0)
    sentence = "--problem=mine:problem: its function gave two values for the same samples; it must be pure"
    for number in (lambda: next(counter), rng.normal):
        with pytest.raises(ValueError, match=sentence):
            check(lambda params, z, number=number: SQUARE(params, z) + number(), BATCH)


def test_a_good_problem_passes_and_a_mistake_in_it_is_passed_on():
    assert check(SQUARE, BATCH).name == "mine"
    with pytest.raises(ZeroDivisionError):
        check(lambda params, z: 1 / 0)


def test_the_command_says_it_in_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong_shape.py").write_text(
        "import jax.numpy as jnp\n"
        "from experiments.common import problems\n"
        "from vae import distributions\n"
        "def problem():\n"
        "    params = {'phi': {'logits': jnp.zeros(2)}}\n"
        "    posterior = lambda params: distributions.Bernoulli(params['phi']['logits'])\n"
        "    return problems.from_integrand('mine', params, posterior, lambda params, z: jnp.sum(z))\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run("--problem=wrong_shape:problem", f"--output={tmp_path / 'out'}")
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --problem=wrong_shape:problem: the function f returned a float32 array of shape ()")
    assert error.count("\n") == 1
