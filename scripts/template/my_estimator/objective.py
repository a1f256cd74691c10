"""An objective that holds the KL at a chosen number of nats. Delete or replace this placeholder."""

import jax.numpy as jnp
import vae
from vae.objectives import Objective


def capacity(nats: float = 5.0, weight: float = 1.0) -> Objective:
    """E_q[log p(x|z)] - weight |KL(q(z|x) || p(z)) - nats| (Burgess et al. 2018, arXiv:1804.03599, eq. 8).

    A keyword argument with a default is an option: --objective=capacity:nats=10.
    """

    def objective(apply, params, x, expect) -> vae.Estimate:
        q = apply(params, x, method="encode")
        reconstruction = expect(q, lambda z: apply(params, x, z, method="log_likelihood"), vae.mean)
        rate = apply(params, q, method="kl_to_prior")  # [B]
        return reconstruction._replace(value=reconstruction.value - weight * jnp.abs(rate - nats))

    return objective
