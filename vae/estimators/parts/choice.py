"""The choice of the candidate of `auto` with the least error, from gradients that each candidate drew."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vae.distributions.base import parameters
from vae.estimators.parts.candidates import Candidate

# A candidate takes over if its error is smaller by this many standard errors.
CERTAIN = 3.0


def by_datum(gradient: PyTree, batch: tuple[int, ...]) -> Float[Array, "draws N P"]:
    """The gradients in the parameters of q of each of the N data, from leaves `[draws, *batch, ...]`.

    Parameters that the data share have no such axes. They are left out.

    Raises:
      ValueError: if no leaf has the axes of the batch, or if there is one datum.
    """
    end, number = 1 + len(batch), math.prod(batch)
    if number < 2:
        raise ValueError("auto compares its candidates over the data of a batch, and this batch has one (batch_size=1)")
    leaves = parameters(gradient) or jax.tree.leaves(gradient)  # of a q that is no family of vae
    leaves = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.shape[1:end] == batch]
    if not leaves:
        raise ValueError("auto needs a q whose parameters differ from datum to datum")
    leaves = [leaf.reshape(len(leaf), number, -1) for leaf in leaves]
    return jnp.concatenate(leaves, axis=-1)


def choose(drawn: dict[str, Array], candidates: dict[str, Candidate], in_use: Array) -> tuple[Array, Array]:
    """The index of the candidate to go on with, and the errors `[candidates]`.

    Args:
      drawn: the gradients of each candidate, `[draws, N, P]`, with the same keys for all candidates.
    """
    biased = np.array([candidate.biased for candidate in candidates.values()])
    cost = np.array([candidate.evaluations for candidate in candidates.values()], np.float32)
    gradients = list(drawn.values())
    _, data, _ = gradients[0].shape
    reference = gradients[int(np.argmin(biased))]
    # The variance of the batch's mean gradient has a term for each datum, because the data's noise is independent.
    variance = jnp.stack([jnp.sum(jnp.var(g, axis=0, ddof=1), axis=-1) for g in gradients]) / data  # [candidates, N]
    # The bias of an unbiased candidate is 0, and is not estimated.
    square, uncertainty = jnp.where(biased, jnp.array([_squared_bias(g - reference) for g in gradients]).T, 0.0)
    noise = variance * cost[:, None]
    error = jnp.mean(noise, axis=1) + square * cost
    base = jnp.where(jnp.asarray(biased)[in_use], jnp.argmin(jnp.where(biased, jnp.inf, error)), in_use)
    differences = noise - noise[base]
    spread = jnp.var(differences, axis=1, ddof=1) / data + uncertainty * jnp.square(cost)
    better = error - error[base] < -CERTAIN * jnp.sqrt(spread)
    best = jnp.argmin(jnp.where(better, error, jnp.inf))
    return jnp.where(jnp.any(better), best, base).astype(jnp.int32), error


def _squared_bias(difference: Float[Array, "draws N P"]) -> tuple[Array, Array]:
    """An unbiased estimate of the squared length of the mean, and the variance of this estimate."""
    draws, data, _ = difference.shape
    mean = jnp.mean(difference, axis=(0, 1))
    noise = jnp.mean(jnp.var(difference, axis=0, ddof=1), axis=0) / (draws * data)  # of the mean, [P]
    return jnp.sum(jnp.square(mean) - noise), jnp.sum(2 * jnp.square(noise) + 4 * jnp.square(mean) * noise)
