"""How often the laboratory's verdicts and intervals are wrong, measured on simulated gradients whose truth is known.

    python -m tests.helpers.levels          prints the table of experiments/compare_estimators/README.md, in 2 minutes

The gradients pass through the laboratory's own functions. Every estimator is unbiased and as good as every other, so
each "worse", "better" and "biased" is false.
"""

import functools
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import tables
from experiments.compare_estimators.verdicts import Entrant, Seconds, compare
from vae import diagnostics

CHUNKS = 50
CONFIDENCE = 0.95
REPLICATES = 500


class Toy(NamedTuple):
    """Simulated gradients: `draw(key, shape)` has a further axis of coordinates; the rest is the truth."""

    draw: object
    mean: np.ndarray
    variance: float
    snr: float


class Levels(NamedTuple):
    """Rates of one toy at one number of draws: false verdicts, and coverages of 95 % intervals."""

    different_of_2: float
    different_of_12: float
    biased: float
    variance: float
    snr: float
    bias: float


def _toy(draw, mean, variances) -> Toy:
    mean, variances = np.asarray(mean, np.float32), np.asarray(variances)
    return Toy(draw, mean, float(variances.sum()), float(np.mean(np.abs(mean) / np.sqrt(variances))))


def _score_function(key, shape):
    """REINFORCE's gradients of E (z + 3)^2, z ~ N(1, 1), in the mean and the scale."""
    noise = jax.random.normal(key, shape)
    cost = jnp.square(4 + noise)
    return jnp.stack([cost * noise, cost * (jnp.square(noise) - 1)], axis=-1)


RANK_ONE = 9.5  # the standard deviation over |t|, so that the mean of 1000 draws has an error of 0.3 |t|
TOYS = {
    "normal": _toy(lambda key, shape: 1 + jax.random.normal(key, (*shape, 4)), np.ones(4), np.ones(4)),
    "normal, one direction": _toy(
        lambda key, shape: jnp.ones(4) * (1 + RANK_ONE * jax.random.normal(key, (*shape, 1))),
        np.ones(4),
        np.full(4, RANK_ONE**2),
    ),
    "REINFORCE": _toy(_score_function, [8, 2], [4**4 + 14 * 4**2 + 15, 2 * 4**4 + 60 * 4**2 + 74]),
    "lognormal": _toy(
        lambda key, shape: jnp.exp(jax.random.normal(key, (*shape, 4))),
        np.full(4, np.exp(0.5)),
        np.full(4, np.e * (np.e - 1)),
    ),
}


