"""Which estimators fit a task."""

from experiments.common import candidates, problems
from experiments.common.task import Task


def test_a_trained_runs_estimator_keeps_its_options():
    own = problems.TrainedEstimator("gumbel_softmax:temperature=0.3", start=None)
    task = Task(problems.coins()._replace(trained=own), "elbo")
    names = candidates.choose(task)
    assert "gumbel_softmax:temperature=0.3" in names
    assert "gumbel_softmax" not in names
