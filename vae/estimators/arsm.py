"""ARSM (Yin, Yue & Zhou 2019, arXiv:1905.01413): augment-REINFORCE-swap-merge, which is ARM for classes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from vae.estimators.contract import Estimator, mean
from vae.estimators.parts.one_hot import harden
from vae.estimators.tools import held, inject, integrand, stateless


def arsm(num_samples: int = 1) -> Estimator:
    """The noise of two classes is swapped in all dimensions at once, and the signal is the change of f.

    Each of `num_samples` draws of the noise is used with every swap, so f is evaluated C (C - 1) / 2 + 1 times for each
    draw. All evaluated points follow q, and the value is their mean. With two classes the estimator is ARM. In a
    dimension with impossible classes, the formula runs over the possible classes only.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        swaps, number = _swaps(q.logits.shape[-1])
        points = len(swaps)
        gumbel = jax.random.gumbel(key, (num_samples, *q.logits.shape), q.logits.dtype)  # [K, *batch, D, C]
        z = harden(q.logits + jnp.moveaxis(gumbel[..., swaps], -2, 0))  # [P, K, *batch, D, C]
        z = z.reshape(points * num_samples, *q.logits.shape)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [P K, *batch]
        after = values.reshape(points, num_samples, *q.batch_shape)
        change = jnp.moveaxis((after - after[0])[number], (0, 1), (-2, -1))  # [K, *batch, C, C]

        possible = (q.mean > 0).astype(gumbel.dtype)
        count = jnp.sum(possible, axis=-1, keepdims=True)
        simplex = jax.nn.softmax(jnp.where(possible == 1, -gumbel, -jnp.inf), axis=-1)  # uniform on the simplex
        weight = possible / count - simplex  # [K, *batch, D, C]
        merged = mean(jnp.sum(change[..., None, :, :] * weight[..., None, :], axis=-1)) * possible  # [*batch, D, C]
        grad = merged - possible * jnp.sum(merged, axis=-1, keepdims=True) / count
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)


def _swaps(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The identity and all swaps of two classes `[P, C]`, and the number of the swap of c and j `[C, C]`."""
    swaps = [np.arange(classes)]
    point = np.zeros((classes, classes), int)
    for c, j in itertools.combinations(range(classes), 2):
        point[c, j] = point[j, c] = len(swaps)
        swap = np.arange(classes)
        swap[[c, j]] = j, c
        swaps.append(swap)
    return np.stack(swaps), point
