"""Bounds whose samples move from q(z|x) towards the posterior before they are weighted: `ula` and `uha`.

On the way, the samples pass the densities q(z|x)^(1 - t/T) p(x, z)^(t/T), t = 1, ..., T, which need not be normalized.
The mean of the exponential of each bound is p(x), so its mean is at most log p(x).

A bound is an expectation over z ~ q(z|x) and standard normal noise for the steps, which are the two blocks of a
`Product`. The end of the chain is a function of both, and of the parameters of the model and of q. So every estimator
that takes a product is right here, even one that does not differentiate in z.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from vae import objectives
from vae.apply import posterior
from vae.distributions import Flow, MixtureOfNormals, Normal, Product
from vae.distributions.base import LocationScale
from vae.estimators.contract import Estimate, Expect, mean
from vae.estimators.tools import check_positive

Vectors = Float[Array, "K B D"]
Score = Callable[[Float[Array, ""], Vectors], Vectors]  # of t/T and z


def ula(steps: int = 4, step_size: float = 0.05) -> objectives.Objective:
    """Unadjusted Langevin steps (MCVAE, Thin et al. 2021, arXiv:2106.15921).

    A step adds `step_size` times the gradient of the log-density, and noise of variance 2 `step_size`. The bound
    compares the density of each step with the density of a step back.

    Args:
      steps: the number T of steps. A sample needs 2 T gradients of log p(x, z) in z.
      step_size: the size of a step, for latents of size 1.

    Raises:
      ValueError: if an option is not above 0; from the objective, if q(z|x) is not a density of one vector in R^D.
    """
    check_positive(steps=steps, step_size=step_size)

    def step(score: Score, time: Array, z: Vectors, carried: Vectors, eps: Vectors) -> tuple[Vectors, Vectors, Array]:
        root = (2 * step_size) ** 0.5
        moved = z + step_size * score(time, z) + root * eps
        eps_back = (z - moved - step_size * score(time, moved)) / root
        return moved, carried, _log_normal(eps_back)

    return _annealed("ula", steps, step)


def uha(steps: int = 4, step_size: float = 0.1, damping: float = 0.5) -> objectives.Objective:
    """Hamiltonian steps (UHA, Geffner & Domke 2021, arXiv:2107.04150).

    A step keeps the part `damping` of the momentum, adds noise to it so that it stays standard normal, and makes one
    leapfrog step.

    Args:
      steps: the number T of steps. A sample needs 2 T gradients of log p(x, z) in z.
      step_size: the size of a leapfrog step, for latents of size 1.
      damping: the part of the momentum that a step keeps, at least 0 and below 1.

    Raises:
      ValueError: if an option is out of range; from the objective, if q(z|x) is not a density of one vector in R^D.
    """
    check_positive(steps=steps, step_size=step_size)
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be at least 0 and below 1, got {damping}")

    def step(score: Score, time: Array, z: Vectors, momentum: Vectors, eps: Vectors) -> tuple[Vectors, Vectors, Array]:
        is_first = time * steps < 1.5  # the first momentum is the noise itself
        fresh = jnp.where(is_first, eps, damping * momentum + (1 - damping**2) ** 0.5 * eps)
        half = fresh + 0.5 * step_size * score(time, z)
        moved = z + step_size * half
        after = half + 0.5 * step_size * score(time, moved)
        return moved, after, _log_normal(after) - _log_normal(fresh) + _log_normal(eps)

    return _annealed("uha", steps, step)


def _annealed(name: str, steps: int, step: Callable) -> objectives.Objective:
    """The objective of a chain.

    `step(score, time, z, carried, eps)` returns the next z, the `carried` of the next step, and the log-density of the
    step back. The log-density of the step itself, which is that of eps, is a part of log q.
    """

    def objective(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
        q = posterior(apply, params, x)
        _refuse_other_than_vectors(name, q)
        log_joint = objectives.log_joint(apply, params, x)

        def score(time: Array, z: Vectors) -> Vectors:
            """The gradient in z of (1 - time) log q(z|x) + time log p(x, z)."""
            return jax.grad(lambda z: jnp.sum((1 - time) * q.log_prob(z) + time * log_joint(z)))(z)

        def weigh(samples: tuple[Vectors, Array]) -> Float[Array, "K B"]:
            z, noise = samples
            noise = jnp.moveaxis(noise.reshape(*z.shape[:-1], steps, z.shape[-1]), -2, 0)  # [T, K, B, D]
            times = jnp.arange(1, steps + 1, dtype=z.dtype) / steps

            def body(carry, inputs):
                z, carried, total = carry
                time, eps = inputs
                z, carried, log_back = step(score, time, z, carried, eps)
                return (z, carried, total + log_back), None

            start = (z, jnp.zeros_like(z), jnp.zeros_like(z[..., 0]))
            z, _, log_back = jax.lax.scan(body, start, (times, noise))[0]
            return log_joint(z) + log_back

        width = jax.eval_shape(lambda key: q.sample(key, 1), jax.random.key(0)).shape[-1]
        return expect(Product((q, _standard_normal((*q.batch_shape, steps * width)))), weigh, mean, log_q_weight=1.0)

    return objective


def _refuse_other_than_vectors(name: str, q: Any) -> None:
    if not isinstance(q, LocationScale | Flow | MixtureOfNormals) or not getattr(q, "has_density", True):
        several = hasattr(q, "num_layers")  # layers or blocks
        raise ValueError(
            f"{name} moves z along the gradient of its density in R^D, which {type(q).__name__} latents do not have; "
            f"choose the posterior normal, full_covariance, laplace or student_t{' in one layer' if several else ''}, "
            "or the objective elbo"
        )


def _log_normal(eps: Vectors) -> Float[Array, "K B"]:
    return _standard_normal(eps.shape, eps.dtype).log_prob(eps)


def _standard_normal(shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Normal:
    return Normal(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


objectives.add("ula", ula)
objectives.add("uha", uha)
