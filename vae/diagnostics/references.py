"""The choice of the estimator whose mean is the true gradient."""

import math

from vae.diagnostics.expectations import Expectation, refusal
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME

# The true gradient is a sum over all states of the latents if the batch has at most so many states, and if a bound of K
# samples has at most so many tuples of K states: 16 bits for one datum, 10 bits in a batch of 64. With the decoder
# 500-784 of MNIST, the sum takes at most 0.7 GB of memory in float32, and 1.4 GB in float64.
MAX_TERMS = 2**16


def has_few_states(recorded: list[Expectation], num_samples: int) -> bool:
    """Whether the latents are bits or classes with so few states that the true gradient is a sum over all of them.

    Args:
      recorded: the expectations of the bound; see `expectations.record`.
      num_samples: K of the bound.
    """
    for q, reduce, *_ in recorded:
        if not isinstance(q, Bernoulli | Categorical):
            return False
        classes = 2 if isinstance(q, Bernoulli) else q.logits.shape[-1]
        states = classes ** q.logits.shape[len(q.batch_shape)]
        tuples = states ** (1 if reduce.additive else num_samples)
        if max(states * math.prod(q.batch_shape), tuples) > MAX_TERMS:
            return False
    return True


def choose_reference(recorded: list[Expectation], num_samples: int, black_box: bool = False) -> tuple[str, int]:
    """The estimator whose mean is the true gradient, and its K.

    It is `exact` if the latents have few states. Otherwise it is `reparam`, or `leave_one_out` where that does not fit.

    Args:
      recorded: the expectations of the bound; see `expectations.record`.
      num_samples: K of the estimators that are compared with the reference.
      black_box: whether the integrand has no gradient in z.

    Raises:
      ValueError: if a bound of K samples has a K that is too small for the reference, or if no reference fits, as for
        deterministic codes.
    """
    if has_few_states(recorded, num_samples) and refusal("exact", recorded, black_box) is None:
        return "exact", num_samples
    name = "reparam" if refusal("reparam", recorded, black_box) is None else "leave_one_out"
    reason = refusal(name, recorded, black_box)
    if reason is not None:
        raise ValueError(f"there is no true gradient to compare with, because {reason.partition(';')[0]}")
    least = BY_NAME[name].min_samples
    if num_samples < least and not all(expectation.reduce.additive for expectation in recorded):
        raise ValueError(f"the reference {name} needs K={least}; give the estimators this K, or give a reference")
    return name, max(num_samples, least)
