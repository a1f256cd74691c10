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

    def of_chunk(carry, ks, x, keys):
        q, z = _sample(apply, params, x, keys, ks)
        log_weights = sum(posterior_terms(apply, params, x, q, z))  # [chunk, B]
        valid = (ks < num_samples)[:, None]
        chunk = jax.nn.logsumexp(jnp.where(valid, log_weights, -jnp.inf), axis=0)
        return jnp.logaddexp(carry, chunk)

    total = _over_chunks(of_chunk, -jnp.inf, x, key, num_samples, batch_size, chunk_size, first)
    return total - jnp.log(num_samples)


def rate_distortion(
    apply: Callable, params, x: Array, key: Array, num_samples: int = 1, batch_size: int = 500, chunk_size: int = 10
) -> dict[str, Array]:
    """`elbo`, `rate` = E log q(z|x)/p(z) and `distortion` = -E log p(x|z) of each datum, each `[N]` nats, by
    `num_samples` draws; elbo = -(rate + distortion) (Alemi et al. 2018, arXiv:1711.00464)."""

    def of_chunk(carry, ks, x, keys):
        q, z = _sample(apply, params, x, keys, ks)
        log_likelihood, log_ratio = posterior_terms(apply, params, x, q, z)
        valid = (ks < num_samples)[:, None]
        sums = jnp.stack([jnp.sum(jnp.where(valid, t, 0.0), axis=0) for t in (-log_ratio, -log_likelihood)], axis=-1)
        return carry + sums

    sums = _over_chunks(of_chunk, jnp.zeros(2), x, key, num_samples, batch_size, chunk_size)
    rate, distortion = (sums / num_samples).T
    return {"elbo": -(rate + distortion), "rate": rate, "distortion": distortion}


def active_units(apply: Callable, params, x: Array, threshold: float = 0.01) -> Array:
    """The number of latent dimensions whose posterior mean varies over the data by more than `threshold`:
    Cov_x(E_q[z]) > 0.01 (Burda et al. 2015, arXiv:1509.00519, section 5.2)."""
    means = apply(params, x, method="encode").mean  # [N, *event]
    return jnp.sum(jnp.var(means, axis=0) > threshold)


def _sample(apply, params, x, keys, ks):
    """q of batch_shape [B] and z `[chunk, B, D]`; sample k of datum n is drawn with fold_in(keys[n], k)."""
    q = apply(params, x, method="encode")
    draw = lambda q, key, k: q.sample(jax.random.fold_in(key, k), 1)[0]
    z = jax.vmap(lambda k: jax.vmap(draw, in_axes=(0, 0, None))(q, keys, k))(ks)
    return q, z


def _over_chunks(of_chunk, start, x, key, num_samples, batch_size, chunk_size, first=0):
    """Folds `of_chunk` over chunks of samples, for one batch of data after the other; `[N, ...]`."""
    chunk_size, batch_size = min(chunk_size, num_samples), min(batch_size, len(x))
    chunks = jnp.arange(-(-num_samples // chunk_size) * chunk_size).reshape(-1, chunk_size)
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(first + jnp.arange(len(x)))

    def of_batch(batch):
        x, keys = batch
        carry = jnp.broadcast_to(start, (len(x), *jnp.shape(start)))
        return jax.lax.scan(lambda carry, ks: (of_chunk(carry, ks, x, keys), None), carry, chunks)[0]

    whole = len(x) // batch_size * batch_size
    split = lambda a: a[:whole].reshape(-1, batch_size, *a.shape[1:])
    out = jax.lax.map(of_batch, (split(x), split(keys)))
    out = out.reshape(whole, *out.shape[2:])
    return out if whole == len(x) else jnp.concatenate([out, of_batch((x[whole:], keys[whole:]))])