def measure(name: str, draws: int, repetitions: int, compared: int) -> Levels:
    """The levels of one toy. Each repetition has twelve estimators and a reference that is as noisy as each of them.

    The slow verdicts and intervals are made for the first `compared` repetitions only.
    """
    toy = TOYS[name]
    figures, by_chunk = jax.device_get(_simulate(toy.draw, draws, jax.random.key(0), repetitions))
    figures = {key: value.ravel() for key, value in figures.items()}
    by_chunk = {key: value[:compared] for key, value in by_chunk.items()}
    weights = diagnostics.resampling(CHUNKS, REPLICATES)
    some_differ = lambda number: np.mean([_some_differ(rows[:number], weights) for rows in by_chunk["variance"]])

    def coverage(figure: str, truth: float) -> float:
        rows = by_chunk[figure][:, :4].reshape(-1, CHUNKS)
        ends = [diagnostics.figure_interval(figure, row, weights, draws, CONFIDENCE) for row in rows]
        return float(np.mean([low <= truth <= high for low, high in ends]))

    reach = diagnostics.students_t(CONFIDENCE, CHUNKS) * figures["scale_stderr"]
    return Levels(
        float(some_differ(2)),
        float(some_differ(12)),
        biased=float(np.mean(_are_biased(figures, draws))),
        variance=coverage("variance", toy.variance),
        snr=coverage("snr", toy.snr),
        bias=float(np.mean(np.abs(figures["scale"] - 1) <= reach)),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _simulate(draw, draws: int, key, repetitions: int):
    """The figures `[repetitions, 12]`, and the figures by chunk `[repetitions, 12, chunks]`."""

    def repetition(key):
        moments = jax.vmap(lambda key: moments_of(draw(key, (CHUNKS, draws // CHUNKS))))(jax.random.split(key, 13))
        reference = diagnostics.reference(jax.tree.map(lambda leaf: leaf[0], moments))
        others = jax.tree.map(lambda leaf: leaf[1:], moments)
        figures = jax.vmap(lambda moments: diagnostics.report(moments, reference)["phi"])(others)
        return figures, jax.vmap(lambda moments: diagnostics.figures_by_chunk(moments)["phi"])(others)

    return jax.lax.map(repetition, jax.random.split(key, repetitions))


def moments_of(draws) -> diagnostics.Moments:
    """The moments of draws `[C, n, coordinates]`."""
    mean = jnp.mean(draws, axis=1)
    square = jnp.sum(jnp.square(draws - mean[:, None]), axis=1)
    missing = {"phi": jnp.full(CHUNKS, jnp.nan)}
    return diagnostics.Moments({"phi": mean}, {"phi": square}, missing, missing, jnp.asarray(float(draws.shape[1])))


def _some_differ(variances: np.ndarray, weights: np.ndarray) -> bool:
    """Whether any of these estimators, with variances by chunk `[E, C]`, is called worse or better than the best."""
    return any(entrant.row["phi_verdict"] in ("worse", "better") for entrant in compared(variances, weights))


def compared(
    variances: np.ndarray, weights: np.ndarray, judge_by: str = "flops", costs: dict[str, list[float]] | None = None
) -> list[Entrant]:
    """Entrants with these variances by chunk `[E, C]` and no bias, after their comparison.

    `costs` has evaluations, flops and seconds of each entrant; by default they are equal.
    """
    costs = costs or dict.fromkeys(("evaluations", "flops", "seconds"), [1.0] * len(variances))
    entrants = []
    for i, by_chunk in enumerate(variances):
        variance = float(np.mean(by_chunk))
        result = SimpleNamespace(
            figures={"phi": {"variance": variance, "norm": 1.0, "mean_norm": 1.0}},
            by_chunk={"phi": {"variance": by_chunk}},
            case=SimpleNamespace(evaluations=costs["evaluations"][i], flops=costs["flops"][i]),
            task=SimpleNamespace(problem=SimpleNamespace(point={}), host_calls=SimpleNamespace(names=())),
        )
        row = {"estimator": f"{i}", "num_samples": 1, "declared_biased": False}
        row |= {"phi_biased": False, "phi_variance": variance}
        seconds = costs["seconds"][i]
        entrants.append(Entrant(result, row, Seconds(seconds, np.full(len(weights), seconds))))
    compare(entrants, "phi", weights, SimpleNamespace(confidence=CONFIDENCE, judge_by=judge_by))
    return entrants


def _are_biased(figures: dict[str, np.ndarray], draws: int) -> list[bool]:
    critical = max(5.0, diagnostics.critical_z(float(figures["size"][0]), draws))
    rows = zip(figures["scale"], figures["scale_stderr"], figures["max_abs_z"], figures["deviation"], strict=True)
    return [
        diagnostics.is_biased(
            {"bias": scale - 1, "bias_stderr": stderr, "max_abs_z": z, "deviation": deviation, "critical_z": critical},
            CHUNKS,
        )
        for scale, stderr, z, deviation in rows
    ]


def main() -> None:
    percent = lambda rate: f"{100 * rate:.2g} %"
    table = [["gradients", "draws", "2 differ", "12 differ", "biased", "variance", "SNR", "bias"]]
    for name in TOYS:
        for draws, repetitions in ((1000, 1000), (10_000, 200)):
            table.append([name, str(draws), *map(percent, measure(name, draws, repetitions, compared=200))])
            print(table[-1], file=sys.stderr)
    print(tables.to_markdown(table))


if __name__ == "__main__":
    main()
