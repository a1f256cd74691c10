"""The exact mean of each loss's gradient, the moments of its draws, and the verdicts."""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from experiments.common import phases
from experiments.policy_gradients.losses import Entry, Group
from experiments.policy_gradients.policy import SEQUENCES, Setting, token_log_probs
from vae import diagnostics
from vae.devices.cpu import on_cpu

PyTree = Any

# The mean of a gradient is a sum over all groups of sequences if there are at most so many.
MAX_GROUPS = 1_000_000
# The groups whose gradients are computed at once, in that sum.
SIDE_BY_SIDE = 2**13
# Two gradients count as equal if they differ by at most this share of their length.
EQUAL = 1e-9
CHUNKS = 20
# The name of a mean that is none of the known gradients.
NONE = "none of these"

to_vector = lambda gradient: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def look_up(setting: Setting, params: PyTree, index: jax.Array | np.ndarray, off_policy: bool) -> Group:
    """The group with the sequences `index`, `[K]`, as a trainer sees it."""
    log_pi = token_log_probs(params)
    log_old = token_log_probs(setting.older) if off_policy else stop_gradient(log_pi)
    log_ref = token_log_probs(setting.reference)
    return Group(log_pi[index], log_old[index], log_ref[index], jnp.asarray(setting.reward)[index])


def _drawn_by(setting: Setting, entry: Entry) -> PyTree:
    """The parameters of the policy that draws the sequences."""
    return setting.older if entry.off_policy else setting.policy


@jax.jit
def _log_probs(params: PyTree) -> jax.Array:
    """The log-probability of each sequence, `[64]`."""
    return jnp.sum(token_log_probs(params), axis=-1)


# --- The exact mean


def exact_mean(setting: Setting, entry: Entry, num_samples: int) -> PyTree | None:
    """The expectation of the gradient over all groups, in float64; None if there are too many groups.

    The order of the sequences in a group does not matter, so groups that differ only in order are counted at once.
    """
    states = len(SEQUENCES)
    number = math.comb(states + num_samples - 1, num_samples)
    if number > MAX_GROUPS:
        return None
    groups = itertools.combinations_with_replacement(range(states), num_samples)
    index = np.fromiter(itertools.chain.from_iterable(groups), np.int32).reshape(number, num_samples)
    with on_cpu(), jax.enable_x64(True):
        log_probs = np.asarray(_log_probs(_drawn_by(setting, entry)))
        weight = _orders(index) * np.exp(np.sum(log_probs[index], axis=-1))
        rows = min(number, SIDE_BY_SIDE)
        missing = -number % rows
        index = np.pad(index, ((0, missing), (0, 0))).reshape(-1, rows, num_samples)
        weight = np.pad(weight, (0, missing)).reshape(-1, rows)

        def weighted_sum(params, index, weight):
            loss = lambda index: entry.loss(look_up(setting, params, index, entry.off_policy))
            return weight @ jax.vmap(loss)(index)

        @jax.jit
        def total(params, index, weight):
            add = lambda sum, block: (jax.tree.map(jnp.add, sum, jax.grad(weighted_sum)(params, *block)), None)
            return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (index, weight))[0]

        return jax.tree.map(np.asarray, total(jax.tree.map(jnp.asarray, setting.policy), index, weight))


def _orders(index: np.ndarray) -> np.ndarray:
    """The number of different orders of each sorted group `[M, K]`: K! over the factorials of the repetitions."""
    place = np.ones(index.shape)  # of a sequence among its repetitions: 1, 2, ...
    for k in range(1, index.shape[1]):
        place[:, k] = np.where(index[:, k] == index[:, k - 1], place[:, k - 1] + 1, 1)
    return math.factorial(index.shape[1]) / np.prod(place, axis=1)


def name_gradient(mean: PyTree, known: dict[str, PyTree]) -> str:
    """The name of the known gradient that the mean equals, with a factor if it is a multiple of it."""
    mean = to_vector(mean)
    size = np.linalg.norm(mean)
    vectors = {name: to_vector(gradient) for name, gradient in known.items()}
    if size <= EQUAL * max(np.linalg.norm(vector) for vector in vectors.values()):
        return "0"
    for name, vector in vectors.items():
        factor = mean @ vector / (vector @ vector)
        if np.linalg.norm(mean - factor * vector) <= EQUAL * size:
            return name if abs(factor - 1) <= EQUAL else f"{factor:.3g} x {name}"
    return NONE


# --- The draws


class Measurement(NamedTuple):
    """The figures of an estimator's draws, and its variance by chunk of draws, `[chunks]`."""

    figures: dict[str, float]
    variance_by_chunk: np.ndarray


