"""Bounds for a posterior that is a mixture, with samples of each of its components."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from vae import objectives
from vae.apply import posterior
from vae.estimators.contract import Estimate, Expect, Reduction, log_mean_exp, mean


def siwae(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
    """The stratified bound for a mixture q, E[log sum_c pi_c (1/K) sum_k p(x, z_ck) / q(z_ck|x)], with z_ck drawn from
    component c (Morningstar et al. 2021, arXiv:2003.01687); `iwae` for any other q. Estimators see `q.strata`."""
    combine = lambda weight, log_weights: jax.nn.logsumexp(log_weights, axis=0, b=weight)
    return _stratified(combine, log_mean_exp)(apply, params, x, expect)


def selbo(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
    """The ELBO, E[sum_c pi_c log p(x, z_c) / q(z_c|x)], with z_c drawn from component c (arXiv:2003.01687)."""
    combine = lambda weight, log_weights: jnp.sum(weight * log_weights, axis=0)
    return _stratified(combine, mean)(apply, params, x, expect)


def _stratified(combine: Callable[[Array, Array], Array], reduce: Reduction) -> objectives.Objective:
    """Reduces `combine(weight [C, 1, B], log_weights [C, K, B])` over K."""

    def objective(apply: Callable, params: PyTree, x: PyTree, expect: Expect) -> Estimate:
        q = posterior(apply, params, x)
        if not hasattr(q, "strata"):
            return objectives.from_log_weights(reduce)(apply, params, x, expect)
        log_joint = objectives.log_joint(apply, params, x)
        log_weight = lambda z: log_joint(z) - q.log_prob(z)
        weight = jnp.moveaxis(jax.nn.softmax(q.logits, axis=-1), -1, 0)[:, None]
        return expect(q.strata, lambda z: combine(weight, q.over_strata(log_weight, z)), reduce)

    return objective


objectives.add("siwae", lambda: siwae)
objectives.add("selbo", lambda: selbo)
