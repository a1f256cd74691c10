"""Which estimators fit a task."""

import pytest

from experiments.common import candidates, problems
from experiments.common.task import Task


def test_a_trained_runs_estimator_keeps_its_options():
    own = problems.TrainedEstimator("gumbel_softmax:temperature=0.3", start=None)
    task = Task(problems.coins()._replace(trained=own), "elbo")
    names = candidates.choose(task)
    assert "gumbel_softmax:temperature=0.3" in names
    assert "gumbel_softmax" not in names


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["reparam"], "^--estimators=reparam: reparam .* Bernoulli"),
        (["reinfroce"], r"^--estimators=reinfroce: there is no estimator 'reinfroce' \(did you mean reinforce"),
        (["arm", "", "disarm"], "^--estimators=arm,,disarm: an element is empty; give one value"),
        (["arm", "arm:by_layer=false"], "^--estimators=arm,arm: arm is given twice; give it once$"),
        (["arm", " arm"], "^--estimators=arm,arm: arm is given twice; give it once$"),
        (["gumbel_softmax:temperature=0"], "^--estimators=gumbel_softmax:temperature=0.0: temperature must be"),
    ],
)
def test_an_estimator_that_cannot_be_chosen_is_refused_under_the_name_of_the_flag(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        candidates.choose(Task(problems.coins(), "elbo"), names)
