"""How many samples a budget buys."""

import functools

import pytest

from experiments.common import problems
from experiments.common.budget import Budget, Refused, affordable, check_objective, parse_budget
from experiments.common.task import Task


def test_affordable_is_the_largest_k_within_the_budget():
    linear = lambda k: 3.0 + 2.0 * k
    assert affordable(Budget("flops", 103.0), linear, "reparam") == 50
    assert affordable(Budget("flops", 102.9), linear, "reparam") == 49
    assert affordable(Budget("flops", 5.0), linear, "reparam") == 1


def test_an_affine_cost_is_asked_for_at_few_k():
    asked = set()

    def cost(k):
        asked.add(k)
        return 7.0 + 3.0 * k

    assert affordable(Budget("flops", 30_000.0), cost, "reparam") == 9997
    assert len(asked) <= 5


def test_no_k_above_the_first_guess_is_asked_for_where_the_cost_grows_faster():
    """Each K is a program to compile, and the largest ones are the slowest. The guess is (10^4 - 1) / 3."""
    asked = set()

    def cost(k):
        asked.add(k)
        return float(k**2)

    assert affordable(Budget("flops", 10_000.0), cost, "reparam") == 100
    assert max(asked) == 3334
    assert len(asked) <= 25


@pytest.mark.parametrize("cost", [lambda k: k**2, lambda k: 50 + k**0.5, lambda k: 2.0 ** min(k, 60)])
def test_affordable_is_right_where_the_cost_is_not_affine(cost):
    for amount in (51.5, 60.0, 64.0, 1000.0):
        k = affordable(Budget("flops", amount), cost, "reparam")
        assert cost(k) <= amount < cost(k + 1)
    assert [affordable(Budget("flops", cost(k)), cost, "reparam") for k in range(1, 60)] == list(range(1, 60))


def test_affordable_passes_over_a_k_that_is_refused():
    def even(k):
        if k % 2:
            raise Refused("must be even")
        return float(k)

    assert affordable(Budget("evaluations", 9.0), even, "reparam_antithetic") == 8


def test_affordable_passes_over_thousands_of_k_that_are_refused():
    def powers_of_two(k):
        if k & (k - 1):
            raise Refused("must be a power of two")
        return float(k)

    assert affordable(Budget("evaluations", 8000.0), powers_of_two, "reparam_rqmc") == 4096


def test_affordable_is_right_where_two_samples_cost_as_much_as_one():
    pairs = lambda k: 2.0 * ((k + 1) // 2)
    assert affordable(Budget("evaluations", 9.0), pairs, "reparam") == 8


@pytest.mark.parametrize("text", ["evaluations:0", "flops:-1", "flops:inf", "flops:nan", "evaluations", "seconds:3"])
def test_what_is_no_budget_is_refused(text):
    assert parse_budget("flops:1e9") == Budget("flops", 1e9)
    with pytest.raises(ValueError, match=f"--budget={text} is neither evaluations:N nor flops:N"):
        parse_budget(text)


def test_an_objective_is_refused_if_one_of_its_expectations_depends_on_the_number_of_samples():
    [additive], [other] = (Task(problems.rainforth(), name).expectations for name in ("elbo", "iwae"))
    check_objective("elbo", [additive])
    with pytest.raises(ValueError, match="--objective=iwae is a different bound for each K"):
        check_objective("iwae", [additive, other])


def test_a_budget_below_the_least_k_is_refused():
    with pytest.raises(ValueError, match="K=2 costs 2 evaluations"):
        affordable(Budget("evaluations", 1.0), float, "leave_one_out")


def test_affordable_is_the_least_k_where_the_cost_does_not_grow():
    task = Task(problems.coins(), "elbo")
    cost = functools.partial(task.cost, "evaluations", "exact")
    assert affordable(Budget("evaluations", 16.0), cost, "exact") == 1


@pytest.mark.parametrize(("name", "bought"), [("reparam", 13), ("reparam_antithetic", 12), ("reinforce", 13)])
def test_evaluations_buy_the_same_number_of_samples(name, bought):
    """13 evaluations buy 13 samples, or 12 where only even numbers work."""
    cost = functools.partial(Task(problems.quadratic(), "elbo").cost, "evaluations", name)
    assert affordable(Budget("evaluations", 13.0), cost, name) == bought


def test_flops_buy_as_many_samples_as_they_suffice_for():
    task = Task(problems.quadratic(), "elbo")
    amount = 10 * task.cost("flops", "reinforce", 1)
    for name in ("reparam", "reinforce"):
        flops = functools.partial(task.cost, "flops", name)
        k = affordable(Budget("flops", amount), flops, name)
        assert k > 5
        assert flops(k) <= amount < flops(k + 1)
