"""The graph of a VAE's loss over its named quantities, and the gradient along each of its edges.

The loss is traced to its jaxpr, and the jaxpr is contracted to the graph over the named quantities. Each edge (a, b) of
the graph gets its own perturbation. The perturbation is zero, and it is added to the value of a where b uses that
value. The derivative of the loss in this perturbation is the gradient that flows back along the edge.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core
from jax.flatten_util import ravel_pytree

from vae import objectives
from vae.estimators import Estimate, mean

Edge = tuple[str, str]
# The names that the outputs of a model's methods get in the jaxpr.
NAMES = {"encode": ("mu", "log_var"), "log_likelihood": ("reconstruction",), "kl_to_prior": ("KL",)}


class Graph(NamedTuple):
    """The graph of one loss, with everything that was measured on it.

    Attributes:
      values: The forward value of each node.
      gradients: The gradient of the loss along each edge (source, target), in the shape of the source.
      reconstruction: The part of `gradients` that comes from log p(x|z). The rest comes from the KL.
    """

    values: dict[str, Array]
    gradients: dict[Edge, Array]
    reconstruction: dict[Edge, Array]


class EdgeNorms(NamedTuple):
    """Norms of the gradients along one edge.

    Attributes:
      gradient_norm: Norm of the gradient of the loss.
      arrives: Whether this gradient is neither zero nor infinite.
      reconstruction_gradient_norm: Norm of the part that comes from log p(x|z).
      reconstruction_arrives: Whether this part is neither zero nor infinite.
    """

    source: str
    target: str
    gradient_norm: float
    arrives: bool
    reconstruction_gradient_norm: float
    reconstruction_arrives: bool


class _Steps(NamedTuple):
    """The computation of a loss, cut into one step for each node.

    Attributes:
      parents: For each computed node, the nodes from which it is computed directly.
      functions: For each computed node, in the order of the computation, a function (*parents, *data) -> [value].
    """

    parents: dict[str, list[str]]
    functions: dict[str, Callable]


def measure(model, params, x: Array, key: Array, sampler: Callable) -> Graph:
    """Measures the loss at x `[1, H, W, C]` with z = sampler(q, key): its graph and the gradient along each edge."""
    phi, unravel_phi = ravel_pytree(params["params"]["encoder"])
    theta, unravel_theta = ravel_pytree(params["params"]["decoder"])

    def loss(phi, theta, x, key):
        def expect(q, f, reduce=mean, log_q_weight=0.0):
            z = checkpoint_name(sampler(q, key), "z")
            return Estimate(value=reduce(f(z)), cv_loss=jnp.zeros(()), state={})

        params = {"params": {"encoder": unravel_phi(phi), "decoder": unravel_theta(theta)}}
        bound = objectives.elbo_analytic()(_with_names(model.apply), params, x, expect).value
        return checkpoint_name(-jnp.sum(bound), "loss")

    with jax.disable_jit():  # there are no nested jaxprs then, and every quantity is a variable of the outermost one
        closed = jax.make_jaxpr(loss)(phi, theta, x, key)
    phi_variable, theta_variable, *data = closed.jaxpr.invars  # data: x and the key, which are no nodes
    _, key_variable = data
    nodes = {"phi": phi_variable, "theta": theta_variable} | _find_nodes(closed.jaxpr, key_variable)
    steps = _contract(closed, nodes, data)

    def loss_with(perturbations: dict[Edge, Array], cut: Edge | None = None):
        """The loss with a perturbation on each edge and without a gradient along `cut`, and the values of the nodes."""
        values = {"phi": phi, "theta": theta}
        for b, function in steps.functions.items():
            consumed = {a: values[a] + perturbations[a, b] for a in steps.parents[b]}
            consumed |= {a: jax.lax.stop_gradient(v) for a, v in consumed.items() if (a, b) == cut}
            (values[b],) = function(*consumed.values(), x, key)
        return values["loss"], values

    gradient = jax.jit(jax.grad(loss_with, has_aux=True), static_argnames="cut")
    zeros = {(a, b): jnp.zeros(nodes[a].aval.shape) for b, parents in steps.parents.items() for a in parents}
    total, values = gradient(zeros)
    reconstruction, _ = gradient(zeros, cut=("KL", "loss"))
    return Graph(values, total, reconstruction)


def edge_norms(graph: Graph) -> list[EdgeNorms]:
    """The norms of the gradients along each edge, and whether the gradients arrive at the edge's source."""
    rows = []
    for (source, target), gradient in graph.gradients.items():
        total = float(np.linalg.norm(gradient))
        part = float(np.linalg.norm(graph.reconstruction[source, target]))
        rows.append(EdgeNorms(source, target, total, bool(0 < total < np.inf), part, bool(0 < part < np.inf)))
    return rows


def _with_names(apply: Callable) -> Callable:
    """A model's `apply` with names on its outputs in the jaxpr. Numbers and gradients do not change."""

    def call(*args, method: str):
        leaves, treedef = jax.tree.flatten(apply(*args, method=method))
        named = [checkpoint_name(leaf, name) for leaf, name in zip(leaves, NAMES[method], strict=True)]
        return jax.tree.unflatten(treedef, named)

    return call


def _find_nodes(jaxpr: core.Jaxpr, key: core.Var) -> dict[str, core.Var]:
    """The variables of the nodes: those with a name, and eps.

    eps is computed from the key alone, and is the last such variable before another quantity enters.
    """
    nodes = {}
    from_key = {key}
    from_others = set(jaxpr.invars) - {key}
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


def _contract(closed: core.ClosedJaxpr, nodes: dict[str, core.Var], data: list[core.Var]) -> _Steps:
    """The equations of the jaxpr, grouped into one step for each node."""
    jaxpr = closed.jaxpr
    steps = _Steps(parents={}, functions={})
    for node, target in nodes.items():
        needed = {target}
        eqns = []
        for eqn in reversed(jaxpr.eqns):
            if any(v is target or v in needed and v not in nodes.values() for v in eqn.outvars):
                needed.update(v for v in eqn.invars if isinstance(v, core.Var))
                eqns.insert(0, eqn)
        if eqns:
            steps.parents[node] = [name for name, v in nodes.items() if v in needed and v is not target]
            invars = [*(nodes[name] for name in steps.parents[node]), *data]
            piece = jaxpr.replace(invars=invars, outvars=[target], eqns=eqns)
            steps.functions[node] = core.jaxpr_as_fun(core.ClosedJaxpr(piece, closed.consts))
    return steps
