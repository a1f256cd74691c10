"""Annealed importance sampling: log p(x) of continuous latents from below, and of simulated data also from above.

A chain moves from a sample of p_0(z), the prior or q(z|x), through the densities

    f_b(z) = p_0(z)^(1 - b) p(x, z)^b,    0 = b_0 < b_1 < ... < b_T = 1,

by Hamiltonian transitions, and collects the weight w = prod_t f_{b_t}(z_{t-1}) / f_{b_{t-1}}(z_{t-1}). E[w] = p(x), so
the log of the mean of several weights is below log p(x) on average (Neal 2001; Wu, Burda, Salakhutdinov & Grosse 2017,
arXiv:1611.04273). A chain that moves backwards from an exact sample of p(z|x) has E[1/w] = 1/p(x), and gives an upper
bound: bidirectional Monte Carlo (Grosse, Ghahramani & Adams 2015, arXiv:1511.02543). Exact samples exist for data that
are simulated from the model.

The step sizes of the transitions come from a pilot with noise of its own, so they do not depend on the chains that are
weighted, and E[w] is exact for every step size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vae.apply import check_apply
from vae.evaluate import Images, as_batch, check_images, check_sizes, in_batches, keys_of_data

Flat = Float[Array, "D"]  # all latent variables of one chain

# The pilot has this many chains for each datum. Its first step size, and the acceptance rate that it aims at.
PILOT_CHAINS = 4
FIRST_STEP, TARGET_ACCEPTANCE = 0.2, 0.65
# The change of the log of the pilot's step size for each unit of excess acceptance.
GAIN = 0.2
# The step of each transition is multiplied by a random factor between 1 - JITTER and 1 + JITTER, so that no path closes
# on itself.
JITTER = 0.2
# The steepness of the temperatures' sigmoid: most of them are near 0 and 1.
STEEPNESS = 4.0

STARTS = ("prior", "q")


def temperatures(num_steps: int) -> Float[np.ndarray, "T_and_1"]:
    """The inverse temperatures b_0 = 0, ..., b_T = 1 on a sigmoid curve, as in arXiv:1611.04273."""
    ends = lambda t: 1 / (1 + np.exp(-STEEPNESS * t))
    t = ends(np.linspace(-1, 1, num_steps + 1))
    return ((t - t[0]) / (t[-1] - t[0])).astype(np.float32)


def simulate(
    apply: Callable, params: PyTree, key: PRNGKeyArray, num_data: int, image_shape: tuple[int, ...]
) -> tuple[Images, PyTree]:
    """Data x `[num_data, *image_shape]` of the model, and the z that gave them, `[num_data, D]` in each layer.

    z is an exact sample of p(z|x). The model has the methods prior_distribution() and decode(z), whose result is a
    distribution over flat images.
    """
    check_apply(apply)
    key_z, key_x = jax.random.split(key)
    z = apply(params, method="prior_distribution").sample(key_z, num_data)
    pixels = apply(params, jax.tree.map(lambda leaf: leaf[None], z), method="decode").sample(key_x, 1)
    return pixels.reshape(num_data, *image_shape).astype(jnp.float32), z


def bounds(
    apply: Callable,
    params: PyTree,
    x: Images,
    key: PRNGKeyArray,
    num_steps: int,
    num_chains: int = 16,
    leapfrog_steps: int = 10,
    start: str = "prior",
    z: PyTree | None = None,
    batch_size: int = 20,
    first: int | Int[Array, ""] = 0,
) -> dict[str, Float[Array, "N"]]:
    """Returns `lower`, the log of the mean weight of each datum in nats, which is below log p(x) on average.

    The result also has `ess_share`, the effective sample size of the chains' weights as a share of their number, and
    `acceptance`, the mean acceptance rate of their transitions. With z, it also has `upper`, which is above log p(x) on
    average.

    Args:
      apply: the model's `apply`. The model has the methods prior_distribution() and log_likelihood(x, z), and for a
        start at q encode(x).
      params: the model's variables.
      x: the data.
      key: key of the noise. Each datum has noise of its own, whatever the batch size is.
      num_steps: T, the number of transitions of a chain.
      num_chains: number of chains of each datum.
      leapfrog_steps: number of leapfrog steps of a transition.
      start: p_0, "prior" or "q".
      z: the z of `simulate`, exact samples of p(z|x).
      batch_size: number of data that are annealed at once.
      first: index of x[0] in the data set, for callers that evaluate the data set part by part.

    Raises:
      ValueError: for latent variables that are not real numbers, an unknown start, a size below 1, or images
        that the likelihood cannot have.
    """
    check_sizes(num_steps=num_steps, num_chains=num_chains, leapfrog_steps=leapfrog_steps, batch_size=batch_size)
    if start not in STARTS:
        raise ValueError(f"start must be prior or q, got {start!r}")
    check_images(apply, x)
    prior = apply(params, method="prior_distribution")
    require_real(prior)
    mean_log = lambda log_weights: jax.nn.logsumexp(log_weights) - jnp.log(num_chains)

    def bounds_of(datum):
        x, key, exact = datum
        key_pilot, key_pilot_start, key_start, key_up, key_down = jax.random.split(key, 5)
        q = apply(params, as_batch(x), method="encode") if start == "q" else None
        draw = _sampler(prior, q)
        path = _path(apply, params, x, prior, q, draw(key)[1])
        many = lambda key, number: jax.vmap(lambda key: draw(key)[0])(jax.random.split(key, number))
        run = lambda key, z, steps=None, **how: _anneal(path, z, key, num_steps, leapfrog_steps, steps, **how)
        steps = run(key_pilot, many(key_pilot_start, PILOT_CHAINS))["step"]
        up = run(key_up, many(key_start, num_chains), steps)
        found = {
            "lower": mean_log(up["log_weight"]),
            "ess_share": 1 / jnp.sum(jnp.square(jax.nn.softmax(up["log_weight"]))) / num_chains,
            "acceptance": up["acceptance"],
        }
        if exact is None:
            return found
        flat = ravel_pytree(exact)[0]
        down = run(key_down, jnp.broadcast_to(flat, (num_chains, flat.size)), steps, backwards=True)
        return found | {"upper": -mean_log(-down["log_weight"])}

    keys = keys_of_data(key, first, len(jax.tree.leaves(x)[0]))
    return in_batches(bounds_of, (x, keys, z), batch_size)


def require_real(prior: Any) -> None:
    """Raises a ValueError unless Hamiltonian dynamics can move the latent variables of this prior."""
    is_real = lambda family: getattr(family, "is_real", False)
    while not is_real(prior) and (inner := getattr(prior, "components", getattr(prior, "first", None))):
        prior = inner  # of a mixture, or of several stochastic layers
    if not is_real(prior):
        raise ValueError(
            "annealing moves latent variables along gradients, so they must be able to take all real values, and "
            f"{type(prior).__name__} does not say that they can. Choose a posterior such as normal, or give a family "
            "of your own the class attribute is_real = True"
        )


def _sampler(prior: Any, q: Any) -> Callable[[PRNGKeyArray], tuple[Flat, Callable]]:
    """The function that draws a flat z from p_0, and that also returns the function from a flat z to `[1, 1, D]`."""

    def draw(key):
        if q is None:
            z = jax.tree.map(lambda leaf: leaf[0], prior.sample(key, 1))
        else:
            z = jax.tree.map(lambda leaf: leaf[0, 0], q.sample(key, 1))
        flat, unravel = ravel_pytree(z)
        return flat, lambda flat: jax.tree.map(lambda leaf: leaf[None, None], unravel(flat))

    return draw


def _path(apply, params, x, prior, q, unflatten) -> Callable[[Flat], tuple[Array, Array]]:
    """The function of z to log p_0(z) and log p(x, z) - log p_0(z), of one datum."""

    def path(flat):
        z = unflatten(flat)
        log_likelihood = apply(params, as_batch(x), z, method="log_likelihood")[0, 0]
        log_prior = prior.log_prob(z)[0, 0]
        if q is None:
            return log_prior, log_likelihood
        log_q = q.log_prob(z)[0, 0]
        return log_q, log_likelihood + log_prior - log_q

    return path


def _anneal(path, z, key, num_steps, leapfrog_steps, steps, backwards=False):
    """Runs the chains z `[C, D]` through all temperatures, and returns their log-weights `[C]`.

    Backwards, the chains are samples of p(z|x), and the same transitions and weights come in the reverse order.

    Args:
      path: the result of `_path`.
      steps: the step size of each transition, `[T]`. None to adapt the sizes. `step` in the result has the sizes in
        use.
    """
    b = temperatures(num_steps)
    times = {"b": b[1:], "change": np.diff(b), "t": np.arange(num_steps)}
    times |= {} if steps is None else {"step": steps}
    ratios = jax.vmap(lambda z: path(z)[1])

    def anneal(carry, now):
        z, log_weight, log_step = carry
        step = jnp.exp(log_step) if steps is None else now["step"]
        keys = jax.random.split(jax.random.fold_in(key, now["t"]), len(z))
        move = jax.vmap(lambda z, key: transition(path, now["b"], z, key, step, leapfrog_steps))
        if backwards:
            z, acceptance = move(z, keys)
            log_weight += now["change"] * ratios(z)
        else:
            log_weight += now["change"] * ratios(z)
            z, acceptance = move(z, keys)
        acceptance = jnp.mean(acceptance)
        log_step += GAIN * (acceptance - TARGET_ACCEPTANCE)
        return (z, log_weight, log_step), {"step": step, "acceptance": acceptance}

    first = (z, jnp.zeros(len(z), z.dtype), jnp.asarray(np.log(FIRST_STEP), z.dtype))
    (_, log_weight, _), course = jax.lax.scan(anneal, first, times, reverse=backwards)
    return {"log_weight": log_weight, "step": course["step"], "acceptance": jnp.mean(course["acceptance"])}


def transition(path, b, z: Flat, key: PRNGKeyArray, step, leapfrog_steps: int) -> tuple[Flat, Float[Array, ""]]:
    """A Hamiltonian transition that leaves f_b invariant; returns z and the probability of the acceptance."""
    key_momentum, key_jitter, key_accept = jax.random.split(key, 3)
    step = step * jax.random.uniform(key_jitter, (), z.dtype, minval=1 - JITTER, maxval=1 + JITTER)

    @jax.value_and_grad
    def log_f(z):
        log_start, log_ratio = path(z)
        return log_start + b * log_ratio

    momentum = jax.random.normal(key_momentum, z.shape, z.dtype)
    energy = lambda value, momentum: value - 0.5 * jnp.sum(momentum**2)

    def leapfrog(state, _):
        z, momentum, _, gradient = state
        momentum = momentum + 0.5 * step * gradient
        z = z + step * momentum
        value, gradient = log_f(z)
        return (z, momentum + 0.5 * step * gradient, value, gradient), None

    value, gradient = log_f(z)
    end = jax.lax.scan(leapfrog, (z, momentum, value, gradient), length=leapfrog_steps)[0]
    log_ratio = energy(end[2], end[1]) - energy(value, momentum)
    probability = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    accepted = jax.random.uniform(key_accept, (), z.dtype) < probability
    return jnp.where(accepted, end[0], z), probability
