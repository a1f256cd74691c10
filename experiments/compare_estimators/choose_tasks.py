"""The tasks that the flags name: one problem, or one problem at several values of an option or several checkpoints."""

import jax

from experiments.common import grammar, problems
from experiments.common.problems import Problem
from experiments.common.task import Task
from experiments.compare_estimators.flags import Options
from experiments.compare_estimators.trained_problem import from_workdir


def choose_tasks(options: Options, users: Problem | None = None) -> list[Task]:
    """The tasks to measure. They differ only in parameters and data, so they share compiled programs.

    Args:
      options: the values of the flags.
      users: the problem that the user's own function returned, if --problem names one.

    Raises:
      ValueError: if the flags do not fit together.
    """
    points = from_workdir(options) if options.workdir else _named(options, users)
    first = next(iter(points[0].bounds))
    objective = first if options.workdir else options.objective or first  # `from_workdir` has applied --objective
    if objective not in points[0].bounds:
        able = ", ".join(points[0].bounds)
        raise ValueError(f"--objective={objective} is not an objective of {points[0].name}; choose one of {able}")
    return [Task(problem, objective) for problem in points]


def _named(options: Options, users: Problem | None) -> list[Problem]:
    if options.users_problem:
        return [users]
    return _sweep([_choose(text) for text in options.problem or ["quadratic"]])


def _choose(text: str) -> grammar.Choice:
    try:
        return grammar.choose(text, problems.BY_NAME)
    except ValueError as error:
        own = "" if text.partition(":")[0] in problems.BY_NAME else "; or give your own module:function"
        raise ValueError(f"--problem={text}: {error}{own}") from None


def _sweep(choices: list[grammar.Choice]) -> list[Problem]:
    """The problems in the order of the option that is swept.

    Raises:
      ValueError: if the choices differ in more than one option, or in the sizes of parameters or data.
    """
    if len({choice.name for choice in choices}) > 1:
        raise ValueError("--problem sweeps the options of one problem; measure different problems one after the other")
    # The options by the text of each problem.
    settings = {str(choice): grammar.values(choice, problems.BY_NAME) for choice in choices}
    names = next(iter(settings.values()))
    swept = [name for name in names if len({setting[name] for setting in settings.values()}) > 1]
    if len(swept) > 1:
        raise ValueError(f"--problem sweeps one option at a time, not {' and '.join(swept)}")
    if not swept:
        return [problems.make(str(choices[0]))]
    [option] = swept
    points = [
        problems.make(text)._replace(point={option: settings[text][option]})
        for text in sorted(settings, key=lambda text: settings[text][option])
    ]
    shapes = {str(jax.tree.map(jax.numpy.shape, (point.params, point.data))) for point in points}
    if len(shapes) > 1:
        raise ValueError(
            f"--problem cannot sweep {option}, which changes the sizes of arrays; measure one value at a time"
        )
    return points
