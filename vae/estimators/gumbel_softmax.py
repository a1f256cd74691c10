"""Gumbel-softmax, also called Concrete (Jang, Gu & Poole 2016, arXiv:1611.01144; Maddison, Mnih & Teh 2016,
arXiv:1611.00712): argmax(logits + noise) becomes softmax((logits + noise) / temperature), for Gumbel noise."""

import jax

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits, perturb
from vae.estimators.tools import check_positive, integrand, stateless


def gumbel_softmax(num_samples: int = 1, temperature: float = 0.5) -> Estimator:
    """f is evaluated at the relaxed sample: an exact gradient of another value, which is no bound on log p(x).

    At a relaxed sample log q(z) is no density, so its derivative in q is kept: the relaxed value is differentiated as
    it stands. A low temperature trades bias for variance. Evaluate with hard samples. A valid relaxed bound needs
    Concrete densities in q and in p: these are the families BinaryConcrete and ExpConcrete, for `reparam`.
    """
    check_positive(temperature=temperature)

    def estimate(key, q, f, reduce, log_q_weight):
        z = jax.nn.softmax(perturb(key, q, num_samples) / temperature)
        return reduce(integrand(f, q, log_q_weight)(z))

    return accept_bits(stateless(estimate))
