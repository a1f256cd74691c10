"""The graph of a VAE's loss, with the gradient along each of its edges, for `python -m experiments.gradient_flow`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.common import cli, files, plots
from vae import data as datasets
from vae import models, objectives
from vae.estimators import Estimate

SAMPLERS = {"without the trick": lambda q, key: q.sample(key, 1), "with the trick": lambda q, key: q.rsample(key, 1)}
BLUE, VERMILLION, GREEN = plots.COLOURS[:3]
Edge = tuple[str, str]


class Graph(NamedTuple):
    """What one trace holds.

    Attributes:
      values: forward value of each node.
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
        expect = lambda q, f, reduce: Estimate(reduce(f(checkpoint_name(sampler(q, key), "z"))), jnp.zeros(()), {})
        bound = objectives.elbo_analytic()(_named(model.apply), params, x, expect).value
        return checkpoint_name(-jnp.sum(bound), "loss")

    inputs = {"phi": phi, "theta": theta, "x": x, "key": key}
    with jax.disable_jit():  # no nested jaxprs: every quantity is a variable of the outermost one
        closed = jax.make_jaxpr(loss)(*inputs.values())
    variables = dict(zip(inputs, closed.jaxpr.invars, strict=True))
    data = {name: variables.pop(name) for name in ("x", "key")}  # nothing to learn there: no nodes
    nodes = variables | _find_nodes(closed.jaxpr, data["key"])
    parents, steps = _contract(closed, nodes, tuple(data.values()))
    edges = [(a, b) for b in steps for a in parents[b]]

    def along_edges(perturbations, cut=None):
        values = {"phi": phi, "theta": theta}
        for b, step in steps.items():
            consumed = {a: values[a] + perturbations[a, b] for a in parents[b]}
            consumed |= {a: jax.lax.stop_gradient(v) for a, v in consumed.items() if (a, b) == cut}
            (values[b],) = step(*consumed.values(), x, key)
        return values["loss"], values

    gradient = jax.jit(jax.grad(along_edges, has_aux=True), static_argnames="cut")
    zeros = {(a, b): jnp.zeros(nodes[a].aval.shape) for a, b in edges}
    total, values = gradient(zeros)
    reconstruction, _ = gradient(zeros, cut=("KL", "loss"))
    return Graph(values, total, reconstruction)


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
            if noise := operands & from_key - {key}:
                nodes["eps"] = noise.pop()
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
    """One dict per edge: norms of the gradients, and whether they arrive at the source along this edge."""
    rows = []
    for (a, b), gradient in graph.gradients.items():
        norm, part = (float(np.linalg.norm(g)) for g in (gradient, graph.reconstruction[a, b]))
        row = {"source": a, "target": b, "gradient_norm": norm, "arrives": 0 < norm < np.inf}
        rows.append(row | {"reconstruction_gradient_norm": part, "reconstruction_arrives": 0 < part < np.inf})
    return rows


# The picture

PLACES = {  # centre of each node, in inches
    **{"phi": (1.65, 0.45), "mu": (1.02, 1.35), "log_var": (2.28, 1.35), "KL": (0.4, 2.4), "z": (1.65, 2.4)},
    **{"eps": (2.72, 2.4), "theta": (2.82, 3.3), "reconstruction": (1.65, 3.3), "loss": (1.02, 4.2)},
}
LABELS = {
    **{"phi": r"encoder $\phi$", "theta": r"decoder $\theta$", "mu": r"$\mu$", "log_var": r"$\log\,\sigma^2$"},
    **{"eps": r"$\varepsilon$", "z": "$z$", "reconstruction": r"$\log\,p(x|z)$", "KL": "KL", "loss": "loss"},
}
FORMULAS = {"without the trick": r"$z \sim q(z|x)$", "with the trick": r"$z = \mu + \sigma\,\varepsilon$"}
STYLES = {  # of the gradient along an edge, and what the legend says
    "reconstruction": ({"color": GREEN, "lw": 2.2, "zorder": 2}, r"gradient of $\log\,p(x|z)$ arrives"),
    "KL": ({"color": BLUE, "lw": 1.1, "zorder": 1}, "gradient of the KL alone arrives"),
    "none": ({"color": VERMILLION, "lw": 1.6, "ls": (0, (3, 1.6)), "zorder": 2}, "no gradient arrives"),
}
GREY, DARK = "#999999", "#555555"
CAPTION = """The loss of one digit x under a VAE with one latent dimension. Beside arrows: its measured gradient norms.
In boxes: forward values; thin grey arrows: forward pass. Round: random, no gradient leads past it."""


