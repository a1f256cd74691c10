"""How draws are cut into chunks."""

import pytest

from experiments.common import measuring, problems
from experiments.common.measuring import Protocol
from experiments.common.task import Task


def test_the_number_of_chunks_is_the_largest_that_divides_the_draws():
    assert measuring.number_of_chunks(1000, 20) == 20
    assert measuring.number_of_chunks(990, 20) == 18
    assert measuring.number_of_chunks(20, 50) == 10


def test_draws_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 10 equal chunks; take 110"):
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
