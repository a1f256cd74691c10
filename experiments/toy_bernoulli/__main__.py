"""The toy problems of discrete estimators, trained with each of them: exact loss, and variance of the gradient.

    python -m experiments.toy_bernoulli                        # one coin, E (b - t)^2, t = 0.45, 0.49, 0.499
    python -m experiments.toy_bernoulli --toy=categorical      # three bits as one variable of eight classes
    python -m experiments.toy_bernoulli --toy=table            # the ELBO of six bits that depend on each other
    python -m experiments.toy_bernoulli --toy=polynomial --steps=1000 --records=41 --estimators=reinmax,leave_one_out

The last, 128 coins at powers 1.5, 2 and 3, takes hours by default, with every estimator and 5000 steps, and 20 minutes
with the eight of `scripts/reproduce_toys.sh` and 1000. The others take two minutes, and some more for the compiler.

Every estimator, seed and point of a toy runs in one compiled program. The loss is the exact expectation at the
parameters reached; the variance, its trace, is over fresh draws there with the estimator's own parameters frozen.
Estimators get the same --num_samples, or the least that they can work with. What they evaluate besides (relaxed and
conditional samples) is not charged here; `experiments.compare_estimators --problem=coins --budget=evaluations:N` does.

Writes curves.csv, results.csv, results.md, config.json and figures/toy.png (and .pdf) into --output; and into
kept/ what was trained, so that the same command with the same code does not train it again.
"""

from absl import flags

from experiments.common import cli

# The points of each, made by problems.py, which is jax's and not for --help.
TOYS = {
    "bernoulli": lambda problems, batch: [problems.coins(t, batch_size=batch or 1) for t in (0.45, 0.49, 0.499)],
    "polynomial": lambda problems, batch: [
        problems.coins(0.45, p, dimensions=128, batch_size=batch or 64) for p in (1.5, 2, 3)
    ],
    "categorical": lambda problems, batch: [problems.three_bits(batch or 1)],
    "table": lambda problems, batch: [problems.table(batch_size=batch or 1)],
}
# Flags that memory grows with, the likeliest first.
HUNGRY = ("batch_size", "num_samples", "draws", "seeds")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_enum("toy", "bernoulli", list(TOYS), "which one", flag_values=values)
    flags.DEFINE_list("estimators", None, "names, comma-separated; all that fit by default", flag_values=values)
    flags.DEFINE_integer("num_samples", 2, "K, or the least of an estimator", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("batch_size", None, "independent repetitions in a step", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", 5000, "of Adam; 1000 do for polynomial", lower_bound=2, flag_values=values)
    flags.DEFINE_integer(
        "records", 101, "points of a curve, first and last step included", lower_bound=2, flag_values=values
    )
    flags.DEFINE_integer("seeds", 5, "runs of each estimator, from seed 0 on", lower_bound=1, flag_values=values)
    flags.DEFINE_float("learning_rate", 0.01, "of Adam", lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer(
        "draws",
        None,
        "gradients behind each variance; 256 by default, 16 for the thousands of coins of polynomial",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "folder of the results; by default results/toy-NAME", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    from experiments.toy_bernoulli import toys  # jax and what is built on it are not for --help

    toys.train_all(options)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, hungry=HUNGRY)
