"""The unordered-set estimator (Kool, van Hoof & Welling 2020, arXiv:2002.06043): k classes are drawn without
replacement, and their weights average over all orders in which they could have been drawn."""

import itertools

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from vae.estimators.contract import Estimator
from vae.estimators.parts.one_dimension import changed_one_by_one, expected_score
from vae.estimators.tools import held, inject, integrand, stateless

LARGEST_SET = 10  # the program has a term for each of the 2^k subsets


def unordered_set(num_samples: int = 1, k: int = 2) -> Estimator:
    """Draws k classes of one dimension at a time, while the other dimensions keep their sampled classes.

    The first class drawn is the sample. f is evaluated 1 + D (k - 1) times for each sample. With k = C, the estimator
    is local expectation.

    Raises:
      ValueError: from `estimate`, if k is not between 2 and C, or is above 10.
    """

    def estimate(key, q, f, reduce, log_q_weight):
        f = integrand(f, held(q, reduce), log_q_weight)
        log_probs = jax.nn.log_softmax(stop_gradient(q.logits))
        classes = q.logits.shape[-1]
        if not 2 <= k <= min(classes, LARGEST_SET):
            raise ValueError(f"k must be from 2 to {min(classes, LARGEST_SET)} with {classes} classes, got {k}")
        perturbed = log_probs + jax.random.gumbel(key, (num_samples, *q.logits.shape), q.logits.dtype)
        drawn = jnp.moveaxis(jax.lax.top_k(perturbed, k)[1], -1, 0)  # [k, K, *batch, D]
        chosen = jax.nn.one_hot(drawn, classes, dtype=log_probs.dtype)  # [k, K, *batch, D, C]
        z = chosen[0]
        values = f(z)  # [K, *batch]
        changes = changed_one_by_one(f, q, z, chosen[1:]) - values[..., None]
        changes = jnp.concatenate([jnp.zeros_like(changes[:1]), changes])  # [k, K, *batch, D]
        weight, control = set_weights(log_probs, chosen)
        grad = expected_score(q, chosen, weight * (changes - jnp.sum(control * changes, axis=1)))
        return reduce(values) + inject(q.logits, grad, len(q.batch_shape))

    return stateless(estimate)


def set_weights(log_probs: Array, chosen: Float[Array, "k *rest C"]) -> tuple[Array, Array]:
    """Returns the weights of a set S of k one-hot classes, `[k, ...]`, and the weights of its controls, `[k, k, ...]`.

    The weight of a class s is the probability that s was drawn first, given that S was drawn; in the paper it is
    p(s) R(S, s). The control of s is the weighted sum of f over S with the weight p(s) for s itself. The weight of any
    other class s' is 1 - p(s) times the probability that s' was drawn first, given that the rest of S was drawn from
    the classes without s. The weights of each control sum to 1.

    Let u(part) be the probability that, after `part` has been drawn, the rest of S is drawn next. Then u(S) = 1, and
    u(part) is the sum over the classes s in the rest of u(part + s) times the probability of s among the classes
    outside `part`. S has 2^k parts, each a set of positions. Impossible classes are drawn last: all have one tiny
    probability, which cancels.
    """
    log_probs = jnp.maximum(log_probs, jnp.finfo(log_probs.dtype).min)
    log_p = jnp.sum(jnp.where(chosen == 1, log_probs, 0.0), axis=-1)  # [k, ...]
    positions = range(len(chosen))
    parts = [frozenset(part) for size in positions for part in itertools.combinations(positions, size)]
    log_u = {frozenset(positions): jnp.zeros_like(log_p[0])}
    log_left = {}  # of a part: the log-probability of all classes outside
    log_next = {}  # of a part: the logs of the terms of u(part), one for each class in the rest
    for part in reversed(parts):  # from the largest to the empty part
        drawn = sum((chosen[s] for s in part), start=jnp.zeros_like(chosen[0]))
        outside = jnp.where(drawn == 1, -jnp.inf, log_probs)
        top = jnp.max(outside, axis=-1)
        log_sum = jnp.log(jnp.sum(jnp.exp(outside - top[..., None]), axis=-1))
        log_left[part] = top + log_sum
        # The difference of two large logs comes first, because a small summand would be lost in either.
        rest = [s for s in positions if s not in part]
        log_next[part] = jnp.stack([log_p[s] - top - log_sum + log_u[part | {s}] for s in rest])
        log_u[part] = jax.nn.logsumexp(log_next[part], axis=0)

    def control(s):
        others = jnp.exp(log_left[frozenset({s})]) * jax.nn.softmax(log_next[frozenset({s})], axis=0)
        return jnp.concatenate([others[:s], jnp.exp(log_p[s])[None], others[s:]])

    return jax.nn.softmax(log_next[frozenset()], axis=0), jnp.stack([control(s) for s in positions])
