"""Posteriors of a discrete block and a Gaussian, with exact values and gradients by enumeration and quadrature.

Two data have one variable of three classes or two bits, and one Gaussian dimension. The blocks are independent, or the
parameters of the second block depend on the first. With bits, f is a spike and slab: the first bit switches the
Gaussian on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae import distributions as dist
from vae.hierarchy import Markov

BLOCKS = ("class, Gaussian", "class -> Gaussian", "bits, Gaussian", "bits -> Gaussian", "Gaussian -> bits")
X = np.float32([0.8, -0.5])
_STATES = {"class": np.eye(3)[:, None], "bits": np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])}
_LOGITS = {"class": [[[0.4, -0.8, 0.3]], [[-0.5, 0.2, 0.9]]], "bits": [[0.7, -0.9], [-0.3, 1.1]]}
_FAMILIES = {"class": dist.Categorical, "bits": dist.Bernoulli}


def parameters(blocks):
    """The parameters of the discrete block, of the Gaussian, of the dependence between them, and of f."""
    groups = {
        "discrete": _LOGITS["class" if "class" in blocks else "bits"],
        "gaussian": [[[0.6], [-0.4]], [[-0.6], [0.2]]],
        "theta": [1.1, -0.7, 0.4, 0.9],
    }
    if "->" in blocks:
        groups["slope"] = [0.9, -0.6, 0.3]
    return {name: np.float32(group) for name, group in groups.items()}


def _features(y):
    return y[..., 0, :] if y.shape[-1] == 3 else y


def _gaussian_given(weights, y):
    (mean, log_var), slope = weights
    shift = _features(y) @ slope[: y.shape[-1]]
    return dist.Normal(mean + jnp.sin(shift)[..., None], log_var + 0.5 * shift[..., None])


def _bits_given(weights, z):
    logits, slope = weights
    return dist.Bernoulli(logits + jnp.tanh(z) * slope[:2])


def posterior(params, blocks):
    gaussian = dist.Normal(*params["gaussian"])
    if blocks == "Gaussian -> bits":
        return Markov(gaussian, ((params["discrete"], params["slope"]),), (_bits_given,))
    discrete = _FAMILIES[blocks.split(" ")[0].strip(",")](params["discrete"])
    if "->" in blocks:
        return Markov(discrete, ((params["gaussian"], params["slope"]),), (_gaussian_given,))
    return dist.Product((discrete, gaussian))


def cost(params, blocks, quadratic=False):
    """f of the blocks' samples, where f - log q is the log-weight. `quadratic` makes f quadratic in the class."""
    theta = params["theta"]

    def f(z):
        y, gaussian = reversed(z) if blocks == "Gaussian -> bits" else z
        slab = gaussian[..., 0] if "class" in blocks else gaussian[..., 0] * y[..., 0]
        h = _features(y) @ theta[: y.shape[-1]] + theta[3] * slab - X
        return -jnp.square(h) if quadratic else -jnp.square(X - 1.5 * jnp.sin(h)) + 0.2 * h

    return f


@functools.cache
def exact(blocks, log_q_weight=1.0, quadratic=False, order=32):
    """The sum over the data of E[f - c log q], and its gradient in all parameters, in float64."""
    points, weights = np.polynomial.hermite_e.hermegauss(order)
    states = _STATES["class" if "class" in blocks else "bits"]
    y = np.repeat(states, order, axis=0)[:, None].repeat(2, axis=1)  # [S * order, B, ...]
    eps = np.tile(points, len(states))[:, None, None]
    weights = np.tile(weights / np.sqrt(2 * np.pi), len(states))[:, None]

    def value(params):
        q = posterior(params, blocks)
        if blocks == "Gaussian -> bits":
            z = (q.first.from_noise(eps), y)
            log_prob_of_y = q.layer(1, z[0]).log_prob(y)
        else:
            z = (y, q.layer(1, y).from_noise(eps))
            log_prob_of_y = q.layer(0, None).log_prob(y)
        values = cost(params, blocks, quadratic)(z) - log_q_weight * q.log_prob(z)
        return jnp.sum(weights * jnp.exp(log_prob_of_y) * values)

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.float64, parameters(blocks))
        return jax.device_get(jax.jit(jax.value_and_grad(value))(params))


def deviations(estimator, blocks, log_q_weight=1.0, quadratic=False, draws=2**17):
    """For the value and each group of parameters: the largest deviation from the truth in standard errors, and the
    norm of the standard errors over the norm of the truth."""
    tree = parameters(blocks)
    init = lambda: estimator.init(jax.random.key(1), posterior(tree, blocks), X)
    params, state = jax.jit(init)() if jax.tree.leaves(jax.eval_shape(init)) else jax.eval_shape(init)

    def run(tree, key):
        q, f = posterior(tree, blocks), cost(tree, blocks, quadratic)
        return jnp.sum(estimator.estimate(params, state, key, q, f, log_q_weight=log_q_weight, context=X).value)

    keys = jax.random.split(jax.random.key(2), draws)
    draw = lambda key: jax.value_and_grad(run)(tree, key)
    values, grads = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=min(draws, 2**13)))(keys)
    truth, gradients = exact(blocks, log_q_weight, quadratic)
    return {"value": _compare(values, truth)} | {name: _compare(grads[name], gradients[name]) for name in grads}


def _compare(ours, truth):
    ours = np.float64(ours).reshape(len(ours), -1)
    stderr = ours.std(axis=0) / np.sqrt(len(ours))
    norm = np.linalg.norm(truth)
    z = np.abs(ours.mean(axis=0) - np.ravel(truth)) / np.hypot(stderr, 1e-5 * norm)
    return float(np.max(z)), float(np.linalg.norm(stderr) / norm)
