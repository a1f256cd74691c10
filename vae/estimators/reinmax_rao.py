"""ReinMax-Rao (Wang & Bui 2026, arXiv:2603.08257): ReinMax with the averaged Jacobian of Gumbel-Rao.

The paper's other estimator, ReinMax-CV, adds a control variate: Gumbel-Rao's Jacobian minus one relaxed sample's. It is
left out here. If the control has mean zero given z, it can only add variance, because ReinMax is a function of z alone.
Otherwise it changes the bias.
"""

import jax
import jax.numpy as jnp

from vae.distributions import Categorical
from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits, perturb_given
from vae.estimators.tools import attach, check_positive, held, integrand, stateless


def reinmax_rao(num_samples: int = 1, temperature: float = 1.0, inner_samples: int = 10) -> Estimator:
    """ReinMax, where Gumbel-Rao's Jacobian at the midpoint of the sample and the mean replaces J(halfway).

    Gumbel-Rao averages the Jacobian of a relaxed sample of `halfway` over `inner_samples` draws of the noise given z.
    This Jacobian is smaller than J(halfway). So the variance is smaller than ReinMax's, and the gradient is shrunk even
    if f is linear. `temperature` is that of the relaxed samples alone: the midpoint is that of the sample and the mean.
    """
    check_positive(temperature=temperature, inner_samples=inner_samples)

    def estimate(key, q, f, reduce, log_q_weight):
        key_z, key_noise = jax.random.split(key)
        hard = q.sample(key_z, num_samples)  # [K, *batch, D, C]
        halfway = Categorical(jnp.log((q.mean + hard) / 2))
        x = perturb_given(key_noise, halfway, hard, inner_samples)  # [M, K, *batch, D, C]
        x = attach(x, jnp.broadcast_to(q.logits, x.shape))
        relaxed = jnp.mean(jax.nn.softmax(x / temperature), axis=0)
        z = attach(hard, 2 * relaxed - q.mean / 2)
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))
