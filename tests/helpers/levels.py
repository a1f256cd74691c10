"""How often the laboratory's verdicts and intervals are wrong, measured on problems whose exact gradient is known.

    python -m tests.helpers.levels          prints the table of experiments/compare_estimators/README.md, in minutes

The gradients and the functions that judge them are the laboratory's own. Every estimator is unbiased. The cost of one
gradient is set to 1 / variance, so all estimators of a problem are equally good: each "worse", "better" and "biased" is
false. All repetitions of a problem are one compiled program.
"""

import functools
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import problems, tables
from experiments.common.task import Task
from experiments.compare_estimators.verdicts import Entrant, Seconds, compare
from vae import diagnostics

CHUNKS = 50
FEW_CHUNKS = (20, 10)  # of `vae.diagnostics.compare`, and of large networks in the laboratory
CONFIDENCE = 0.95
REPLICATES = 500
COPIES = 6  # of each of the two estimators of a problem
REFERENCE = 10  # gradients of the reference for each gradient of an estimator, as in the laboratory
TRUTH_DRAWS = 1_000_000  # of the true variance and SNR
FIGURES = ("variance", "snr")


class Toy(NamedTuple):
    """A problem, the group of parameters that is measured, and two unbiased estimators with their K."""

    problem: str
    group: str
    estimators: tuple[tuple[str, int], tuple[str, int]]


class Levels(NamedTuple):
    """Rates of one toy at one number of draws: false verdicts, and coverages of 95 % intervals.

    A coverage is the smaller one of the two estimators. The bias is measured against the exact gradient, and against a
    reference.
    """

    different_of_2: float
    different_of_12: float
    biased: float
    biased_by_reference: float
    variance: float
    snr: float
    bias: float
    bias_by_reference: float


TOYS = {
    "six bits": Toy("table", "phi", (("leave_one_out", 2), ("disarm", 2))),
    "linear-Gaussian": Toy("linear_gaussian:batch_size=1", "encoder", (("reparam", 1), ("leave_one_out", 2))),
    "REINFORCE": Toy("quadratic", "phi", (("reparam", 1), ("reinforce", 1))),  # heavy tails
}


def measure(name: str, draws: int, repetitions: int, compared: int, chunks: int = CHUNKS) -> Levels:
    """The levels of one toy. Each repetition has `COPIES` of both estimators, and a reference by the first one.

    The slow verdicts and intervals are made for the first `compared` repetitions only.
    """
    gradients, truth = _gradients(name)
    known = [_true_figures(gradient, truth) for gradient in gradients]
    by_truth, by_reference, by_chunk = jax.device_get(_simulate(gradients, draws, repetitions, chunks, truth))
    by_chunk = {figure: rows[:compared] for figure, rows in by_chunk.items()}
    weights = diagnostics.resampling(chunks, REPLICATES)
    costs = np.repeat([1 / figures["variance"] for figures in known], COPIES)

    def some_differ(members: list[int]) -> float:
        return float(np.mean([_some_differ(rows[members], costs[members], weights) for rows in by_chunk["variance"]]))

    def coverage(figure: str) -> float:
        def of_estimator(i: int) -> float:
            rows = by_chunk[figure][:, COPIES * i : COPIES * i + 2].reshape(-1, chunks)
            ends = [diagnostics.figure_interval(figure, row, weights, draws, CONFIDENCE) for row in rows]
            return float(np.mean([low <= known[i][figure] <= high for low, high in ends]))

        return min(map(of_estimator, range(2)))

    judged, judged_by_reference = (_bias_figures(figures, draws, chunks) for figures in (by_truth, by_reference))
    return Levels(
        some_differ([0, COPIES]),
        some_differ(list(range(2 * COPIES))),
        biased=_share(judged, lambda row: row["biased"]),
        biased_by_reference=_share(judged_by_reference, lambda row: row["biased"]),
        variance=coverage("variance"),
        snr=coverage("snr"),
        bias=_coverage_of_bias(judged),
        bias_by_reference=_coverage_of_bias(judged_by_reference),
    )


@functools.cache  # so that equal arguments share a compiled program
def _gradients(name: str):
    """The gradients of both estimators as functions of a key, and the exact gradient."""
    toy = TOYS[name]
    task = Task(problems.make(toy.problem), "elbo")

    def gradient_of(estimator, num_samples):
        gradient = task.gradient(estimator, num_samples)
        arguments = task.arguments(task.start(estimator, num_samples))
        return lambda key: {"phi": gradient(key, *arguments)[toy.group]}

    truth = diagnostics.exactly({"phi": task.problem.oracle("elbo", 1)[toy.group]})
    return tuple(gradient_of(*estimator) for estimator in toy.estimators), truth