def draw(setting: Setting, entry: Entry, num_samples: int, truth: PyTree, draws: int, seed: int) -> Measurement:
    """The moments of many gradients, each of a new group of sequences, against the exact gradient."""
    log_probs = _log_probs(_drawn_by(setting, entry))

    def gradient(key):
        index = jax.random.categorical(key, log_probs, shape=(num_samples,))
        loss = lambda params: entry.loss(look_up(setting, params, index, entry.off_policy))
        return jax.grad(loss)(jax.tree.map(jnp.asarray, setting.policy))

    size = draws // CHUNKS
    block = max(number for number in range(1, min(size, 1000) + 1) if size % number == 0)
    moments = jax.jit(
        lambda key, truth: diagnostics.gradient_moments(gradient, key, draws, CHUNKS, block=block, truth=truth)
    )
    truth = diagnostics.exactly(truth)
    report, by_chunk = jax.device_get(_figures(moments(jax.random.key(seed), truth), truth))
    figures = {name: float(value) for name, value in report["policy"].items()}
    return Measurement(figures, by_chunk["policy"]["variance"])


@jax.jit
def _figures(moments: diagnostics.Moments, truth: diagnostics.Truth):
    return diagnostics.report(moments, truth), diagnostics.figures_by_chunk(moments)


# --- The rows of the table


def make_rows(
    setting: Setting,
    entries: dict[str, Entry],
    known: dict[str, PyTree],
    group: int,
    draws: int,
    seed: int,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """A row for each loss; those that are compared with each other stand together.

    Losses with the same claim, of sequences of the same policy, are compared with each other by variance x sequences.

    Args:
      setting: the policies and the reward.
      entries: the losses by name.
      known: the gradients that a loss may have, as `known_gradients` returns them.
      group: the number K of sequences of the losses that need several.
      draws: the number of gradients of each loss, a multiple of `CHUNKS`.
      seed: the seed of the draws.
      confidence: the level of each interval of a bias and a variance, and of all ratios of a comparison at once.
    """
    weights = diagnostics.resampling(CHUNKS)
    rows, measurements = [], []
    for name, entry in phases.each(list(entries.items()), "measuring", lambda item: item[0]):
        num_samples = group if entry.in_groups else 1
        mean = exact_mean(setting, entry, num_samples)
        measurement = draw(setting, entry, num_samples, known[entry.claims], draws, seed)
        by_chunk = measurement.variance_by_chunk
        low, high = diagnostics.figure_interval("variance", by_chunk, weights, draws, confidence)
        row = {
            "estimator": name,
            "drawn_by": "older" if entry.off_policy else "policy",
            "sequences": num_samples,
            "claims": entry.claims,
            "gradient_of": "unknown" if mean is None else name_gradient(mean, known),
            **_exact_bias(mean, known[entry.claims]),
            **diagnostics.bias_figures(measurement.figures, draws, CHUNKS, confidence),
            "variance": measurement.figures["variance"],
            "variance_low": low,
            "variance_high": high,
            "source": entry.source,
        }
        rows.append(row)
        measurements.append(measurement)
    comparisons: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        comparisons.setdefault((row["claims"], row["drawn_by"]), []).append(i)
    for members in comparisons.values():
        _compare([rows[i] for i in members], [measurements[i] for i in members], weights, confidence)
    return [rows[i] for members in comparisons.values() for i in members]


def _exact_bias(mean: PyTree | None, claim: PyTree) -> dict[str, float]:
    """The exact distance of the mean from the claim over the length of the claim, and the cosine of their angle."""
    if mean is None:
        return {"exact_error": math.nan, "exact_cosine": math.nan}
    mean, claim = to_vector(mean), to_vector(claim)
    length = np.linalg.norm(claim)
    size = np.linalg.norm(mean)
    cosine = float(mean @ claim / (size * length)) if size > EQUAL * length else math.nan
    return {"exact_error": float(np.linalg.norm(mean - claim) / length), "exact_cosine": cosine}


def _compare(rows: list[dict], measurements: list[Measurement], weights: np.ndarray, confidence: float) -> None:
    """Adds to each row the ratio of its variance x sequences to the best loss, and the verdict."""
    costs = [row["sequences"] for row in rows]
    variances = [diagnostics.ranked_variance(measurement.figures) for measurement in measurements]
    best = diagnostics.choose_best(variances, costs, [not row["biased"] for row in rows])
    by_chunk = [measurement.variance_by_chunk for measurement in measurements]
    ratios = diagnostics.compare_products(variances, by_chunk, costs, weights, confidence)
    for i, row in enumerate(rows):
        value, low, high = (float(ends[i, best]) for ends in ratios)
        if i == best:
            low = high = math.nan
        row |= {"to_best": value, "to_best_low": low, "to_best_high": high}
        row["verdict"] = diagnostics.judge(row["variance"], row["biased"], i == best, low, high)
