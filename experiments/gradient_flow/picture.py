"""Draws one or more graphs: the forward values, and the gradients that flow back."""

import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.common import plots
from experiments.gradient_flow.graph import EdgeNorms, Graph, edge_norms

BLUE, VERMILLION, GREEN = plots.COLOURS[:3]
GREY = "#999999"
DARK = "#555555"
PANEL_WIDTH = 3.375  # inches
# The centre of each node, in inches.
PLACES = {
    **{"phi": (1.65, 0.45), "mu": (1.02, 1.35), "log_var": (2.28, 1.35), "KL": (0.4, 2.4), "z": (1.65, 2.4)},
    **{"eps": (2.72, 2.4), "theta": (2.82, 3.3), "reconstruction": (1.65, 3.3), "loss": (1.02, 4.2)},
}
LABELS = {
    **{"phi": r"encoder $\phi$", "theta": r"decoder $\theta$", "mu": r"$\mu$", "log_var": r"$\log\,\sigma^2$"},
    **{"eps": r"$\varepsilon$", "z": "$z$", "reconstruction": r"$\log\,p(x|z)$", "KL": "KL", "loss": "loss"},
}
FORMULAS = {"without the trick": r"$z \sim q(z|x)$", "with the trick": r"$z = \mu + \sigma\,\varepsilon$"}
# The look of the gradient along an edge, and its name in the legend.
STYLES = {
    "reconstruction": ({"color": GREEN, "lw": 2.2, "zorder": 2}, r"gradient of $\log\,p(x|z)$ arrives"),
    "KL": ({"color": BLUE, "lw": 1.1, "zorder": 1}, "gradient of the KL alone arrives"),
    "none": ({"color": VERMILLION, "lw": 1.6, "ls": (0, (3, 1.6)), "zorder": 2}, "no gradient arrives"),
}
CAPTION = (
    "The loss of one digit x under a VAE with one latent dimension. Numbers beside arrows: measured gradient norms.\n"
    "Numbers in boxes: forward values. Thin grey arrows: the forward pass. Round nodes: random; no gradient passes."
)


@plots.styled
def draw(graphs: dict[str, Graph]) -> Figure:
    """One panel for each graph. Thin grey arrows are the forward pass; coloured arrows are gradients that flow back."""
    figure = Figure(figsize=(plots.WIDTH, 5.5))
    for i, (name, graph) in enumerate(graphs.items()):
        ax = figure.add_axes((i / len(graphs), 0.11, 1 / len(graphs), 0.89), xlim=(0, PANEL_WIDTH), ylim=(0.12, 5.015))
        ax.set_axis_off()
        _draw_panel(ax, name, edge_norms(graph), graph.values)
    handles = [Line2D([], [], label=label, **style) for style, label in STYLES.values()]
    figure.legend(handles=handles, fontsize=8.5, loc="lower center", borderaxespad=3.6, ncols=3, frameon=False)
    figure.text(0.5, 0.015, CAPTION, ha="center", fontsize=7, color=DARK, linespacing=1.5)
    return figure


def arrival(edge: EdgeNorms) -> str:
    """The kind of gradient that arrives along an edge: a key of `STYLES`."""
    if edge.reconstruction_arrives:
        return "reconstruction"
    return "KL" if edge.arrives else "none"


def _draw_panel(ax: Axes, name: str, edges: list[EdgeNorms], values: dict[str, Array]) -> None:
    incoming = {node: {arrival(edge) for edge in edges if edge.target == node} for node in values}
    random = {node for node, arrivals in incoming.items() if node == "eps" or arrivals == {"none"}}
    boxes = {node: _draw_node(ax, node, value, node in random) for node, value in values.items()}
    for edge in edges:
        _draw_edge(ax, edge, boxes)
    if "z" in random:
        ax.add_patch(FancyBboxPatch((1.32, 2.12), 1.73, 0.56, "round,pad=0.02", fc="none", ec=DARK, ls=":", lw=1))
        ax.text(3.04, 2.0, "sampler", ha="right", va="center", fontsize=7.5, color=DARK, style="italic")
    sources = {edge.source for edge in edges if arrival(edge) == "reconstruction"}
    reached = [LABELS[node] for node in ("mu", "log_var") if node in sources]
    verdict = " and ".join(reached) if reached else rf"neither {LABELS['mu']} nor {LABELS['log_var']}"
    colour = GREEN if len(reached) == 2 else VERMILLION
    ax.text(PANEL_WIDTH / 2, 4.8, f"{name}:  {FORMULAS.get(name, '')}", ha="center", fontsize=11, weight="bold")
    text = rf"the gradient of {LABELS['reconstruction']} reaches {verdict}"
    ax.text(PANEL_WIDTH / 2, 4.57, text, ha="center", fontsize=8.5, color=colour)


def _draw_node(ax: Axes, node: str, value: Array, random: bool) -> FancyBboxPatch:
    x, y = PLACES[node]
    height = 0.4
    width = {"phi": 0.86, "theta": 0.86, "reconstruction": 0.86, "loss": 0.6, "log_var": 0.6}.get(node, 0.52)
    style = f"round,pad=0,rounding_size={0.2 if random else 0.04}"
    face = "#E8E8E8" if random else "white"
    box = FancyBboxPatch((x - width / 2, y - height / 2), width, height, style, fc=face, ec="black", lw=0.9, zorder=3)
    number = f"{value.item():.3g}".replace("-", "\N{MINUS SIGN}") if value.size == 1 else f"{value.size} weights"
    ax.text(x, y + 0.085, LABELS[node], ha="center", va="center", fontsize=9, zorder=4)
    ax.text(x, y - 0.105, number, ha="center", va="center", fontsize=7, zorder=4)
    return ax.add_patch(box)


def _draw_edge(ax: Axes, edge: EdgeNorms, boxes: dict[str, FancyBboxPatch]) -> None:
    a = np.array(PLACES[edge.source])
    b = np.array(PLACES[edge.target])
    along = (b - a) / np.linalg.norm(b - a)
    aside = 0.05 * np.array([along[1], -along[0]])  # the gradient is drawn to the right of the forward arrow
    style, _ = STYLES[arrival(edge)]
    box_a = boxes[edge.source]
    box_b = boxes[edge.target]
    arrow = lambda start, end, patch, other, size, **kwargs: ax.add_patch(
        FancyArrowPatch(start, end, patchA=patch, patchB=other, arrowstyle="-|>", mutation_scale=size, **kwargs)
    )
    arrow(a - aside, b - aside, box_a, box_b, 6, color=GREY, lw=0.8, zorder=0)
    arrow(b + aside, a + aside, box_b, box_a, 11, **style)
    if arrival(edge) == "none":
        cross = a + 0.62 * (b - a) + aside
        ax.plot(*cross, marker="x", markersize=8, markeredgewidth=2, color=style["color"], zorder=2)
    fraction = {"mu": 0.4, "log_var": 0.37}.get(edge.source, 0.5)  # two edges of these nodes cross halfway
    place = a + fraction * (b - a) + (3 if along[1] == 0 else 4.2) * aside
    ax.text(*place, f"{edge.gradient_norm:.2g}", color=style["color"], fontsize=8, ha="center", va="center", zorder=2)