def _true_figures(gradient, truth) -> dict[str, float]:
    moments = lambda key: diagnostics.gradient_moments(gradient, key, TRUTH_DRAWS, TRUTH_DRAWS // 1000, 1000, truth)
    report = jax.jit(lambda key: diagnostics.report(moments(key), truth)["phi"])(jax.random.key(99))
    return {figure: float(report[figure]) for figure in FIGURES}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _simulate(gradients, draws: int, repetitions: int, chunks: int, truth):
    """The figures by the truth and by a reference, `[repetitions, 12]`, and by chunk `[repetitions, 12, chunks]`."""

    def moments(gradient, draws, key):
        return diagnostics.gradient_moments(gradient, key, draws, chunks, draws // chunks, truth)

    def repetition(key):
        key_reference, *keys = jax.random.split(key, 1 + len(gradients))
        reference = diagnostics.reference(moments(gradients[0], REFERENCE * draws, key_reference))

        def measured(gradient, key):
            drawn = moments(gradient, draws, key)
            reports = (diagnostics.report(drawn, truth)["phi"], diagnostics.report(drawn, reference)["phi"])
            by_chunk = diagnostics.figures_by_chunk(drawn)["phi"]
            return *reports, {figure: by_chunk[figure] for figure in FIGURES}

        copies = lambda gradient, key: jax.vmap(functools.partial(measured, gradient))(jax.random.split(key, COPIES))
        return jax.tree.map(lambda *rows: jnp.concatenate(rows), *map(copies, gradients, keys))

    keys = jax.random.split(jax.random.key(0), repetitions)
    return jax.lax.map(repetition, keys, batch_size=max(1, 20_000 // draws))


def _bias_figures(figures: dict[str, np.ndarray], draws: int, chunks: int) -> list[dict[str, float]]:
    """The figures of the bias of each copy, in the order of the estimators."""
    names = ("scale", "scale_stderr", "scale_skewness", "max_abs_z", "deviation", "size")
    rows = zip(*(figures[name].T.ravel().tolist() for name in names), strict=True)
    return [diagnostics.bias_figures(dict(zip(names, row, strict=True)), draws, chunks, CONFIDENCE) for row in rows]


def _share(rows: list[dict[str, float]], condition) -> float:
    return float(np.mean([condition(row) for row in rows]))


def _coverage_of_bias(rows: list[dict[str, float]]) -> float:
    covers = lambda row: row["bias_low"] <= 0 <= row["bias_high"]
    half = len(rows) // 2
    return min(_share(rows[:half], covers), _share(rows[half:], covers))


def _some_differ(by_chunk: np.ndarray, costs: np.ndarray, weights: np.ndarray) -> bool:
    """Whether any of these estimators, with variances by chunk `[E, C]`, is called worse or better than the best."""
    variances = by_chunk.mean(axis=1).tolist()
    best = diagnostics.choose_best(variances, costs.tolist(), [True] * len(costs))
    ratios = diagnostics.compare_products(variances, list(by_chunk), costs.tolist(), weights, CONFIDENCE)
    ends = zip(ratios.low[:, best], ratios.high[:, best], strict=True)
    verdicts = [diagnostics.judge(1.0, False, i == best, float(low), float(high)) for i, (low, high) in enumerate(ends)]
    return "worse" in verdicts or "better" in verdicts


def moments_of(draws) -> diagnostics.Moments:
    """The moments of draws `[C, n, coordinates]`."""
    mean = jnp.mean(draws, axis=1)
    square = jnp.sum(jnp.square(draws - mean[:, None]), axis=1)
    missing = {"phi": jnp.full(CHUNKS, jnp.nan)}
    return diagnostics.Moments({"phi": mean}, {"phi": square}, missing, missing, jnp.asarray(float(draws.shape[1])))


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


def percent(rate: float) -> str:
    """In percent with two digits, or with one below 0.1 %."""
    return f"{100 * rate:.0f} %" if rate > 0.095 else f"{100 * rate:.{1 if rate < 1e-3 else 2}g} %"


def main() -> None:
    head = ["2 differ", "12 differ", "biased", "(ref.)", "variance", "SNR", "bias", "(ref.)"]
    table = [["problem", "draws", "chunks", *head]]
    cases = [(name, draws, CHUNKS) for name in TOYS for draws in (100, 10_000)]
    for name, draws, chunks in [*cases, *(("REINFORCE", 100, chunks) for chunks in FEW_CHUNKS)]:
        levels = measure(name, draws, 1000 if draws == 100 else 100, 500, chunks)
        table.append([name, str(draws), str(chunks), *map(percent, levels)])
        print(table[-1], file=sys.stderr)
    print(tables.to_markdown(table))


if __name__ == "__main__":
    main()
