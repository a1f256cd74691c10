"""How good a trained model is: importance-weighted log-likelihood, rate and distortion, active units.

Every sample has a key of its own, a function of (key, datum, sample), and every number is accumulated over chunks, so
that neither the sizes of the chunks nor the memory of the device show in the result. Samples are hard: `q.sample`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from vae.objectives import posterior_terms


def log_likelihood(
    apply: Callable,
    params,
    x: Array,
    key: Array,
    num_samples: int,
    batch_size: int = 100,
    chunk_size: int = 50,
    first: int | Array = 0,
) -> Array:
    """The importance-weighted bound L_K <= log p(x) of each datum, `[N]` nats, K = num_samples (arXiv:1509.00519).

    Memory is that of `batch_size * chunk_size` decoded images, whatever N and K. `first` is the index of x[0] in the
    data set, for callers who hand over one part after the other.
    """

    def of_chunk(carry, ks, x, key):
        log_weights = sum(_terms(apply, params, x, key, ks))  # [chunk]
        return jnp.logaddexp(carry, jax.nn.logsumexp(jnp.where(ks < num_samples, log_weights, -jnp.inf)))

    total = _over_chunks(of_chunk, -jnp.inf, x, key, num_samples, batch_size, chunk_size, first)
    return total - jnp.log(num_samples)


def rate_distortion(
    apply: Callable, params, x: Array, key: Array, num_samples: int = 1, batch_size: int = 500, chunk_size: int = 10
) -> dict[str, Array]:
    """`elbo`, `rate` = E log q(z|x)/p(z) and `distortion` = -E log p(x|z) of each datum, each `[N]` nats, by
    `num_samples` draws; elbo = -(rate + distortion) (Alemi et al. 2018, arXiv:1711.00464)."""

    def of_chunk(carry, ks, x, key):
        log_likelihood, log_ratio = _terms(apply, params, x, key, ks)  # [chunk]
        terms = jnp.stack([-log_ratio, -log_likelihood])
        return carry + jnp.sum(jnp.where(ks < num_samples, terms, 0.0), axis=-1)

    sums = _over_chunks(of_chunk, jnp.zeros(2), x, key, num_samples, batch_size, chunk_size)
    rate, distortion = (sums / num_samples).T
    return {"elbo": -(rate + distortion), "rate": rate, "distortion": distortion}


def active_units(
    apply: Callable, params, x: Array, key: Array, threshold: float = 0.01, batch_size: int = 500
) -> tuple[Array, ...]:
    """For each stochastic layer the number of dimensions whose posterior mean varies over the data by more than
    `threshold`: Cov_x(E_q[z]) > 0.01 (Burda et al. 2015, arXiv:1509.00519, section 5.2).

    Where the mean itself is of draws (`layer_means`), two independent halves of them give its covariance with itself,
    to which the draws' own variance adds nothing.
    """

    def halves_of(datum):
        x, index = datum
        q = apply(params, x[None], method="encode")
        if hasattr(q, "layer_means"):
            keys = jax.random.split(jax.random.fold_in(key, index))
            halves = [q.layer_means(k, 25) for k in keys]
        else:
            halves = [(q.mean,)] * 2
        return jax.tree.map(lambda mean: mean[0], halves)  # of the batch of one

    first, second = jax.lax.map(halves_of, (x, jnp.arange(len(x))), batch_size=batch_size)  # each [N, *event]
    centred = lambda means: means - jnp.mean(means, axis=0)
    covariances = [jnp.mean(centred(a) * centred(b), axis=0) for a, b in zip(first, second, strict=True)]
    # A categorical dimension is active if the probability of any of its classes is.
    active = [covariance > threshold for covariance in covariances]
    return tuple(jnp.sum(jnp.any(a, axis=tuple(range(1, a.ndim)))) for a in active)


def _terms(apply, params, x, key, ks):
    """log p(x|z) and log p(z) - log q(z|x) of one datum, each `[chunk]`; sample k is drawn with fold_in(key, k)."""
    x = x[None]
    q = apply(params, x, method="encode")
    draws = jax.vmap(lambda k: q.sample(jax.random.fold_in(key, k), 1))(ks)  # [chunk, K=1, B=1, D]
    z = jax.tree.map(lambda leaf: leaf[:, 0], draws)
    return tuple(term[:, 0] for term in posterior_terms(apply, params, x, q, z))


def _over_chunks(of_chunk, start, x, key, num_samples, batch_size, chunk_size, first=0):
    """Folds `of_chunk` of each datum over chunks of samples, one batch of data after the other; `[N, ...]`."""
    chunk_size, batch_size = min(chunk_size, num_samples), min(batch_size, len(x))
    chunks = jnp.arange(-(-num_samples // chunk_size) * chunk_size).reshape(-1, chunk_size)
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(first + jnp.arange(len(x)))

    def of_batch(batch):
        x, keys = batch
        carry = jnp.broadcast_to(start, (len(x), *jnp.shape(start)))
        fold = jax.vmap(of_chunk, in_axes=(0, None, 0, 0))
        return jax.lax.scan(lambda carry, ks: (fold(carry, ks, x, keys), None), carry, chunks)[0]

    whole = len(x) // batch_size * batch_size
    split = lambda a: a[:whole].reshape(-1, batch_size, *a.shape[1:])
    out = jax.lax.map(of_batch, (split(x), split(keys)))
    out = out.reshape(whole, *out.shape[2:])
    return out if whole == len(x) else jnp.concatenate([out, of_batch((x[whole:], keys[whole:]))])