def draw(graphs: dict[str, Graph]) -> Figure:
    """One panel per graph: thin grey arrows forward, coloured ones for the gradients that come back."""
    figure = Figure(figsize=(plots.WIDTH, 5.5))
    for i, (name, graph) in enumerate(graphs.items()):
        ax = figure.add_axes((i / len(graphs), 0.11, 1 / len(graphs), 0.89), xlim=(0, 3.375), ylim=(0.12, 5.015))
        ax.set_axis_off()
        _draw_panel(ax, name, edge_rows(graph), graph.values)
    handles = [Line2D([], [], label=label, **style) for style, label in STYLES.values()]
    figure.legend(handles=handles, fontsize=8.5, loc="lower center", borderaxespad=3.6, ncols=3, frameon=False)
    figure.text(0.5, 0.015, CAPTION, ha="center", fontsize=7, color=DARK, linespacing=1.5)
    return figure


def arrival(row: dict) -> str:
    """The key of `STYLES` for an edge."""
    return "reconstruction" if row["reconstruction_arrives"] else "KL" if row["arrives"] else "none"


def _draw_panel(ax, name: str, rows: list[dict], values: dict[str, Array]):
    incoming = {node: {arrival(row) for row in rows if row["target"] == node} for node in values}
    random = {node for node, arrivals in incoming.items() if node == "eps" or arrivals == {"none"}}
    boxes = {node: _draw_node(ax, node, value, node in random) for node, value in values.items()}
    for row in rows:
        _draw_edge(ax, row, boxes)
    if "z" in random:
        ax.add_patch(FancyBboxPatch((1.32, 2.12), 1.73, 0.56, "round,pad=0.02", fc="none", ec=DARK, ls=":", lw=1))
        ax.text(3.04, 2.0, "sampler", ha="right", va="center", fontsize=7.5, color=DARK, style="italic")
    carried = {row["source"] for row in rows if arrival(row) == "reconstruction"}
    reached = [LABELS[node] for node in ("mu", "log_var") if node in carried]
    verdict = " and ".join(reached) if reached else rf"neither {LABELS['mu']} nor {LABELS['log_var']}"
    colour = GREEN if len(reached) == 2 else VERMILLION
    ax.text(1.6875, 4.8, f"{name}:  {FORMULAS.get(name, '')}", ha="center", fontsize=11, weight="bold")
    text = rf"the gradient of {LABELS['reconstruction']} reaches {verdict}"
    ax.text(1.6875, 4.57, text, ha="center", fontsize=8.5, color=colour)


def _draw_node(ax, node: str, value: Array, random: bool) -> FancyBboxPatch:
    (x, y), height = PLACES[node], 0.4
    width = {"phi": 0.86, "theta": 0.86, "reconstruction": 0.86, "loss": 0.6, "log_var": 0.6}.get(node, 0.52)
    style = f"round,pad=0,rounding_size={0.2 if random else 0.04}"
    face = "#E8E8E8" if random else "white"
    box = FancyBboxPatch((x - width / 2, y - height / 2), width, height, style, fc=face, ec="black", lw=0.9, zorder=3)
    number = f"{value.item():.3g}".replace("-", "\N{MINUS SIGN}") if value.size == 1 else f"{value.size} weights"
    ax.text(x, y + 0.085, LABELS[node], ha="center", va="center", fontsize=9, zorder=4)
    ax.text(x, y - 0.105, number, ha="center", va="center", fontsize=7, zorder=4)
    return ax.add_patch(box)


def _draw_edge(ax, row: dict, boxes: dict[str, FancyBboxPatch]):
    a, b = np.array(PLACES[row["source"]]), np.array(PLACES[row["target"]])
    along = (b - a) / np.linalg.norm(b - a)
    aside = 0.05 * np.array([along[1], -along[0]])  # the gradient keeps to the right of the forward arrow
    style, box_a, box_b = STYLES[arrival(row)][0], boxes[row["source"]], boxes[row["target"]]
    arrow = lambda start, end, patch, other, size, **kwargs: ax.add_patch(
        FancyArrowPatch(start, end, patchA=patch, patchB=other, arrowstyle="-|>", mutation_scale=size, **kwargs)
    )
    arrow(a - aside, b - aside, box_a, box_b, 6, color=GREY, lw=0.8, zorder=0)
    arrow(b + aside, a + aside, box_b, box_a, 11, **style)
    if arrival(row) == "none":
        cross = a + 0.62 * (b - a) + aside
        ax.plot(*cross, marker="x", markersize=8, markeredgewidth=2, color=style["color"], zorder=2)
    fraction = {"mu": 0.4, "log_var": 0.37}.get(row["source"], 0.5)  # halfway two of their edges cross
    place = a + fraction * (b - a) + (3 if along[1] == 0 else 4.2) * aside
    ax.text(*place, f"{row['gradient_norm']:.2g}", color=style["color"], fontsize=8, ha="center", va="center", zorder=2)


def run(output: str, seed: int) -> None:
    """Measures, draws, writes, and says where the gradient went."""
    with cli.one_sentence():
        files.check_writable(output, "output")
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
