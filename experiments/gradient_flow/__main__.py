"""Draws the reparameterization trick in one picture: where the gradient of a VAE's loss stops, and where it flows.

    python -m experiments.gradient_flow --output=results/gradient_flow     # 20 s on a CPU

The command measures the loss -log p(x|z) + KL(q(z|x) || p(z)) twice: with z from `q.sample`, without the trick, and
with z from `q.rsample`, with the trick. Every colour and number of the picture is a derivative that was measured on the
real program (graph.py), so another sampler gives another picture.

The command writes gradient_flow.png, .pdf and .json into --output. The JSON file has the values of the nodes and the
gradients along the edges.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from experiments.common import cli, files
from experiments.gradient_flow.graph import Graph, edge_norms, measure
from vae import data, models

SAMPLERS = {
    "without the trick": lambda q, key: q.sample(key, 1),
    "with the trick": lambda q, key: q.rsample(key, 1),
}


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output",
        "results/gradient_flow",
        "Folder of gradient_flow.png, .pdf and .json.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 8, "Seed of the weights and of eps.", lower_bound=0, flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    with cli.one_sentence():
        files.check_writable(options.output, "output")

    # One digit, and a small VAE with one latent dimension
    digits = data.load("digits")
    x = jnp.asarray(data.pixels(digits.test[:1], digits.levels))
    model = models.make_vae(x.shape[1:], latent_dim=1, hidden=(16,), activation="tanh")
    key_params, key_z = jax.random.split(jax.random.key(options.seed))
    params = jax.jit(model.init)(key_params, x, key_z)

    graphs = {name: measure(model, params, x, key_z, sampler) for name, sampler in SAMPLERS.items()}

    path = Path(options.output) / "gradient_flow"
    with cli.one_sentence(OSError):
        picture = _write(path, graphs, options.seed)
    for name, graph in graphs.items():
        into_z = {edge.source: edge.reconstruction_gradient_norm for edge in edge_norms(graph) if edge.target == "z"}
        mu, log_var = into_z["mu"], into_z["log_var"]
        print(f"{name}: |d log p(x|z) / d mu| = {mu:.3g}, |d log p(x|z) / d log_var| = {log_var:.3g}")
    print(f"open {picture}")


def _write(path: Path, graphs: dict[str, Graph], seed: int) -> Path:
    """Writes the picture and the numbers, and returns the path of the PNG file."""
    from experiments.common import plots
    from experiments.gradient_flow import picture

    png, _ = plots.save(picture.draw(graphs), path)
    panels = {}
    for name, graph in graphs.items():
        values = {node: value.item() for node, value in graph.values.items() if value.size == 1}
        panels[name] = {"values": values, "edges": [edge._asdict() for edge in edge_norms(graph)]}
    files.write_json(path.with_suffix(".json"), {"seed": seed, "panels": panels})
    return png


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
