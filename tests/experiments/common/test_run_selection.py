"""--run chooses runs of a workdir by their settings."""

import re

import pytest

from experiments.common import run_selection
from experiments.common.settings import Settings
from tests.helpers.written_workdirs import Written, write_run, write_sweep, write_workdir

RATES, SEEDS, ESTIMATORS = (1e-3, 1e-2), (0, 1, 2), ("reparam", "stl")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two programs, one for each estimator, with six runs each."""
    points = [
        ({"objective": "elbo", "estimator": name, "learning_rate": rate, "seed": seed}, 0.0)
        for name in ESTIMATORS
        for rate in RATES
        for seed in SEEDS
    ]
    return write_sweep(tmp_path_factory.mktemp("sweep"), points, finished=False)


def chosen(workdir, text):
    """The chosen runs as (estimator, learning rate, seed), and how many of them each program has."""
    found = run_selection.choose(workdir, text)
    runs = [folder.runs()[i] for folder, numbers in found.items() for i in numbers]
    return [(run.estimator, run.learning_rate, run.seed) for run in runs], [len(numbers) for numbers in found.values()]


@pytest.mark.parametrize(
    ("text", "wanted", "programs"),
    [
        (None, lambda name, rate, seed: True, [6, 6]),
        ("seed=1", lambda name, rate, seed: seed == 1, [2, 2]),
        ("seed=2,estimator=stl", lambda name, rate, seed: (name, seed) == ("stl", 2), [2]),
        (" estimator=reparam , learning_rate=0.01", lambda name, rate, seed: (name, rate) == ("reparam", 1e-2), [3]),
        ("learning_rate=1e-2,seed=0,estimator=stl", lambda *run: run == ("stl", 1e-2, 0), [1]),
        ("dataset=digits", lambda name, rate, seed: True, [6, 6]),
    ],
)
def test_the_runs_with_all_these_settings_are_chosen(text, wanted, programs, sweep):
    every = [(name, rate, seed) for name in ESTIMATORS for rate in RATES for seed in SEEDS]
    assert chosen(sweep, text) == ([run for run in every if wanted(*run)], programs)


def test_a_value_may_be_spelled_as_on_the_command_line(tmp_path):
    discrete = Settings(estimator="reinmax:temperature=1.3", posterior="bernoulli", hidden=(), latent_dim=(4, 2))
    runs = [Settings(), Settings(learning_rate=1e-2), discrete]
    write_workdir(tmp_path, [Written(run, status=None) for run in runs])
    texts = ("hidden=none", "latent_dim=4-2", "estimator=reinmax:temperature=1.30", "posterior=bernoulli:signed=false")
    for text, run in (*((text, discrete) for text in texts), ("learning_rate=0.0100", runs[1])):
        folder, number = run_selection.choose_one(tmp_path, text)
        assert folder.runs()[number] == run


def test_the_only_run_of_a_workdir_needs_no_choice(tmp_path):
    write_run(tmp_path, Settings(seed=4))
    for text in (None, "seed=4"):
        folder, number = run_selection.choose_one(tmp_path, text)
        assert (folder.path, number) == (tmp_path, 0)


def test_the_folder_of_one_program_of_a_sweep_is_a_workdir_too(sweep):
    names = {name for name, _, _ in chosen(sweep / "programs/1", "seed=0")[0]}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "holds 12 runs; choose one by --run=NAME=VALUE,...: estimator is reparam, stl; learning_rate is"),
        ("estimator=stl", "--run=estimator=stl matches 6 runs in "),
        ("estimator=stl", "...: learning_rate is 0.001, 0.01; seed is 0, 1, 2"),
        ("estimator=stl,seed=1", "--run=estimator=stl,seed=1 matches 2 runs in "),
        ("seed=7", "--run=seed=7 matches none of the 12 runs in "),
        ("seed=7", "; estimator is reparam, stl; learning_rate is 0.001, 0.01; seed is 0, 1, 2"),
        ("speed=1", "there is no setting speed (did you mean seed?); the settings are dataset, "),
        ("seed", "'seed' is not NAME=VALUE"),
        ("seed=1,", "'' is not NAME=VALUE"),
        ("seed=0,1", "--run=seed=0,1: '1' is not NAME=VALUE; give each setting one value, such as --run=seed=1"),
        ("seed=0,seed=1", "--run=seed=0,seed=1: seed is given twice; give each setting one value, such as --run="),
        ("seed=one", "--run=seed=one: seed=one: 'one' is not an integer"),
        ("seed=-1", "--run=seed=-1: seed=-1: -1 is below 0"),
        ("estimator=slt", "did you mean stl"),
    ],
)
def test_what_does_not_choose_one_run_is_one_sentence(text, sentence, sweep):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        run_selection.choose_one(sweep, text)
    assert "\n" not in str(refused.value)


def test_a_workdir_without_runs_is_one_sentence(tmp_path):
    for workdir, reason in ((tmp_path, r"holds no run \(no runs.json\)"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(ValueError, match=f"{reason}; give the folder of a trained run"):
            run_selection.choose(workdir, None)


def test_a_sentence_names_at_most_eight_values_of_a_setting(tmp_path):
    write_sweep(tmp_path, [({"seed": seed}, 0.0) for seed in range(9)], finished=False)
    with pytest.raises(ValueError, match=r"seed is 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.$"):
        run_selection.choose_one(tmp_path, None)


def test_equal_runs_in_two_programs_are_not_told_apart(tmp_path):
    """Somebody copied a program."""
    for name in ("a", "b"):
        write_run(tmp_path / "programs" / name, Settings())
    with pytest.raises(ValueError, match="holds 2 runs; choose one by .*: all runs have the same settings$"):
        run_selection.choose_one(tmp_path, None)
