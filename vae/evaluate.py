"""Figures of a trained model: log-likelihood by importance weights, rate and distortion, active units, used codes.

Each sample has its own key, a function of (key, datum, sample), and sums are accumulated over chunks. The results
therefore do not depend on the sizes of the chunks or on the memory of the device. Samples are hard: they come from
`q.sample`. The model sees batches of one datum, so it must not normalize over the batch.

The functions call the model's methods encode(x), log_likelihood(x, z) and prior_distribution(); `active_units` and
`code_usage` call encode(x) alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vae import pareto
from vae.apply import check_apply
from vae.estimators.contract import Samples, check_equal_shapes

Images = PyTree[Shaped[Array | np.ndarray, "N ..."]]  # [N, H, W, C], or a pytree of arrays, as the model takes it


def log_likelihood(
    apply: Callable,
    params: PyTree,
    x: Images,
    key: PRNGKeyArray,
    num_samples: int,
    batch_size: int = 100,
    chunk_size: int = 50,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "N"]:
    """The importance-weighted bound L_K <= log p(x) of each datum in nats, with K = num_samples (arXiv:1509.00519).

    Args:
      apply: the model's `apply`.
      params: the model's variables.
      x: the data.
      key: key of the noise.
      num_samples: K.
      batch_size: number of data that are evaluated at once. Memory is needed for `batch_size * chunk_size` decoded
        images, whatever N and K are.
      chunk_size: number of samples of each datum that are drawn at once.
      first: index of x[0] in the data set, for callers that evaluate the data set part by part. Inside of
        `jax.shard_map`, which needs check_vma=False here, it is `jax.lax.axis_index(name) * len(x)`; devices with the
        same `first` draw the same noise.
    """

    weights = importance_weights(apply, params, x, key, num_samples, batch_size, chunk_size, first)
    return weights["log_likelihood"]


def importance_weights(
    apply: Callable,
    params: PyTree,
    x: Images,
    key: PRNGKeyArray,
    num_samples: int,
    batch_size: int = 100,
    chunk_size: int = 50,
    first: int | Int[Array, ""] = 0,
) -> dict[str, Float[Array, "N"]]:
    """The bound of `log_likelihood`, and two figures that say how far its K importance weights can be trusted.

    `log_likelihood` is L_K in nats. `ess_share` is the effective sample size (sum w)^2 / sum w^2 as a share of K: 1/K
    if one weight dominates, and 1 if all weights are equal. `pareto_k` is the shape of the tail of the weights. It is
    above 0.7 if the tail is too heavy for K samples (`vae.pareto`), and NaN if K is at most 20 or if many weights are
    equal.

    The arguments are those of `log_likelihood`. The M = 3 sqrt(K) largest weights of each datum are kept.
    """
    check_sizes(num_samples=num_samples)
    tail = pareto.tail_length(num_samples) + 1

    finite = lambda top: jnp.where(jnp.isinf(top), 0.0, top)

    def add_chunk(carry, ks, q, x, key):
        # The sums are of weights divided by exp(top), the largest so far: logs of size 1e5 have no digits for the ESS.
        top, total, squares, largest = carry
        log_weights = sum(_terms(apply, params, q, x, key, ks))  # [chunk]
        log_weights = jnp.where(ks < num_samples, log_weights, -jnp.inf)
        new_top = jnp.maximum(top, jnp.max(log_weights))
        rescale = jnp.exp(top - finite(new_top))
        weights = jnp.exp(log_weights - finite(new_top))
        total = total * rescale + jnp.sum(weights)
        squares = squares * jnp.square(rescale) + jnp.sum(jnp.square(weights))
        return new_top, total, squares, jax.lax.top_k(jnp.concatenate([largest, log_weights]), tail)[0]

    def finish(carry):
        top, total, squares, largest = carry
        return {
            "log_likelihood": finite(top) + jnp.log(total) - jnp.log(num_samples),
            "ess_share": jnp.square(total) / squares / num_samples,
            "pareto_k": pareto.pareto_k(largest),
        }

    start = (-jnp.inf, 0.0, 0.0, jnp.full(tail, -jnp.inf))
    encode = _encoder(apply, params, x)
    return _over_chunks(encode, add_chunk, start, x, key, num_samples, batch_size, chunk_size, first, finish)


def rate_distortion(
    apply: Callable,
    params: PyTree,
    x: Images,
    key: PRNGKeyArray,
    num_samples: int = 1,
    batch_size: int = 500,
    chunk_size: int = 10,
) -> dict[str, Float[Array, "N"]]:
    """`rate` = E log q(z|x)/p(z), `distortion` = -E log p(x|z) and `elbo` = -(rate + distortion) of each datum in nats,
    from `num_samples` draws (Alemi et al. 2018, arXiv:1711.00464)."""

    def add_chunk(carry, ks, q, x, key):
        log_likelihood, log_ratio = _terms(apply, params, q, x, key, ks)  # [chunk]
        terms = jnp.stack([-log_ratio, -log_likelihood])
        return carry + jnp.sum(jnp.where(ks < num_samples, terms, 0.0), axis=-1)

    encode = _encoder(apply, params, x)
    sums = _over_chunks(encode, add_chunk, jnp.zeros(2), x, key, num_samples, batch_size, chunk_size)
    rate, distortion = (sums / num_samples).T
    return {"elbo": -(rate + distortion), "rate": rate, "distortion": distortion}


def rate_by_layer(
    apply: Callable,
    params: PyTree,
    x: Images,
    key: PRNGKeyArray,
    num_samples: int = 1,
    batch_size: int = 500,
    chunk_size: int = 10,
) -> Float[Array, "N L"]:
    """The part of the rate that each of L stochastic layers pays, E log q(z_l|.) / p(z_l|z_(l+1)) in nats.

    The parts of a datum add up to its rate. With inference from the top, q(z_l|.) is q(z_l|z_(l+1), x), and the part is
    the mean of a KL divergence. With a chain from the bottom up, it is q(z_l|z_(l-1)), and the part may be negative.
    """
    prior = apply(params, method="prior_distribution")

    def add_chunk(carry, ks, q, x, key):
        z = jax.vmap(lambda k: q.sample(jax.random.fold_in(key, k), 1))(ks)
        z = jax.tree.map(lambda leaf: leaf[:, 0], z)  # [chunk, B=1, D] of each layer
        log_ratios = [a - b for a, b in zip(q.log_prob_by_layer(z), prior.log_prob_by_layer(z), strict=True)]
        return carry + jnp.sum(jnp.where(ks < num_samples, jnp.stack(log_ratios)[..., 0], 0.0), axis=-1)

    encode, start = _encoder(apply, params, x), jnp.zeros(prior.num_layers)
    return _over_chunks(encode, add_chunk, start, x, key, num_samples, batch_size, chunk_size) / num_samples


def active_units(
    apply: Callable,
    params: PyTree,
    x: Images,
    key: PRNGKeyArray,
    threshold: float = 0.01,
    batch_size: int = 500,
) -> tuple[Int[Array, ""], ...]:
    """The number of active units of each stochastic layer (Burda et al. 2015, arXiv:1509.00519, section 5.2).

    A unit is active if the variance of its posterior mean over the data, Var_x(E_q[z]), is above `threshold`.

    Above the first layer, and for families without a mean, the mean itself is estimated from draws. The variance is
    then estimated by the covariance of two independent estimates of the mean, which is not biased by their noise. The
    noise is the same for all data, so that equal posteriors have equal means.
    """

    encode = _encoder(apply, params, x)

    def two_means(datum):
        q = encode(datum)
        means = [latent_means(q, k, 25) for k in jax.random.split(key)]
        return jax.tree.map(lambda mean: mean[0], means)  # the batch has one datum

    check_sizes(batch_size=batch_size)
    first, second = in_batches(two_means, x, batch_size)  # each [N, *event]
    centred = lambda means: means - jnp.mean(means, axis=0)
    covariances = [jnp.mean(centred(a) * centred(b), axis=0) for a, b in zip(first, second, strict=True)]
    # A categorical dimension is active if the probability of one of its classes varies.
    active = [covariance > threshold for covariance in covariances]
    return tuple(jnp.sum(jnp.any(a, axis=tuple(range(1, a.ndim)))) for a in active)


def code_usage(apply: Callable, params: PyTree, x: Images, batch_size: int = 500) -> dict[str, Array]:
    """How many codes the images x use, for a model whose latents are quantized (`VAE.has_codes`).

    `codes_used` is the number of codes that are expected at least once in all positions of all images, and
    `code_perplexity` is the exponential of the entropy of the codes' frequencies: C if all C codes are equally
    frequent.
    """
    check_sizes(batch_size=batch_size)

    encode = _encoder(apply, params, x)

    def count(datum):
        q = encode(datum)
        return q.code_counts() if hasattr(q, "code_counts") else jnp.sum(q.mean, axis=tuple(range(q.mean.ndim - 1)))

    counts = jnp.sum(in_batches(count, x, batch_size), axis=0)
    frequencies = counts / jnp.sum(counts)
    return {
        "codes_used": jnp.sum(counts >= 1),
        "code_perplexity": jnp.exp(jnp.sum(jax.scipy.special.entr(frequencies))),
    }


def latent_means(q: Any, key: PRNGKeyArray, num_samples: int) -> tuple[Float[Array, "..."], ...]:
    """E_q[z] of each stochastic layer, `[*batch, D]`: exact for the first layer if its family has a `mean`, and
    otherwise an average over draws."""
    if hasattr(q, "layer_means"):
        return q.layer_means(key, num_samples)
    if hasattr(q, "mean"):
        return (q.mean,)
    return (jnp.mean(q.sample(key, num_samples), axis=0),)


def posterior_terms(
    apply: Callable,
    params: PyTree,
    x: PyTree,
    q: Any,
    z: Samples,
    log_q: Float[Array, "K B"] | None = None,
) -> tuple[Float[Array, "K B"], Float[Array, "K B"]]:
    """Returns log p(x|z) and log p(z) - log q(z|x), whose sum is the log importance weight, in nats.

    `log_q` is log q(z|x) where it is known, as for samples of a flow; by default it is `q.log_prob(z)`.
    """
    log_prior = apply(params, method="prior_distribution").log_prob(z)
    log_q = q.log_prob(z) if log_q is None else log_q
    log_likelihood = apply(params, x, z, method="log_likelihood")
    check_equal_shapes({"log p(x|z)": log_likelihood, "log p(z)": log_prior, "log q(z|x)": log_q})
    return log_likelihood, log_prior - log_q


def keys_of_data(key: PRNGKeyArray, first: int | Int[Array, ""], number: int) -> Array:
    """A key for each of `number` data; `first` is the index of the first one in the data set."""
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(first + jnp.arange(number))


def in_batches(function: Callable, data: PyTree, batch_size: int) -> PyTree:
    """`function` of each datum of `data`, a pytree of arrays `[N, ...]`, for one batch of data after the other.

    All batches have the same size, so one batch is traced and compiled. There are as few batches of at most
    `batch_size` data as possible. The last one may be filled up with other data, whose results are left out.
    """
    number = len(jax.tree.leaves(data)[0])
    batches = max(1, -(-number // batch_size))
    size = -(-number // batches)

    def split(a):
        return jnp.concatenate([a, a[: batches * size - number]]).reshape(batches, size, *a.shape[1:])

    out = jax.lax.map(jax.vmap(function), jax.tree.map(split, data))
    return jax.tree.map(lambda leaf: leaf.reshape(batches * size, *leaf.shape[2:])[:number], out)


def check_images(apply: Callable, x: PyTree) -> None:
    """Lets the model refuse values of x, which it cannot see inside of the loop over batches.

    The model has the method `check_images(x)`, as `vae.models.VAE` does, and `apply` is its own `apply`. No other model
    is asked, and none about a pytree.
    """
    check_apply(apply)
    model = getattr(apply, "__self__", None)
    is_float = isinstance(x, Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)  # `encode` refuses integers
    if is_float and hasattr(model, "check_images"):
        model.check_images(x)


def check_sizes(**sizes: int) -> None:
    """Raises ValueError with the name of a size that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _encoder(apply, params, x):
    """The function from one datum of x to q(z|x), of batch_shape `[1]`."""
    check_images(apply, x)
    return lambda datum: apply(params, as_batch(datum), method="encode")


