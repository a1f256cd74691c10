"""The flags of `python -m experiments.compare_estimators`."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

from absl import flags

from experiments.common import problems, setting_flags
from experiments.common.charts import gradients
from experiments.compare_estimators import user_problem

# The value of --problem that stands for every problem.
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the flags that `define_flags` defines. The help texts of the flags say what the values mean."""

    problem: list[str] | None
    workdir: str | None
    run: str | None
    checkpoint: str
    estimators: list[str] | None
    objective: str | None
    num_samples: tuple[int, ...]
    budget: str | None
    judge_by: str | None
    columns: list[str] | None
    draws: int | None
    reference_draws: int | None
    reference: str | None
    batch_size: int | None
    split: str
    cv_steps: int
    confidence: float
    replicates: int
    rounds: int
    seed: int
    output: str | None
    data_dir: str | None
    cache_dir: str | None

    @property
    def folder(self) -> Path:
        """The folder of the results. Its default depends on the flags, so the same command gets the same folder."""
        if self.output:
            return Path(self.output)
        values = dataclasses.asdict(self)
        texts = [f"{name}={values[name]}" for name in sorted(values) if name != "output"]
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]
        name = Path(self.workdir).name if self.workdir else (self.problem or ["quadratic"])[0].replace(":", "-")
        return Path("results") / f"compare-{name}-{digest}"

    @property
    def is_matrix(self) -> bool:
        """Whether every problem is measured."""
        return self.problem == [ALL]

    @property
    def users_problem(self) -> str | None:
        """The user's own problem, module:function, if --problem names one."""
        return self.problem[0] if self.problem and user_problem.is_users(self.problem[0]) else None


def define_flags(values: flags.FlagValues) -> None:
    """Defines one flag for each field of `Options`."""
    string = lambda name, help, default=None: flags.DEFINE_string(name, default, help, flag_values=values)
    strings = lambda name, help: flags.DEFINE_list(name, None, help, flag_values=values)
    enum = lambda name, default, choices, help: flags.DEFINE_enum(name, default, choices, help, flag_values=values)
    integer = lambda name, default, help, lower=None: flags.DEFINE_integer(
        name, default, help, lower_bound=lower, flag_values=values
    )

    strings(
        "problem",
        f"Problem, with options as name:option=value: one of {', '.join(problems.BY_NAME)}; or your own"
        " module:function. A list of the same problem with different values of one option is a sweep. all measures"
        " every problem and draws the matrix of estimators and problems. The default is quadratic.",
    )
    string("workdir", "Folder of a trained run or of a sweep, used in place of --problem. Nothing is written into it.")
    string("run", "Settings of the run to choose from a sweep, as in evaluate.")
    string(
        "checkpoint",
        "Checkpoint of --workdir: latest, best (by the validation bound), the number of an epoch, or all.",
        default="latest",
    )
    strings(
        "estimators",
        "Estimators, comma-separated, with options as name:option=value. The default is every estimator that fits.",
    )
    string(
        "objective",
        "Bound: one of the problem's bounds, or with --workdir any objective of experiments.train, with options as in"
        " renyi:alpha=0.5. The default is the problem's first bound, or the run's own.",
    )
    num_samples = (
        "Numbers of samples K, comma-separated; each K is measured. The default is the run's own K with --workdir, and"
        " otherwise 1. An estimator that needs more samples gets the smallest number that it works with, or is left out"
        " if that number would change the bound."
    )
    setting_flags.define_list("num_samples", "num_samples", num_samples, values, __name__)
    string(
        "budget",
        "Largest cost of one gradient, used in place of --num_samples: evaluations:N (of f, for each datum) or flops:N"
        " (for the whole batch). Each estimator gets the largest K within the budget.",
    )
    enum(
        "judge_by",
        None,
        list(gradients.COSTS),
        "Cost that is multiplied with the variance to say which estimator is better. The default is flops, or"
        " evaluations if f calls the host.",
    )
    strings(
        "columns",
        "Columns of the tables in results.md and results.tex, comma-separated, such as estimator,variance,verdict. The"
        " default is all columns in results.md, and those that fit on a page in results.tex.",
    )
    integer("draws", None, "Number of gradients of each estimator. The default is 10000, and 1000 with --workdir.", 20)
    integer(
        "reference_draws",
        None,
        "Number of gradients that the reference averages, if there is no exact gradient. The default is 10 x --draws.",
    )
    string(
        "reference",
        "Estimator whose mean is the truth, if there is no exact gradient. The default is reparam, and leave_one_out"
        " for latents that cannot be reparameterized.",
    )
    integer("batch_size", None, "Number of images for --workdir. The default is the run's own batch size.", 1)
    enum("split", "test", ["train", "validation", "test"], "Split of the images for --workdir.")
    integer(
        "cv_steps",
        200,
        "Number of Adam steps in which an estimator learns its own parameters and updates its state, before both are"
        " frozen. With --workdir and the run's own objective, the run's estimator starts from the checkpoint.",
        0,
    )
    flags.DEFINE_float(
        "confidence",
        0.95,
        "Level of every interval, and of all comparisons in a table together (familywise).",
        lower_bound=0.5,
        upper_bound=0.999,
        flag_values=values,
    )
    integer("replicates", 2000, "Number of bootstrap replicates.", 100)
    integer("rounds", 9, "Number of rounds of timing, in which the estimators take turns.", 3)
    integer("seed", 0, "Seed of all draws.", 0)
    string("output", "Folder of the results. The default is a folder in results/ with a name made from the flags.")
    string("data_dir", "Folder of prepared data for --workdir, as in training.")
    string("cache_dir", "Folder of decoded data for --workdir, as in training.")


def from_flags(values: flags.FlagValues) -> Options:
    """The options on the command line.

    Raises:
      ValueError: If flags are empty or do not go together; the message says what to do.
    """
    options = Options(**{field.name: values[field.name].value for field in dataclasses.fields(Options)})
    if options.workdir and options.problem:
        raise ValueError("--workdir and --problem name two problems; give one of them")
    for flag in ("run", "checkpoint", "split", "data_dir", "cache_dir"):
        if values[flag].present and not options.workdir:
            raise ValueError(f"--{flag} is about a run of --workdir; add --workdir, or leave out --{flag}")
    for flag in ("problem", "estimators"):
        if values[flag].value == []:
            raise ValueError(f"--{flag} is empty; leave it out for its default")
    if options.batch_size is not None and not options.workdir:
        raise ValueError(
            "--batch_size needs --workdir; give a problem its batch size as an option, such as"
            f" --problem=coins:batch_size={options.batch_size}"
        )
    problem = options.problem or []
    if ALL in problem:
        _check_matrix(options)
    if len(problem) > 1 and any(map(user_problem.is_users, problem)):
        raise ValueError("--problem takes one module:function; measure your problems one after the other")
    if math.isnan(options.confidence):
        raise ValueError("--confidence must be a number from 0.5 to 0.999")
    return options


def _check_matrix(options: Options) -> None:
    """Refuses flags that --problem=all cannot have.

    Raises:
      ValueError: If there is one.
    """
    if len(options.problem) > 1:
        raise ValueError(f"--problem={','.join(options.problem)}: all is every problem; leave out the others")
    if options.objective is not None:
        raise ValueError("--problem=all measures the first bound of each problem; leave out --objective")
    if len(options.num_samples) > 1:
        raise ValueError("--problem=all measures one K; give --num_samples one number")
