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

    Let v(part) be the probability that, after `part` has been drawn, the rest of S is drawn next, divided by the
    product of the probabilities of the rest. Then v(S) = 1, and v(part) is the sum over the classes s in the rest of
    v(part + s), divided by the probability of all classes outside `part`. S has 2^k parts, each a set of positions.
    """
    positions = range(len(chosen))
    parts = [frozenset(part) for size in range(len(chosen) + 1) for part in itertools.combinations(positions, size)]
    whole, *smaller = reversed(parts)
    log_v = {whole: jnp.zeros(chosen.shape[1:-1], log_probs.dtype)}
    for part in smaller:  # from the largest to the empty part
        drawn = sum((chosen[s] for s in part), start=jnp.zeros_like(chosen[0]))
        log_left = jax.nn.logsumexp(jnp.where(drawn == 1, -jnp.inf, log_probs), axis=-1)
        log_v[part] = jax.nn.logsumexp(jnp.stack([log_v[part | {s}] for s in whole - part]), axis=0) - log_left
    first = [log_v[frozenset({s})] for s in positions]
    weight = jnp.stack([jnp.exp(first[s] - log_v[frozenset()]) for s in positions])

    def control(s):
        own = jnp.exp(jnp.sum(jnp.where(chosen[s] == 1, log_probs, 0.0), axis=-1))
        both = [own if other == s else jnp.exp(log_v[frozenset({s, other})] - first[s]) for other in positions]
        return jnp.stack(both)

    return weight, jnp.stack([control(s) for s in positions])
