"""The numbers of draws, the truth and the cost by which estimators are judged."""

from experiments.common import candidates, grammar, measuring
from experiments.common.measuring import Protocol
from experiments.common.task import Task
from experiments.compare_estimators.flags import Options
from vae.estimators import BY_NAME


def choose_protocol(options: Options, task: Task) -> Protocol:
    """The protocol that the flags describe.

    Raises:
      ValueError: if the numbers of draws cannot be cut into chunks, or the reference does not fit.
    """
    draws = options.draws or (1000 if options.workdir else 10_000)
    chunks = measuring.number_of_chunks(draws, most=10 if measuring.is_large(task) else 50)
    reference_draws = options.reference_draws or 10 * draws
    if reference_draws % chunks or reference_draws < 2 * chunks:
        raise ValueError(
            f"--reference_draws={reference_draws} must be a multiple of {chunks}, and {2 * chunks} or more"
        )
    return Protocol(
        draws=draws,
        reference_draws=reference_draws,
        reference=choose_reference(options, task),
        chunks=chunks,
        replicates=options.replicates,
        cv_steps=options.cv_steps,
        seed=options.seed,
        confidence=options.confidence,
        rounds=options.rounds,
        judge_by=choose_cost(options, task),
    )


def choose_cost(options: Options, task: Task) -> str:
    """The cost that decides which estimator is better.

    Raises:
      ValueError: if --judge_by or --budget takes FLOP, and f calls the host.
    """
    calls = task.host_calls.names
    if not calls:
        return options.judge_by or "flops"
    for flag, text in (("judge_by", options.judge_by), ("budget", options.budget)):
        if text and text.partition(":")[0] == "flops":
            others = "evaluations:N" if flag == "budget" else "evaluations or seconds"
            raise ValueError(f"--{flag}={text}: f calls the host ({calls[0]}), whose FLOP nobody counts; take {others}")
    return options.judge_by or "evaluations"


def choose_reference(options: Options, task: Task) -> str:
    """The estimator whose mean is the truth where no exact gradient exists.

    Raises:
      ValueError: if --reference does not fit or is biased.
    """
    is_biased = lambda name: BY_NAME.find(grammar.parse(name).name).biased
    fitting = candidates.choose(task)
    if options.reference is None:
        return "reparam" if "reparam" in fitting else "leave_one_out"
    [name] = candidates.choose(task, [options.reference], flag="reference")
    if is_biased(name):
        unbiased = ", ".join(other for other in fitting if not is_biased(other))
        raise ValueError(f"--reference={name} is biased, so its mean is not the truth; choose one of {unbiased}")
    return name
