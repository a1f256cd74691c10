"""The cost of a training step, and the numbers of samples that a budget buys."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build
from experiments.common.budget import Budget
from experiments.common.settings import Settings
from experiments.train import step_cost
from vae import diagnostics, estimators

SMALL = Settings(hidden=(4,), latent_dim=(2,), batch_size=16, objective="elbo", posterior="bernoulli", num_samples=2)


def bought(budget: Budget, *runs: Settings) -> list[int]:
    data = build.load_data(SMALL, None)
    return [run.num_samples for run in step_cost.buy_samples(list(runs), budget, dict.fromkeys(runs, data))]


def run_with(estimator: str, **others) -> Settings:
    return dataclasses.replace(SMALL, estimator=estimator, **others)


@pytest.mark.parametrize(
    ("estimator", "evaluations"), [("leave_one_out", 2), ("disarm", 2), ("exact", 4), ("bitflip", 4)]
)
def test_the_evaluations_of_a_step_are_those_of_the_estimator(estimator, evaluations):
    assert step_cost.measure(run_with(estimator), build.load_data(SMALL, None)).evaluations == evaluations


def test_the_flop_of_a_step_are_those_of_the_gradient_of_the_batch():
    run = run_with("leave_one_out")
    data = build.load_data(run, None)
    model = build.model(run, data)
    x = np.zeros((run.batch_size, *data.train.shape[1:]), np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(0))
    estimator = estimators.make("leave_one_out", num_samples=2)

    def loss(params, key, x):
        expect = estimators.bind(estimator, {}, {}, key, x)
        return -jnp.mean(build.objective(run, build.arrays(run), jnp.float32(0))(model.apply, params, x, expect).value)

    expected = diagnostics.flops(jax.grad(loss), params, jax.random.key(0), x)
    assert step_cost.measure(run, data).flops == pytest.approx(expected, rel=0.01)


def test_a_budget_buys_as_many_evaluations_for_every_estimator(capsys):
    runs = [
        run_with("leave_one_out"),
        run_with("disarm"),
        run_with("leave_one_out", seed=1),
        run_with("bitflip", num_samples=1),
    ]
    assert bought(Budget("evaluations", 9), *runs)[:3] == [9, 8, 9]
    said = capsys.readouterr().out
    assert re.findall(r"^choosing K (\d of \d: \w+) \(after \d+ s\)$", said, re.MULTILINE) == [
        "1 of 3: leave_one_out",  # both seeds
        "2 of 3: disarm",
        "3 of 3: bitflip",
    ]


def test_a_budget_of_flop_is_used_up():
    data = build.load_data(SMALL, None)
    [samples] = bought(Budget("flops", 1e6), run_with("leave_one_out"))
    price = [step_cost.measure(run_with("leave_one_out", num_samples=k), data).flops for k in (samples, samples + 1)]
    assert price[0] <= 1e6 < price[1]


def test_a_bound_that_depends_on_the_number_of_samples_has_no_budget():
    with pytest.raises(ValueError, match="--objective=iwae is a different bound for each K; give --num_samples"):
        bought(Budget("evaluations", 9), run_with("leave_one_out", objective="iwae"))
