"""The reparameterization trick in one picture: where the gradient of a one-datum VAE stops, and where it flows.

    python -m experiments.gradient_flow --output=results/gradient_flow     # 20 s on a CPU

Two versions of one loss, -log p(x|z) + KL(q(z|x) || p(z)), are traced to their jaxprs: z from `q.sample` (without the
trick) and from `q.rsample` (with it). Each jaxpr is contracted to the graph over its named quantities, and each edge of
that graph gets a zero of its own, added to the value that flows along it: the derivative of the loss in that zero is
the gradient that comes back along that edge. The same with the KL's edge into the loss cut tells what comes from the
reconstruction. So every colour and number is measured; another sampler gives another picture.

Writes OUTPUT/gradient_flow.png, .pdf, and .json with the nodes' values and the edges' gradients.
"""

from absl import flags

from experiments.common import cli


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output",
        "results/gradient_flow",
        "folder of gradient_flow.png, .pdf and .json, made if absent",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", 8, "seed of the weights and of eps", lower_bound=0, upper_bound=2**31 - 1, flag_values=values
    )


def main() -> None:
    from experiments.gradient_flow import graph as gradient_graph  # jax and what is built on it are not for --help

    gradient_graph.run(flags.FLAGS.output, flags.FLAGS.seed)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
