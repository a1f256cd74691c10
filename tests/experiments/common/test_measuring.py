"""How draws are cut into chunks, which gradients they are, and how an estimator learns before it is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import measuring, problems
from experiments.common.candidates import Case
from experiments.common.measuring import Block, Draws, Protocol
from experiments.common.problems import Start
from experiments.common.task import Task
from vae import diagnostics
from vae.estimators import Estimate, Estimator


def test_the_number_of_chunks_is_the_largest_that_divides_the_draws():
    assert measuring.number_of_chunks(1000, 20) == 20
    assert measuring.number_of_chunks(990, 20) == 18
    assert measuring.number_of_chunks(20, 50) == 10


def test_draws_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="--draws=101: give a multiple of 10, such as 110"):
        measuring.number_of_chunks(101, 10)


def test_a_measurement_is_stored_under_everything_that_it_depends_on():
    protocol = Protocol(100, 200, "reparam", 10, 20, 5, 0, 0.95, 3)
    elbo, iwae = (Task(problems.make("rainforth"), name) for name in ("elbo", "iwae"))
    other = Task(problems.make("quadratic"), "elbo")
    digests = {
        measuring.digest("estimator", elbo, "reparam", 1, protocol),
        measuring.digest("reference", elbo, "reparam", 1, protocol),
        measuring.digest("estimator", iwae, "reparam", 1, protocol),
        measuring.digest("estimator", other, "reparam", 1, protocol),
        measuring.digest("estimator", elbo, "stl", 1, protocol),
        measuring.digest("estimator", elbo, "reparam", 2, protocol),
        measuring.digest("estimator", elbo, "reparam", 1),
    }
    changes = {"draws": 200, "reference_draws": 400, "reference": "stl", "chunks": 20, "cv_steps": 6, "seed": 1}
    for name, value in changes.items():
        digests.add(measuring.digest("estimator", elbo, "reparam", 1, protocol._replace(**{name: value})))
    assert len(digests) == 7 + len(changes)


def test_the_draws_of_all_chunks_and_blocks_are_different_gradients(monkeypatch):
    """As if each gradient were drawn alone, with the key of its number."""
    monkeypatch.setattr(measuring, "choose_block", lambda *arguments: Block(5, side_by_side=True))
    task = Task(problems.make("quadratic"), "elbo")
    start = task.start("reparam", 1)
    truth = diagnostics.exactly(task.problem.oracle("elbo", 1))
    key = jax.random.key(3)
    moments = measuring.draw_moments(task, Case("reparam", 1, 0, 1, 1), start, Draws(40, 4, key), truth)
    gradient = lambda key: task.gradient("reparam", 1)(key, *task.arguments(start))
    alone = jax.jit(lambda key: diagnostics.gradient_moments(gradient, key, 40, 4, truth=truth))(key)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5), moments, alone)


def test_an_estimator_learns_by_adam_and_counts_its_steps():
    """The loss is (w - 3)^2. Adam moves w by its learning rate in each of the first steps."""
    value = jnp.zeros(())
    loss = lambda w, count, *rest: Estimate(value, jnp.square(w - 3), count + 1)
    estimator = Estimator(init=None, estimate=loss)
    bound = lambda params, data, expect: expect(None, None)
    learned, counted = measuring.minimise_cv_loss(
        bound, estimator, Start(jnp.zeros(()), 0), jax.random.key(0), {}, {}, None, steps=3
    )
    assert (float(learned), counted) == (pytest.approx(0.03, rel=1e-2), 3)


def test_an_estimator_learns_only_for_the_steps_of_the_protocol():
    task = Task(problems.make("coins"), "elbo")
    protocol = Protocol(100, 100, "leave_one_out", 10, 100, 0, 0, 0.95, 3)
    begun = task.start("rebar", 1)
    assert measuring.learn(task, "rebar", 1, protocol) is begun
    learned = measuring.learn(task, "rebar", 1, protocol._replace(cv_steps=3))
    assert abs(float(learned.learned["scale"] - begun.learned["scale"])) > 1e-3
