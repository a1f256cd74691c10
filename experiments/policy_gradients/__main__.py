"""Measures which gradient each loss of a language model has: its bias, variance and cost, against exact gradients.

    python -m experiments.policy_gradients                                       # every loss; two minutes
    python -m experiments.policy_gradients --estimators=k2_sequence,k3_sequence  # some of them
    python -m experiments.policy_gradients --group=8 --lag=0.5                   # groups of eight, an older policy
    python -m experiments.policy_gradients --estimators=k3_token,mine:entry      # a loss of yours, see README.md

A policy writes three tokens of four symbols. That makes 64 sequences, so the gradients of KL(pi, ref), KL(ref, pi),
E[R] and E[R] - beta KL(pi, ref) are sums, and so is the mean of the gradient of every loss. The command says which
gradient each loss has, whether this is the claimed one, and how large its variance is.

The command writes results.csv, results.md, results.tex, config.json and figures/policy_gradients.png (and .pdf) into
--output.
"""

import math
import time
from pathlib import Path

import jax
from absl import flags

from experiments.common import cli, files, grammar, packages, provenance
from experiments.policy_gradients import losses, output
from experiments.policy_gradients.measure import CHUNKS, make_rows
from experiments.policy_gradients.policy import known_gradients, make_setting

# Flags that only some losses depend on, with a function that says whether a loss does.
DEPENDS = {
    "group": lambda entry: entry.in_groups,
    "beta": lambda entry: "beta" in entry.claims,
    "clip": lambda entry: entry.clipped,
    "lag": lambda entry: entry.off_policy,
    "distance": lambda entry: "ref" in entry.claims,
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags in `values`."""
    flags.DEFINE_list(
        "estimators",
        None,
        "Losses to measure, comma-separated. MODULE:FUNCTION is one of your own. The default is every loss.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "group",
        4,
        "Number K of sequences of a loss that needs several. The exact mean is computed for K up to 4.",
        lower_bound=2,
        upper_bound=1024,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "draws", 20_000, "Number of gradients of each loss.", lower_bound=2 * CHUNKS, flag_values=values
    )
    flags.DEFINE_float("beta", 0.2, "Weight of the penalty in E[R] - beta KL(pi, ref), above 0.", flag_values=values)
    flags.DEFINE_float(
        "clip", 0.2, "Largest distance of a clipped importance ratio from 1, above 0.", flag_values=values
    )
    flags.DEFINE_float(
        "distance",
        0.5,
        "Standard deviation of the difference between the logits of the policy and of the reference, above 0.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "lag",
        0.15,
        "Standard deviation of the difference between the logits of the policy and of the older policy, above 0.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the policies and of the draws.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("output", "results/policy_gradients", "Folder of the results.", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    """Measures, and writes the table and the figure. Bad input ends with one sentence and exit status 1."""
    started = time.perf_counter()
    with cli.one_sentence():
        check_flags(options)
        folder = Path(options.output)
        files.check_writable(folder, "output")
        setting = make_setting(options.seed, options.distance, options.lag, options.beta)
        known = known_gradients(setting)
        entries = choose_losses(options, tuple(known))
        check_flags_of_losses(options, entries)

    with jax.default_matmul_precision("float32"):  # the draws are compared with gradients in float64
        rows = make_rows(setting, entries, known, options.group, options.draws, options.seed)
        seconds = time.perf_counter() - started
        config = provenance.describe_measurement(cli.given(define_flags, options), seconds)

    with cli.one_sentence(OSError):
        output.write(folder, rows, options.draws)
        files.write_json(folder / "config.json", config)


def check_flags(options: flags.FlagValues) -> None:
    """Checks the values of the flags.

    Raises:
      ValueError: If a flag has a bad value.
    """
    for name in ("beta", "clip", "distance", "lag"):
        if not 0 < options[name].value < math.inf:
            raise ValueError(f"--{name}={options[name].value} is not a number above 0")
    if options.draws % CHUNKS:
        raise ValueError(f"--draws={options.draws} must be a multiple of {CHUNKS}")


def choose_losses(options: flags.FlagValues, claims: tuple[str, ...]) -> dict[str, losses.Entry]:
    """The losses that --estimators names, in this order; all of the table if it is not given.

    Raises:
      ValueError: If a name is unknown, or a function does not return an `Entry` with one of these claims.
    """
    table = losses.make_table(options.beta, options.clip)
    if options.estimators is None:
        return table
    if not options.estimators:
        raise ValueError("--estimators is empty; leave it out for every loss")
    grammar.check_list(options.estimators, "estimators")
    chosen = {}
    for name in options.estimators:
        if name not in table and ":" not in name:
            raise ValueError(f"--estimators={name}: there is no such loss; choose some of {', '.join(table)}")
        chosen[name] = table[name] if name in table else _load(name, claims)
    return chosen


def check_flags_of_losses(options: flags.FlagValues, entries: dict[str, losses.Entry]) -> None:
    """Refuses a flag on the command line that changes none of the losses.

    Raises:
      ValueError: If there is one; the sentence names losses that depend on the flag.
    """
    for flag, depends in DEPENDS.items():
        if options[flag].present and not any(map(depends, entries.values())):
            others = ", ".join(name for name, entry in losses.make_table().items() if depends(entry))
            raise ValueError(
                f"--{flag} changes none of the losses in --estimators; leave it out, or add one of {others}"
            )


def _load(name: str, claims: tuple[str, ...]) -> losses.Entry:
    """The loss that the function MODULE:FUNCTION returns."""
    entry = packages.load_function(name, "estimators")()
    if not isinstance(entry, losses.Entry):
        raise ValueError(f"--estimators={name}: the function must return experiments.policy_gradients.losses.Entry")
    if entry.claims not in claims:
        raise ValueError(f"--estimators={name}: claims={entry.claims!r} must be one of {'; '.join(claims)}")
    return entry


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
