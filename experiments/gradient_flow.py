"""The reparameterization trick in one picture: where the gradient of a one-datum VAE stops, and where it flows.

    python -m experiments.gradient_flow --output=results/gradient_flow     # seconds on a CPU

Two versions of one loss, -log p(x|z) + KL(q(z|x) || p(z)), are traced to their jaxprs: z from `q.sample` (without the
trick) and from `q.rsample` (with it). Each jaxpr is contracted to the graph over its named quantities, and each edge of
that graph gets a zero of its own, added to the value that flows along it: the derivative of the loss in that zero is
the gradient that comes back along that edge. The same with the KL's edge into the loss cut tells what comes from the
reconstruction. So every colour and number is measured; another sampler gives another picture.

Writes OUTPUT/gradient_flow.png, .pdf, and .json with the nodes' values and the edges' gradients.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments import cli
from vae import datasets, models, objectives, plots
from vae.estimators.base import Estimate

SAMPLERS = {"without the trick": lambda q, key: q.sample(key, 1), "with the trick": lambda q, key: q.rsample(key, 1)}
BLUE, VERMILLION, GREEN = plots.COLOURS[:3]
Edge = tuple[str, str]


class Graph(NamedTuple):
    """What one trace holds.

    Attributes:
      values: forward value of each node, in the order in which they are computed.
      gradients: of the loss along each edge (source, target), of the source's shape.
      reconstruction: the part of `gradients` that comes from log p(x|z); the rest comes from the KL.
    """

    values: dict[str, Array]
    gradients: dict[Edge, Array]
    reconstruction: dict[Edge, Array]


def measure(model, params, x: Array, key: Array, sampler: Callable) -> Graph:
    """The graph of the loss at x `[1, H, W, C]` with z = sampler(q, key), and the gradient along each of its edges."""
    phi, unravel_phi = ravel_pytree(params["params"]["encoder"])
    theta, unravel_theta = ravel_pytree(params["params"]["decoder"])

    def loss(phi, theta, x, key):
        params = {"params": {"encoder": unravel_phi(phi), "decoder": unravel_theta(theta)}}
        expect = lambda q, f, reduce: Estimate(reduce(f(checkpoint_name(sampler(q, key), "z"), q)), jnp.zeros(()), {})
        bound = objectives.elbo_analytic()(_named(model.apply), params, x, expect).value
        return checkpoint_name(-jnp.sum(bound), "loss")

    inputs = {"phi": phi, "theta": theta, "x": x, "key": key}
    with jax.disable_jit():  # no nested jaxprs: every quantity is a variable of the outermost one
        closed = jax.make_jaxpr(loss)(*inputs.values())
    variables = dict(zip(inputs, closed.jaxpr.invars, strict=True))
    data = {name: variables.pop(name) for name in ("x", "key")}  # nothing to learn there: no nodes
    nodes = variables | _find_nodes(closed.jaxpr, data["key"])
    parents, steps = _contract(closed, nodes, tuple(data.values()))

    def run(perturbations, cut=None):
        values = {"phi": phi, "theta": theta}
        for node, step in steps.items():
            arriving = {a: values[a] + perturbations[a, node] for a in parents[node]}
            arriving |= {a: jax.lax.stop_gradient(v) for a, v in arriving.items() if (a, node) == cut}
            (values[node],) = step(*arriving.values(), x, key)
        return values["loss"], values

    _, values = run({(a, b): 0.0 for b in steps for a in parents[b]})
    zeros = {(a, b): jnp.zeros_like(values[a]) for b in steps for a in parents[b]}
    gradients, reconstruction = (jax.grad(run, has_aux=True)(zeros, cut)[0] for cut in (None, ("KL", "loss")))
    return Graph(values, gradients, reconstruction)


def _named(apply: Callable) -> Callable:
    """A model's `apply` whose outputs carry names in the jaxpr; the numbers and the gradients stay as they are."""
    names = {"encode": ("mu", "log_var"), "log_likelihood": ("reconstruction",), "kl_to_prior": ("KL",)}

    def call(*args, method: str):
        leaves, treedef = jax.tree.flatten(apply(*args, method=method))
        return jax.tree.unflatten(treedef, [checkpoint_name(*pair) for pair in zip(leaves, names[method], strict=True)])

    return call


def _find_nodes(jaxpr: core.Jaxpr, key: core.Var) -> dict[str, core.Var]:
    """The named variables and eps: what is computed from the key alone, where it first meets anything else."""
    nodes, from_key, from_others = {}, {key}, set(jaxpr.invars) - {key}
    for eqn in jaxpr.eqns:
        operands = {v for v in eqn.invars if isinstance(v, core.Var)}
        if operands & from_others:
            nodes |= {"eps": v for v in operands & from_key if v is not key}
            from_others.update(eqn.outvars)
        elif operands & from_key:
            from_key.update(eqn.outvars)
        if eqn.primitive.name == "name":
            nodes[eqn.params["name"]] = eqn.outvars[0]
    return nodes


