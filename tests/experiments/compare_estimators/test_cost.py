"""What the estimators of a problem share is done once: traces of the bound and compiled programs are counted."""

import re

import pytest

from tests.helpers.entry_points import Call, Outcome, run_all, training

COUNTED = "traces_and_compiled_programs_are_counted"
FEW = ["reparam", "nvil"]
MORE = [*FEW, "stl", "reinforce_ema"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose network is large for the laboratory, and whose latents are too many for a quadrature."""
    folder = tmp_path_factory.mktemp("trained")
    network = ["--hidden=160", "--latent_dim=5", "--epochs=1"]
    [outcome] = run_all([training(f"--workdir={folder / 'run'}", *network)], folder / "outcome")
    assert outcome.code == 0, outcome.err
    return folder / "run"


def laboratory(workdir, estimators: list[str], fault: str) -> Call:
    """A comparison whose truth is the mean of a reference."""
    measuring = ["--objective=elbo", "--batch_size=8", "--draws=40", "--cv_steps=2", "--rounds=3", "--replicates=100"]
    output = f"--output={workdir.parent / f'{len(estimators)} {fault}'}"
    names = f"--estimators={','.join(estimators)}"
    return Call("experiments.compare_estimators", [f"--workdir={workdir}", names, *measuring, output], fault)


def counts(outcome: Outcome) -> dict[str, int]:
    assert outcome.code == 0, outcome.err
    [(traced, compiled)] = re.findall("traced (\\d+), compiled (\\d+)", outcome.out)
    return {"traced": int(traced), "compiled": int(compiled)}


def for_each_more(few: dict[str, int], more: dict[str, int]) -> dict[str, float]:
    return {what: (more[what] - few[what]) / (len(MORE) - len(FEW)) for what in few}


def test_an_estimator_is_traced_three_times_and_compiles_a_handful_of_programs(workdir, tmp_path):
    cases = [(FEW, COUNTED), (MORE, COUNTED), (FEW, "gradients_are_traced_anew")]
    outcomes = run_all([laboratory(workdir, *case) for case in cases], tmp_path)
    few, more, anew = map(counts, outcomes)

    for_each = for_each_more(few, more)
    assert for_each["traced"] <= 3
    assert for_each["compiled"] <= 6
    assert few["traced"] <= 3 * len(FEW) + 1  # the expectations of the bound are found once, for all estimators
    assert few["compiled"] <= 50  # half of them prepare the problem

    assert anew["traced"] > 3 * len(FEW) + 1  # the counts see a gradient that is traced anew