def as_batch(datum: PyTree) -> PyTree:
    """The datum as a batch of one."""
    return jax.tree.map(lambda leaf: leaf[None], datum)


def _terms(apply, params, q, x, key, ks):
    """log p(x|z) and log p(z) - log q(z|x) of one datum, each `[chunk]`; sample k is drawn with fold_in(key, k)."""
    draws = jax.vmap(lambda k: _draw(q, jax.random.fold_in(key, k)))(ks)  # [chunk, K=1, B=1, D], [chunk, K=1, B=1]
    z, log_q = jax.tree.map(lambda leaf: leaf[:, 0], draws)
    return tuple(term[:, 0] for term in posterior_terms(apply, params, as_batch(x), q, z, log_q))


def _draw(q, key):
    """One sample and log q of it: together where q can, because a flow may have no inverse."""
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(key, 1)
    z = q.sample(key, 1)
    return z, q.log_prob(z)


def _over_chunks(
    encode, add_chunk, start, x, key, num_samples, batch_size, chunk_size, first=0, finish=lambda carry: carry
):
    """Folds `add_chunk(carry, samples, q, datum, key)` over chunks of samples, for one batch of data after the other.

    Each datum is encoded once: q is `encode(datum)`. The result is `finish(carry)` of each datum, with a leading `[N]`.
    """
    check_sizes(num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
    chunk_size = min(chunk_size, num_samples)
    chunks = jnp.arange(-(-num_samples // chunk_size) * chunk_size).reshape(-1, chunk_size)
    keys = keys_of_data(key, first, len(jax.tree.leaves(x)[0]))

    def evaluate_one(datum, key):
        # q stays inside of `vmap`, so weights that q holds for all data are not copied for each datum.
        q = encode(datum)
        fold = lambda carry, ks: (add_chunk(carry, ks, q, datum, key), None)
        return finish(jax.lax.scan(fold, jax.tree.map(jnp.asarray, start), chunks)[0])

    return in_batches(lambda datum: evaluate_one(*datum), (x, keys), batch_size)
