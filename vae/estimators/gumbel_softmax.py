"""Gumbel-softmax, also called Concrete (Jang, Gu & Poole 2016, arXiv:1611.01144; Maddison, Mnih & Teh 2016,
arXiv:1611.00712): argmax(logits + noise) becomes softmax((logits + noise) / temperature), for Gumbel noise."""

import jax

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_hot import accept_bits, perturb
from vae.estimators.tools import check_positive, integrand, stateless


def gumbel_softmax(num_samples: int = 1, temperature: float = 0.5) -> Estimator:
    """Evaluates f at relaxed samples. The gradient is exact for the relaxed value, which is not a bound on log p(x).

    log q(z) is not a density at a relaxed sample, and its derivative in q need not have mean zero. That derivative is
    therefore kept. A lower temperature has less bias and more variance. Evaluate trained models with hard samples. A
    valid relaxed bound needs Concrete densities in q and in p: use `reparam` with the families BinaryConcrete and
    ExpConcrete.
    """
    check_positive(temperature=temperature)

    def estimate(key, q, f, reduce, log_q_weight):
        z = jax.nn.softmax(perturb(key, q, num_samples) / temperature)
        return reduce(integrand(f, q, log_q_weight)(z))

    return accept_bits(stateless(estimate))
