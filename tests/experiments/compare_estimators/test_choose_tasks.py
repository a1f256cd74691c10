"""The tasks that --problem spells."""

import pytest

from experiments.common import grammar, problems
from experiments.compare_estimators import choose_tasks


def test_a_sweep_is_in_the_order_of_its_option():
    texts = ["coins:target=0.49", "coins:target=0.3", "coins"]
    points = choose_tasks._sweep([grammar.choose(text, problems.BY_NAME) for text in texts])
    assert [point.point for point in points] == [{"target": 0.3}, {"target": 0.45}, {"target": 0.49}]


def test_a_sweep_shares_its_bound():
    texts = ["cosine:cost_parameter=1", "cosine:cost_parameter=2"]
    first, second = choose_tasks._sweep([grammar.choose(text, problems.BY_NAME) for text in texts])
    assert first.bounds["elbo"] is second.bounds["elbo"]


@pytest.mark.parametrize(
    ("text", "end"),
    [("cubic", "; or give your own module:function"), ("quadratic:size=1", "; its options are cost_parameter=-1.0")],
)
def test_a_function_of_your_own_is_offered_in_place_of_an_unknown_problem_only(text, end):
    with pytest.raises(ValueError, match=f"^--problem={text}: .*{end}$"):
        choose_tasks._choose(text)
