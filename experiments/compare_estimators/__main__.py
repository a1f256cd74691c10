"""The laboratory: which gradient estimator is better here, by how much, and for what cost.

    python -m experiments.compare_estimators --problem=quadratic                        # every estimator that fits
    python -m experiments.compare_estimators --problem=cosine --cost_parameter=0.5,1,2,4 --estimators=reparam,reinforce
    python -m experiments.compare_estimators --problem=rainforth --objective=iwae --num_samples=4,16,64,256
    python -m experiments.compare_estimators --problem=logistic_regression --budget=evaluations:16
    python -m experiments.compare_estimators --workdir=results/quickstart                # a trained run, at its end
    python -m experiments.compare_estimators --problem=mine:problem                     # see experiments/problems.py

With parameters and data fixed, every estimator draws --draws gradients from the same keys. Groups of parameters
(encoder and decoder, or phi and theta) are judged apart. `vae/diagnostics.py` defines the figures. The truth is an
oracle where there is one; elsewhere it is the mean of many gradients of --reference, whose own error is counted.

An estimator is called biased if its largest |z| over the group's coordinates is beyond what chance allows (0.01 %, by
Bonferroni) and the whole deviation is twice as long as chance makes it, or if its bias along the truth has a z of 5.
Two estimators are called different only if the bootstrap interval of the ratio of their variance x FLOP excludes 1.
Intervals are of each pair alone.

Writes into --output: results.csv (a row for each estimator and K), layers.csv, pairs.csv, results.md, results.tex,
config.json and figures/; and, as they are found, into kept/ the figures of each estimator, from which the same command
goes on, and one with more estimators and the same --output. In the tables * marks estimators that their papers call
biased.
"""

from absl import flags

from experiments.common import cli, settings

# The problems, each a function of problems.py, and the flag that it takes as an argument.
PROBLEMS = {
    "quadratic": "cost_parameter",
    "exponential": "cost_parameter",
    "cosine": "cost_parameter",
    "coins": "batch_size",
    "three_bits": "batch_size",
    "table": "batch_size",
    "logistic_regression": None,
    "linear_gaussian": "batch_size",
    "rainforth": "batch_size",
}
# Flags that memory grows with, the likeliest first.
HUNGRY = ("num_samples", "batch_size")


def define_flags(values: flags.FlagValues) -> None:
    """The laboratory's flags; not at import, where they would meet those of other entry points."""
    flags.DEFINE_string(
        "problem",
        None,
        f"one of {', '.join(PROBLEMS)}, or your own module:function (quadratic if nothing is given)",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of a trained run (of a sweep, of one in its runs/), in place of --problem; it is read, not written",
        flag_values=values,
    )
    flags.DEFINE_string(
        "checkpoint",
        "latest",
        "of --workdir: latest, best (by the validation bound), the number of an epoch, or all that were kept",
        flag_values=values,
    )
    flags.DEFINE_list("estimators", None, "names, comma-separated; all that fit by default", flag_values=values)
    flags.DEFINE_string(
        "objective",
        None,
        f"the bound: one of the problem's, which names them, or with --workdir {', '.join(settings.OBJECTIVES)}; by"
        " default the problem's first, or the run's own",
        flag_values=values,
    )
    flags.DEFINE_list(
        "num_samples",
        None,
        "K, a list is swept; by default the run's own with --workdir, else 1. An estimator that needs more gets the"
        " least that it can work with, or is left out where that is another bound",
        flag_values=values,
    )
    flags.DEFINE_string(
        "budget",
        None,
        "in place of --num_samples: K is what is bought by evaluations:N (of f, for each datum) or flops:N (of the"
        " whole batch's gradient)",
        flag_values=values,
    )
    flags.DEFINE_list(
        "cost_parameter", None, "k of quadratic, exponential and cosine; a list is swept", flag_values=values
    )
    flags.DEFINE_integer(
        "draws",
        None,
        "R, gradients of each estimator; 10000 by default, 1000 for --workdir",
        lower_bound=20,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "reference_draws",
        None,
        "gradients behind the reference where there is no oracle; 10 x --draws by default",
        flag_values=values,
    )
    flags.DEFINE_string(
        "reference",
        None,
        "estimator whose mean is the truth where there is no oracle; reparam by default, and leave_one_out where there"
        " is no reparameterization",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "data in the batch; by default the problem's or the run's own",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "temperature",
        0.0,
        "of the estimators that have one; 0 for the run's with --workdir, or the estimator's own",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "images for --workdir", flag_values=values)
    flags.DEFINE_integer(
        "cv_steps",
        200,
        "Adam steps for what an estimator learns or counts, before it is frozen; with --workdir the run's own estimator"
        " goes on from what it had learned",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float("confidence", 0.95, "of every interval", lower_bound=0.5, upper_bound=0.999, flag_values=values)
    flags.DEFINE_integer("replicates", 2000, "of the bootstrap", lower_bound=100, flag_values=values)
    flags.DEFINE_integer("rounds", 9, "of timing, interleaved between estimators", lower_bound=3, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of all draws", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "output", None, "folder of the results; by default results/ and a name made from the flags", flag_values=values
    )
    flags.DEFINE_string("data_dir", None, "folder of prepared data for --workdir, as in training", flag_values=values)
    flags.DEFINE_string("cache_dir", None, "folder of decoded data for --workdir, as in training", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    from experiments.compare_estimators import comparison  # jax and what is built on it are not for --help

    comparison.compare(options)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=True, hungry=HUNGRY)
