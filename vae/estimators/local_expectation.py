"""Local expectation gradients (Titsias & Lázaro-Gredilla 2015, arXiv:1503.01494), later also called IndeCateR."""

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_dimension import changed_one_by_one, expected_score, other_values
from vae.estimators.tools import held, inject, integrand, stateless


def local_expectation(num_samples: int = 1) -> Estimator:
    """Sums over all values of one dimension at a time, while the other dimensions keep their sampled values.

    f is evaluated 1 + D times for each sample of Bernoulli latents, and 1 + D (C - 1) times for each sample of
    Categorical latents. The gradient is exact if D = 1.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        f = integrand(f, held(q, reduce), log_q_weight)
        z = q.sample(key, num_samples)  # [K, *batch, *event]
        values = f(z)  # [K, *batch]
        others, probability = other_values(q, z)
        differences = changed_one_by_one(f, q, z, others) - values[..., None]
        grad = expected_score(q, others, probability * differences)
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)