def _contract(closed: core.ClosedJaxpr, nodes: dict[str, core.Var], data: tuple[core.Var, ...]):
    """Of each node that is computed: its parents, reached through no other node, and (parents, data) -> [value]."""
    jaxpr, parents, steps = closed.jaxpr, {}, {}
    for node, target in nodes.items():
        needed, eqns = {target}, []
        for eqn in reversed(jaxpr.eqns):
            if any(v is target or v in needed and v not in nodes.values() for v in eqn.outvars):
                needed.update(v for v in eqn.invars if isinstance(v, core.Var))
                eqns.insert(0, eqn)
        if eqns:
            parents[node] = [name for name, v in nodes.items() if v in needed and v is not target]
            invars = [*(nodes[name] for name in parents[node]), *data]
            piece = jaxpr.replace(invars=invars, outvars=[target], eqns=eqns)
            steps[node] = core.jaxpr_as_fun(core.ClosedJaxpr(piece, closed.consts))
    return parents, steps


def edge_rows(graph: Graph) -> list[dict]:
    """One dict per edge: gradient norms, and whether a gradient arrives at the source along this edge."""
    norms = lambda tree: {edge: float(np.linalg.norm(g)) for edge, g in tree.items()}
    total, reconstruction = norms(graph.gradients), norms(graph.reconstruction)
    return [
        {
            **{"source": a, "target": b, "gradient_norm": total[a, b], "arrives": 0 < total[a, b] < np.inf},
            **{"reconstruction_gradient_norm": reconstruction[a, b]},
            **{"reconstruction_arrives": 0 < reconstruction[a, b] < np.inf},
        }
        for a, b in graph.gradients
    ]


# The picture

PLACES = {  # centre of each node, in inches
    **{"phi": (1.95, 0.3), "mu": (1.3, 1.25), "log_var": (2.6, 1.25), "KL": (0.42, 2.25), "z": (1.95, 2.25)},
    **{"eps": (2.95, 2.25), "theta": (2.95, 3.15), "reconstruction": (1.95, 3.15), "loss": (1.2, 4.05)},
}
LABELS = {
    **{"phi": r"encoder $\phi$", "theta": r"decoder $\theta$", "mu": r"$\mu$", "log_var": r"$\log\,\sigma^2$"},
    **{"eps": r"$\varepsilon$", "z": "$z$", "reconstruction": r"$\log\,p(x|z)$", "KL": "KL", "loss": "loss"},
}
STYLES = {  # how a gradient arrives: line style, and what the legend says
    "reconstruction": ({"color": GREEN, "linestyle": "-", "linewidth": 2.2}, r"gradient of $\log\,p(x|z)$ arrives"),
    "KL": ({"color": BLUE, "linestyle": "-", "linewidth": 1.1}, "gradient of the KL only"),
    "none": ({"color": VERMILLION, "linestyle": (0, (3, 1.6)), "linewidth": 1.8}, "no gradient arrives"),
}


def arrival(row: dict) -> str:
    """The key of `STYLES` for an edge."""
    return "reconstruction" if row["reconstruction_arrives"] else "KL" if row["arrives"] else "none"


def draw(graphs: dict[str, Graph]) -> Figure:
    """One panel per graph: thin grey arrows forward, coloured ones for the gradients that come back."""
    figure = Figure(figsize=(plots.WIDTH, 4.9))
    axes = figure.subplots(1, len(graphs), gridspec_kw={"wspace": 0.0})
    figure.subplots_adjust(0, 0.07, 1, 0.9)
    for ax, (name, graph) in zip(axes, graphs.items(), strict=True):
        ax.set(xlim=(-0.05, 3.4), ylim=(0, 4.4), aspect="equal")
        ax.set_axis_off()
        _draw_panel(ax, name, graph)
    handles = [axes[0].plot([], [], label=label, **style)[0] for style, label in STYLES.values()]
    handles.insert(0, axes[0].plot([], [], color="#999999", linewidth=0.8, label="forward")[0])
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=8, frameon=False, handlelength=2.4)
    return figure


