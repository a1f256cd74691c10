"""The choice of the estimator whose mean is the true gradient."""

from vae.diagnostics.expectations import Expectation, refusal
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME

# The true gradient is a sum over all states of the latents if the batch has at most so many states, and a bound of K
# samples at most so many tuples of K states.
MAX_STATES = 2**14
MAX_TUPLES = 2**16


def choose_reference(
    recorded: list[Expectation], batch_size: int, num_samples: int, black_box: bool = False
) -> tuple[str, int]:
    """The estimator whose mean is the true gradient, and its K.

    It is `exact` for discrete latents with few states. Otherwise it is `reparam`, or `leave_one_out` where that does
    not fit.

    Args:
      recorded: the expectations of the bound; see `expectations.record`.
      batch_size: number of data.
      num_samples: K of the estimators that are compared with the reference.
      black_box: whether the integrand has no gradient in z.

    Raises:
      ValueError: if a bound of K samples has a K that is too small for the reference, or if no reference fits, as for
        deterministic codes.
    """
    if _has_few_states(recorded, batch_size, num_samples) and refusal("exact", recorded, black_box) is None:
        return "exact", num_samples
    name = "reparam" if refusal("reparam", recorded, black_box) is None else "leave_one_out"
    reason = refusal(name, recorded, black_box)
    if reason is not None:
        raise ValueError(f"there is no true gradient to compare with, because {reason.partition(';')[0]}")
    least = BY_NAME[name].min_samples
    if num_samples < least and not all(expectation.reduce.additive for expectation in recorded):
        raise ValueError(f"the reference {name} needs K={least}; give the estimators this K, or give a reference")
    return name, max(num_samples, least)


def _has_few_states(recorded: list[Expectation], batch_size: int, num_samples: int) -> bool:
    for q, reduce, *_ in recorded:
        if not isinstance(q, Bernoulli | Categorical):
            return False
        classes = 2 if isinstance(q, Bernoulli) else q.logits.shape[-1]
        dimensions = q.logits.shape[len(q.batch_shape)]
        states = classes**dimensions
        if states * batch_size > MAX_STATES or states ** (1 if reduce.additive else num_samples) > MAX_TUPLES:
            return False
    return True
