"""The commands in the section "How to repeat it" make the same runs."""

import dataclasses
import shlex

from absl import flags

from experiments.common import setting_flags, workdirs
from experiments.common.charts.along_training import Column
from experiments.common.settings import Settings
from experiments.report import reproduce
from experiments.train import flags as train_flags
from tests.helpers.written_workdirs import write_sweep


def test_the_commands_have_the_settings_of_the_runs(tmp_path):
    """All combinations of some values have one command; other sets of runs have several."""
    grid = [Settings(seed=s, data_mean=p, hidden=h) for s in (0, 1) for p in (False, True) for h in ((), (8, 4))]
    for wanted, number in ((grid, 1), (grid[:3], 2)):
        folder = tmp_path / str(number)
        write_sweep(folder, [(dataclasses.asdict(one), 0.0) for one in wanted], finished=False)
        lines = reproduce.commands(workdirs.read([folder]).runs)
        assert len(lines) == number
        repeated = [run for line in lines for run in _runs(line.split()[2:])]
        assert set(repeated) == set(wanted)


def test_the_command_repeats_the_evaluations_and_measurements(tmp_path):
    """--eval_every=5 and --measure_gradient=2: every second of the rows has figures of the gradient."""
    run = Settings(epochs=20, estimator="stl")
    write_sweep(tmp_path, [(dataclasses.asdict(run), 0.0)])
    [read] = workdirs.read([tmp_path]).runs
    rows = [{"epoch": epoch} for epoch in (5, 10, 15, 20)]
    for row in rows[1::2]:
        names = [Column(estimator, "encoder", "bias").name for estimator in ("stl", "reparam", "relax:scale=2")]
        row |= dict.fromkeys(names, 0.1) | {"measure_draws": 50}
    [line] = reproduce.commands([read._replace(rows=rows)])
    others = "--measure_estimators=reparam,relax:scale=2"
    measured = ["--eval_every=5", "--measure_gradient=2", "--measure_draws=50", others]
    assert line.split()[3:] == ["--estimator=stl", "--epochs=20", *measured]
    # Continued with the flag after the second evaluation, by code that did not record the number of draws.
    figures = dict.fromkeys(names, 0.1)
    late = [{"epoch": 5 * number} | (figures if number in (4, 6, 8, 9) else {}) for number in range(1, 10)]
    [line] = reproduce.commands([read._replace(rows=late)])
    assert line.split()[5:] == ["--eval_every=5", "--measure_gradient=2", others]
    # A run of the same program that diverged before its first evaluation.
    diverged = read._replace(settings=dataclasses.replace(run, seed=1), rows=[])
    [line] = reproduce.commands([diverged, read._replace(rows=rows)])
    assert line.split()[3:] == ["--estimator=stl", "--epochs=20", "--seed=1,0", *measured]
    [line] = reproduce.commands([read._replace(rows=[{"epoch": epoch} for epoch in range(1, 21)])])
    assert line.split()[3:] == ["--estimator=stl", "--epochs=20"]


def test_runs_that_two_workdirs_share_are_trained_in_each(tmp_path):
    swept = {"one": [(1e-3, 0), (3e-4, 0)], "a second": [(1e-3, 0), (1e-2, 0)], "no grid": [(1e-3, 0), (1e-2, 1)]}
    for name, chosen in swept.items():
        write_sweep(tmp_path / name, [({"learning_rate": rate, "seed": seed}, 0.0) for rate, seed in chosen])
    runs = workdirs.read([tmp_path / name for name in swept]).runs
    trained = {}
    for line in reproduce.commands(runs):
        *words, workdir = shlex.split(line)
        trained[workdir.removeprefix(f"--workdir={tmp_path}/")] = [
            (run.learning_rate, run.seed) for run in _runs(words[2:])
        ]
    no_grid = swept.pop("no grid")
    assert trained == swept | {"no grid-1": no_grid[:1], "no grid-2": no_grid[1:]}


def _runs(words: list[str]) -> list[Settings]:
    """The runs that `experiments.train` trains with these words of a command line."""
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    train_flags.define_flags(values)
    values(words)
    return setting_flags.from_flags(values)