def _draw_panel(ax, name: str, graph: Graph):
    boxes = {}
    rows = edge_rows(graph)
    for node, value in graph.values.items():
        arriving = [row["arrives"] for row in rows if row["target"] == node]
        random = node == "eps" or (arriving and not any(arriving))  # to a derivative z is then a source like eps
        boxes[node] = _draw_node(ax, node, value, random)
    for row in rows:
        _draw_edge(ax, row, boxes)
    verdict = "reaches" if _reaches(rows) else "does not reach"
    centre = sum(ax.get_xlim()) / 2
    formula = {"without the trick": r"$z \sim q(z|x)$", "with the trick": r"$z = \mu + \sigma\,\varepsilon$"}[name]
    ax.text(centre, 4.72, f"{name}:  {formula}", ha="center", fontsize=11, weight="bold")
    ax.text(
        centre, 4.48, rf"the reconstruction's gradient {verdict} $\mu$ and $\log\,\sigma^2$", ha="center", fontsize=8
    )


def _reaches(rows: list[dict]) -> bool:
    return all(any(r["reconstruction_arrives"] for r in rows if r["source"] == node) for node in ("mu", "log_var"))


def _draw_node(ax, node: str, value: Array, random: bool):
    x, y = PLACES[node]
    width, height = (0.5, 0.4) if value.size == 1 else (0.95, 0.4)
    width = max(width, 0.85 * (node == "reconstruction"), 0.6 * (node in ("loss", "log_var")))
    shape = "round,pad=0,rounding_size=0.2" if random else "round,pad=0,rounding_size=0.04"
    box = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle=shape, fc="#EEEEEE" if random else "white", ec="black"
    )
    ax.add_patch(box).set(linewidth=0.9, zorder=3)
    number = f"{value.item():.3g}" if value.size == 1 else f"{value.size} weights"
    ax.text(x, y + 0.08, LABELS[node], ha="center", va="center", fontsize=9, zorder=4)
    ax.text(x, y - 0.1, number.replace("-", "\N{MINUS SIGN}"), ha="center", va="center", fontsize=7, zorder=4)
    return box


def _draw_edge(ax, row: dict, boxes: dict):
    a, b = np.array(PLACES[row["source"]]), np.array(PLACES[row["target"]])
    along = (b - a) / np.linalg.norm(b - a)
    aside = 0.05 * np.array([-along[1], along[0]])
    style = STYLES[arrival(row)][0]
    ends = {"patchA": boxes[row["source"]], "patchB": boxes[row["target"]], "shrinkA": 2, "shrinkB": 2}
    forward = FancyArrowPatch(a + aside, b + aside, arrowstyle="-|>", mutation_scale=6, color="#999999", lw=0.8, **ends)
    ends |= {"patchA": ends["patchB"], "patchB": ends["patchA"]}
    backward = FancyArrowPatch(b - aside, a - aside, arrowstyle="-|>", mutation_scale=11, **style, **ends)
    ax.add_patch(forward)
    ax.add_patch(backward)
    middle = (a + b) / 2 - aside
    if arrival(row) == "none":
        ax.plot(*middle, marker="x", markersize=8, markeredgewidth=2, color=style["color"])
    x, y = middle - 2.4 * aside
    horizontal = "left" if aside[0] < -0.02 else "right" if aside[0] > 0.02 else "center"
    ax.text(x, y, f"{row['gradient_norm']:.2g}", color=style["color"], fontsize=7.5, ha=horizontal, va="center")


def run(output: str, seed: int) -> None:
    digits = datasets.load("digits")
    x = jnp.asarray(datasets.pixels(digits.test[:1], digits.levels))
    model = models.make_vae(x.shape[1:], latent_dim=1, hidden=(16,), activation="tanh")
    key_params, key_z = jax.random.split(jax.random.key(seed))
    params = model.init(key_params, x, key_z)
    graphs = {name: measure(model, params, x, key_z, sampler) for name, sampler in SAMPLERS.items()}

    report = {"seed": seed, "panels": {}}
    for name, graph in graphs.items():
        values = {node: value.item() for node, value in graph.values.items() if value.size == 1}
        report["panels"][name] = {"values": values, "edges": edge_rows(graph)}
    path = Path(output) / "gradient_flow"
    try:
        picture, _ = plots.save(draw(graphs), path)
        path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        cli.stop(f"--output={output} cannot be written to: {error.strerror}")
    for name, panel in report["panels"].items():
        norms = {row["source"]: row["reconstruction_gradient_norm"] for row in panel["edges"] if row["target"] == "z"}
        print(f"{name}: |d log p(x|z) / d mu| = {norms['mu']:.3g}, |d log p(x|z) / d log_var| = {norms['log_var']:.3g}")
    print(f"open {picture}")


def main() -> None:
    run(flags.FLAGS.output, flags.FLAGS.seed)


if __name__ == "__main__":
    flags.DEFINE_string(
        "output", "results/gradient_flow", "folder of gradient_flow.png, .pdf and .json; made if absent"
    )
    flags.DEFINE_integer("seed", 0, "seed of the weights and of eps", lower_bound=0, upper_bound=2**32 - 1)
    cli.run(main)
