"""How fast training and the laboratory are, side by side in one process, as ratios, which hold on a shared machine too.

    python -m experiments.benchmark                              # everything, about half an hour on two CPU cores
    python -m experiments.benchmark --sections=flops --output=results/benchmark

epoch       a 784-500-20 VAE trained over whole epochs of 60000 synthetic binary images: this project (make_epoch, flax,
            optax, the estimator table) against the same training written by hand in plain JAX (one lax.scan), the
            time that the step's matrix products alone would take at the speed of a 2048^3 product, and numpyro (SVI in
            a fori_loop) and torch.compile where they are installed
sweep       so many runs in one program, side by side (vmap) or one after the other (map), against the same runs each on
            its own: the digits' and MNIST's networks at both batch sizes, and a 784-200-200-50 IWAE, K = 50, batch 20
flops       FLOP of sticking the landing and DReG against the plain pathwise gradient, as XLA counts them
laboratory  the same net, batch 128: --draws gradients with their moments, figures and bootstrap against as many bare
            gradients, for each estimator, and the process's largest memory
toys        a million draws of a Gaussian's quadratic cost in the laboratory, for each estimator
discrete    a training step of a 784-200 Bernoulli VAE with each estimator against leave_one_out, at equal numbers of
            evaluations of the bound

Writes benchmark.json and benchmark.md. Times are wall-clock, of contenders that take turns --rounds times; each ratio
is the median over rounds of a round's ratio.
"""

from absl import flags

from experiments.common import cli

SECTIONS = ("epoch", "sweep", "flops", "laboratory", "toys", "discrete")
# Flags that memory grows with, the likeliest first.
HUNGRY = ("batch_sizes", "runs", "images")


def define_flags(values: flags.FlagValues) -> None:
    """The benchmark's flags; not at import, where they would meet those of other entry points."""
    flags.DEFINE_list("sections", list(SECTIONS), f"of {', '.join(SECTIONS)}", flag_values=values)
    flags.DEFINE_list(
        "batch_sizes", ["128", "512"], "images in a step, for the sections epoch and sweep", flag_values=values
    )
    flags.DEFINE_list("runs", ["1", "8", "32", "128"], "runs in a program, for the section sweep", flag_values=values)
    flags.DEFINE_integer("rounds", 7, "times that every contender runs, in turn", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("images", 60000, "training images in an epoch", lower_bound=512, flag_values=values)
    flags.DEFINE_integer("draws", 1000, "R of the section laboratory", lower_bound=20, flag_values=values)
    flags.DEFINE_integer("evaluations", 4, "a gradient, for the section discrete", lower_bound=2, flag_values=values)
    flags.DEFINE_string("output", "results/benchmark", "folder of the report", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    from experiments.benchmark import speed  # jax and what is built on it are not for --help

    speed.measure(options)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, hungry=HUNGRY)
