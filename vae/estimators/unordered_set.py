"""The unordered-set estimator (Kool, van Hoof & Welling 2020, arXiv:2002.06043): k classes are drawn without
replacement, and their weights average over all orders in which they could have been drawn."""

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
    v(part + s), divided by the probability of all classes outside `part`. S has 2^k parts.
    """
    k = len(chosen)
    log_v = {2**k - 1: jnp.zeros(chosen.shape[1:-1], log_probs.dtype)}
    for part in reversed(range(2**k - 1)):
        given = sum((chosen[s] for s in range(k) if part >> s & 1), start=jnp.zeros_like(chosen[0]))
        log_left = jax.nn.logsumexp(jnp.where(given == 1, -jnp.inf, log_probs), axis=-1)
        following = jnp.stack([log_v[part | 1 << s] for s in range(k) if not part >> s & 1])
        log_v[part] = jax.nn.logsumexp(following, axis=0) - log_left
    weight = jnp.stack([jnp.exp(log_v[1 << s] - log_v[0]) for s in range(k)])
    own = jnp.exp(jnp.sum(chosen * log_probs, axis=-1))
    ratio = lambda s, other: own[s] if s == other else jnp.exp(log_v[1 << s | 1 << other] - log_v[1 << s])
    return weight, jnp.stack([jnp.stack([ratio(s, other) for other in range(k)]) for s in range(k)])
