"""The laboratory: which gradient estimator is better here, by how much, and for what cost.

    python -m experiments.compare_estimators --problem=quadratic                        # every estimator that fits
    python -m experiments.compare_estimators --problem=cosine --cost_parameter=0.5,1,2,4 --estimators=reparam,reinforce
    python -m experiments.compare_estimators --problem=rainforth --objective=iwae --num_samples=4,16,64,256
    python -m experiments.compare_estimators --problem=logistic_regression --budget=evaluations:16
    python -m experiments.compare_estimators --workdir=results/quickstart                # at each of its checkpoints
    python -m experiments.compare_estimators --problem=mine:problem                     # see experiments/problems.py

With parameters and data fixed, every estimator draws --draws gradients from the same keys. Groups of parameters
(encoder and decoder, or phi and theta) are judged apart. `vae/diagnostics.py` defines the figures. The truth is an
oracle where there is one; elsewhere it is the mean of many gradients of --reference, whose own error is counted.

An estimator is called biased if its largest |z| over the group's coordinates, or the z of its bias along the truth, is
beyond what chance allows (0.01 %, by Bonferroni over coordinates). Two estimators are called different only if the
bootstrap interval of the ratio of their variance x FLOP excludes 1. Intervals are of each pair alone.

Writes into --output: results.csv (a row for each estimator and K), layers.csv, pairs.csv, results.md, results.tex,
config.json and figures/. In the tables * marks estimators that their papers call biased.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

from experiments import cli, laboratory_tables, problems, workdir
from experiments.problems import Problem
from vae import diagnostics, plots, plots_gradients
from vae.diagnostics import Truth
from vae.estimators import BY_NAME, Estimate, Estimator, mean
from vae.estimators.exact import nodes

flags.DEFINE_string(
    "problem",
    None,
    f"one of {', '.join(problems.BY_NAME)}, or your own module:function (quadratic if nothing is given)",
)
flags.DEFINE_string("workdir", None, "folder of a trained run, in place of --problem; it is read, not written")
flags.DEFINE_list("estimators", None, "names, comma-separated; all that fit by default")
flags.DEFINE_enum("objective", None, ["elbo", "elbo_analytic", "iwae"], "the bound; by default the problem's own")
flags.DEFINE_list(
    "num_samples", ["1"], "K, a list is swept; an estimator that needs more gets the least that it can work with"
)
flags.DEFINE_string(
    "budget", None, "evaluations:N or flops:N for one gradient, in place of --num_samples: K is what that buys"
)
flags.DEFINE_list("cost_parameter", None, "k of quadratic, exponential and cosine; a list is swept")
flags.DEFINE_integer(
    "draws", None, "R, gradients of each estimator; 10000 by default, 1000 for --workdir", lower_bound=20
)
flags.DEFINE_integer(
    "reference_draws", None, "gradients behind the reference where there is no oracle; 10 x --draws by default"
)
flags.DEFINE_string("reference", "reparam", "estimator whose mean is the truth where there is no oracle")
flags.DEFINE_integer("batch_size", None, "data in the batch; by default the problem's or the run's own", lower_bound=1)
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "images for --workdir")
flags.DEFINE_integer(
    "cv_steps", 200, "Adam steps for what an estimator learns or counts, before it is frozen", lower_bound=0
)
flags.DEFINE_float("confidence", 0.95, "of every interval", lower_bound=0.5, upper_bound=0.999)
flags.DEFINE_integer("replicates", 400, "of the bootstrap", lower_bound=100)
flags.DEFINE_integer("rounds", 9, "of timing, interleaved between estimators", lower_bound=3)
flags.DEFINE_integer("seed", 0, "of all draws", lower_bound=0)
flags.DEFINE_string("output", None, "folder of the results; by default results/ and a name made from the flags")
flags.DEFINE_string("data_dir", None, "folder of prepared data for --workdir, as in training")
flags.DEFINE_string("cache_dir", None, "folder of decoded data for --workdir, as in training")
FLAGS = flags.FLAGS

ORACLE = "exact"
# A quadrature or an enumeration is taken for the truth up to so many terms.
MAX_TERMS = 2**16
# Nets larger than this are measured one draw at a time, and in fewer chunks.
LARGE = 20_000
ADAM = 1e-2
# Relative standard error of a reference above which it is said.
UNSURE = 0.1


class Case(NamedTuple):
    """One estimator with its K, ready to be measured.

    Attributes:
      slot: which of --num_samples this is; estimators of one slot are compared.
      evaluations: of f, of one datum, for one gradient.
      flops: of one compiled gradient of all parameters.
    """

    name: str
    num_samples: int
    slot: int
    evaluations: int
    flops: float


class Found(NamedTuple):
    """What was measured of one case at one point: the figures of each part and their bootstrap replicates."""

    case: Case
    problem: Problem
    truth: str
    figures: dict[str, dict[str, float]]
    replicates: dict[str, dict[str, np.ndarray]]
    chunks: int


def main() -> None:
    with cli.one_sentence():
        points, objective = _points()
        folder = Path(FLAGS.output or _default_output())
        workdir.check_writable(folder)
        cases = _cases(points[0], objective)
        found = measure_all(points, objective, cases, _protocol(points[0]))
        seconds = _time(points[0], objective, cases)
        rows, layers, pairs = tabulate(found, cases, seconds, FLAGS.confidence)
        _write(folder, points, objective, found, rows, layers, pairs)


# What is measured


def _points() -> tuple[list[Problem], str]:
    """The problems to measure at, which differ in parameters and data alone, and the objective."""
    if FLAGS.workdir and FLAGS.problem:
        raise ValueError("--workdir and --problem name two problems; give one of them")
    name = FLAGS.problem or "quadratic"
    costs = FLAGS.cost_parameter
    if costs is not None and (FLAGS.workdir or name not in problems.COSTS):
        raise ValueError(f"--cost_parameter is k of {', '.join(problems.COSTS)}; leave it out for other problems")
    sized = {} if FLAGS.batch_size is None else {"batch_size": FLAGS.batch_size}
    if sized and not FLAGS.workdir and name not in problems.SIZED:
        raise ValueError(f"--batch_size is for --workdir, {', '.join(problems.SIZED)}; leave it out for {name}")
    if FLAGS.workdir:
        points = problems.of_workdir(
            FLAGS.workdir, FLAGS.objective, FLAGS.split, FLAGS.batch_size, FLAGS.data_dir, FLAGS.cache_dir
        )
    elif ":" in name:
        points = [problems.of_user(name)]
    elif name not in problems.BY_NAME:
        raise ValueError(f"--problem={name} is none of {', '.join(problems.BY_NAME)}, nor module:function")
    elif costs is not None:
        points = [problems.BY_NAME[name](k) for k in sorted({_number("cost_parameter", k, float) for k in costs})]
    else:
        points = [problems.BY_NAME[name](**sized)]
    objective = FLAGS.objective or next(iter(points[0].bounds))
    if objective not in points[0].bounds:
        able = ", ".join(points[0].bounds)
        raise ValueError(f"--objective={objective} is not an objective of {points[0].name}; it has {able}")
    return points, objective


def _cases(problem: Problem, objective: str) -> list[Case]:
    """Every estimator with every K, or with the K that the budget buys; says what was left out."""
    asked = FLAGS.estimators is not None
    names = choose(problem, objective, FLAGS.estimators)
    samples = sorted({_number("num_samples", k, int) for k in FLAGS.num_samples})
    if samples[0] < 1:
        raise ValueError(f"--num_samples must be 1 or more, got {samples[0]}")
    budget = parse_budget(FLAGS.budget)
    if budget and samples != [1]:
        raise ValueError("--budget decides K itself; leave out --num_samples")
    cases, left_out = [], []
    with _bar([None] * len(names) * (1 if budget else len(samples)), "costs") as bar:
        for (slot, wanted), name in itertools.product(enumerate([None] if budget else samples), names):
            bar.update()
            try:
                if budget:
                    k = affordable(budget, functools.partial(_cost, problem, objective, name, budget[0]), name)
                else:
                    k = max(wanted, BY_NAME[name].min_samples)
                evaluations, flops = (_cost(problem, objective, name, kind, k) for kind in ("evaluations", "flops"))
                cases.append(Case(name, k, slot, int(evaluations), flops))
            except (ValueError, NotImplementedError) as error:
                if asked:
                    raise
                left_out.append(f"left out: {error}")
    print("\n".join(left_out + [f"the budget buys {c.name} K={c.num_samples}" for c in cases if budget]))
    if not cases:
        raise ValueError("no estimator is left to measure")
    return cases


def choose(problem: Problem, objective: str, names: list[str] | None) -> list[str]:
    """The names, checked; without any, all that fit but the oracle.

    Raises:
      ValueError: naming one that is unknown or does not fit, and what would.
    """
    calls = posteriors(problem, objective)
    fits = [name for name in BY_NAME if all(BY_NAME[name].fits(q, bound) for q, bound in calls)]
    if names is None:
        return [name for name in fits if name != ORACLE]
    names = list(dict.fromkeys(name.strip() for name in names))
    for name in names:
        if name not in BY_NAME:
            raise ValueError(f"--estimators: {name!r} is not one of {', '.join(BY_NAME)}")
        if name not in fits:
            family = type(calls[0][0]).__name__
            raise ValueError(
                f"--estimators: {name} cannot estimate {objective} with {family} latents; these can: {', '.join(fits)}"
            )
    return names


def posteriors(problem: Problem, objective: str) -> list[tuple[Any, str]]:
    """What the objective hands to `expect`: each q, and "elbo" or "iwae" for its reduction."""
    calls = []

    def expect(q, f, reduce):
        calls.append((q, "elbo" if reduce is mean else "iwae"))
        return Estimate(jnp.zeros(q.batch_shape), jnp.zeros(()), {})

    problem.bounds[objective](problem.params, problem.data, expect)
    return calls


def parse_budget(text: str | None) -> tuple[str, float] | None:
    """("evaluations" or "flops", N) from the flag.

    Raises:
      ValueError: with an example of what it should be.
    """
    if text is None:
        return None
    kind, _, amount = text.partition(":")
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if kind not in ("evaluations", "flops") or not value > 0 or math.isinf(value):
        raise ValueError(f"--budget={text} is neither evaluations:N nor flops:N; for example --budget=evaluations:8")
    return kind, value


def affordable(budget: tuple[str, float], cost, name: str) -> int:
    """The largest K whose `cost(K)` is within the budget, for a cost that grows with K; K may be refused (odd ones).

    Raises:
      ValueError: if the least K costs more.
    """
    kind, amount = budget

    def within(k):
        """Whether K, or the K below it where K itself is refused, is within the budget."""
        try:
            return cost(k) <= amount
        except ValueError:
            if k <= least:
                raise
            return within(k - 1)

    least = BY_NAME[name].min_samples
    if not within(least):
        raise ValueError(f"--budget={kind}:{amount:g} does not buy {name} its least K={least}, {cost(least):g} {kind}")
    low, high = least, 2 * least + 1
    while within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    while True:  # down from one that was refused
        try:
            cost(low)
            return low
        except ValueError:
            low -= 1


@functools.cache
def _make(name: str, num_samples: int) -> Estimator:
    return BY_NAME[name].make(num_samples=num_samples)


def _cost(problem: Problem, objective: str, name: str, kind: str, num_samples: int) -> float:
    """Evaluations of f for one datum, or FLOP of all, of one gradient."""
    estimator, bound = _make(name, num_samples), problem.bounds[objective]
    learned, counted = _initial(problem, objective, estimator)
    if kind == "flops":
        gradient = diagnostics.make_gradient(bound, estimator)
        arguments = (problem.params, problem.data, learned, counted, problem.context, jax.random.key(0))
        return diagnostics.flops(gradient, *arguments)

    def value(watch, key):
        def expect(q, f, reduce):
            return estimator.estimate(learned, counted, key, q, watch(f), reduce, problem.context)

        return bound(problem.params, problem.data, expect).value

    return diagnostics.evaluations(value, jax.random.key(0))


def _initial(problem: Problem, objective: str, estimator: Estimator):
    q = posteriors(problem, objective)[0][0]
    return estimator.init(jax.random.key(FLAGS.seed), q, problem.context)


# How it is measured


class Protocol(NamedTuple):
    """How everything is measured; the same for all estimators."""

    draws: int
    reference_draws: int
    reference: str
    chunks: int
    replicates: int
    cv_steps: int
    seed: int


def _protocol(problem: Problem) -> Protocol:
    draws = FLAGS.draws or (1000 if FLAGS.workdir else 10_000)
    chunks = cut(draws, 20 if _size(problem) > LARGE else 50)
    reference = FLAGS.reference_draws or 10 * draws
    if reference % chunks or reference < 2 * chunks:
        raise ValueError(f"--reference_draws={reference} must be a multiple of {chunks}")
    return Protocol(draws, reference, FLAGS.reference, chunks, FLAGS.replicates, FLAGS.cv_steps, FLAGS.seed)


def cut(draws: int, most: int) -> int:
    """The number of equal chunks, from 10 to `most`, of two draws or more.

    Raises:
      ValueError: if there is none, naming a number of draws that has.
    """
    for chunks in range(min(most, draws // 2), 9, -1):
        if draws % chunks == 0:
            return chunks
    raise ValueError(
        f"--draws={draws} cannot be cut into 10 to {most} equal chunks; take {max(20, -(-draws // 10) * 10)}"
    )


def measure_all(points: list[Problem], objective: str, cases: list[Case], protocol: Protocol) -> list[Found]:
    """Every case at every point, each point's against the truth there."""
    found, bar = [], _bar([None] * (len(points) * len(cases)))
    with bar:
        for problem in points:
            single = {bound for _, bound in posteriors(problem, objective)} == {"elbo"}
            truths: dict[int, tuple[str, Truth]] = {}
            for case in cases:
                bar.set_postfix_str(f"{case.name}, K={case.num_samples}")
                k = 1 if single else case.num_samples  # the mean over K samples has one gradient, whatever K
                if k not in truths:
                    truths[k] = find_truth(problem, objective, k, protocol)
                found.append(measure(problem, objective, case, protocol, *truths[k]))
                bar.update()
    return found


def measure(problem: Problem, objective: str, case: Case, protocol: Protocol, source: str, truth: Truth) -> Found:
    """Bias, variance and the other figures of one estimator at one point."""
    learned, counted = train(problem, objective, _make(case.name, case.num_samples), protocol)
    moments = _moments(problem, objective, case, protocol, protocol.draws, truth, learned, counted)
    figures = jax.device_get(_report(moments, truth))
    replicates = jax.device_get(_bootstrap(moments, truth, jax.random.key(protocol.seed), protocol.replicates))
    figures = {part: {key: _finite(value) for key, value in row.items()} for part, row in figures.items()}
    return Found(case, problem, source, figures, replicates, protocol.chunks)


_report = jax.jit(diagnostics.report)
_bootstrap = jax.jit(diagnostics.bootstrap, static_argnums=3)


def _moments(problem, objective, case, protocol, draws, truth, learned, counted, stream=0):
    block = _block(draws // protocol.chunks, case.flops, _size(problem))
    program = _moments_program(problem.bounds[objective], case.name, case.num_samples, draws, protocol.chunks, block)
    key = jax.random.fold_in(jax.random.key(protocol.seed), stream)
    return program((problem.params, problem.data, learned, counted, problem.context), key, truth)


@functools.cache
def _moments_program(bound, name: str, num_samples: int, draws: int, chunks: int, block: int):
    gradient = diagnostics.make_gradient(bound, _make(name, num_samples))

    @jax.jit
    def moments(arguments, key, truth):
        of_key = functools.partial(gradient, *arguments)
        return diagnostics.gradient_moments(of_key, key, draws, chunks, block, truth)

    return moments


def _block(size: int, flops: float, parameters: int) -> int:
    """How many draws side by side: a divisor of `size`, one for large nets, thousands for a Gaussian's cost."""
    most = 1 if parameters > LARGE else max(1, min(4096, int(4e6 / max(flops, 20 * parameters, 1))))
    return max(b for b in range(1, min(size, most) + 1) if size % b == 0)


def _size(problem: Problem) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(problem.params))


def train(problem: Problem, objective: str, estimator: Estimator, protocol: Protocol):
    """(learned, counted): what the estimator learns by Adam on its cv_loss, and what it counts, with q fixed."""
    learned, counted = _initial(problem, objective, estimator)
    if not jax.tree.leaves((learned, counted)) or not protocol.cv_steps:
        return learned, counted
    tx = optax.adam(ADAM)

    def step(carry, key):
        learned, counted, opt_state = carry

        def loss(learned):
            def expect(q, f, reduce):
                return estimator.estimate(learned, counted, key, q, f, reduce, problem.context)

            estimate = problem.bounds[objective](problem.params, problem.data, expect)
            return estimate.cv_loss, estimate.state

        grads, counted_next = jax.grad(loss, has_aux=True)(learned)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(learned, updates), counted_next, opt_state), None

    keys = jax.random.split(jax.random.fold_in(jax.random.key(protocol.seed), 2), protocol.cv_steps)
    return jax.jit(lambda *carry: jax.lax.scan(step, carry, keys)[0])(learned, counted, tx.init(learned))[:2]


def find_truth(problem: Problem, objective: str, num_samples: int, protocol: Protocol) -> tuple[str, Truth]:
    """What the gradient really is, and how that is known: an oracle, a sum over all states, or many other draws."""
    gradient = problem.oracle(objective, num_samples)
    if gradient is not None:
        return f"exact ({problem.exact_by})", diagnostics.exactly(gradient)
    if (found := summed(problem, objective, num_samples)) is not None:
        return f"exact ({found[0]})", diagnostics.exactly(found[1])
    name = choose(problem, objective, [protocol.reference])[0]
    num_samples = max(num_samples, BY_NAME[name].min_samples)
    case = Case(name, num_samples, 0, 0, _cost(problem, objective, name, "flops", num_samples))
    learned, counted = train(problem, objective, _make(name, num_samples), protocol)
    moments = _moments(problem, objective, case, protocol, protocol.reference_draws, None, learned, counted, stream=1)
    return f"mean of {protocol.reference_draws:,} draws of {name}, K={num_samples}", jax.jit(diagnostics.reference)(
        moments
    )


def summed(problem: Problem, objective: str, num_samples: int):
    """(how, gradient) by the sum over all states, or quadratures of two orders that agree; None where neither can."""
    calls = posteriors(problem, objective)
    if not all(BY_NAME[ORACLE].fits(q, bound) for q, bound in calls):
        return None
    gradients = []
    orders = _orders(calls[0][0], 1 if calls[0][1] == "elbo" else num_samples)
    for order in orders:
        estimator = BY_NAME[ORACLE].make(num_samples=num_samples, order=order)
        gradient = diagnostics.make_gradient(problem.bounds[objective], estimator)
        with jax.enable_x64(True):
            double = lambda leaf: jnp.asarray(leaf, jnp.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None)
            params, data, context = jax.tree.map(double, (problem.params, problem.data, problem.context))
            found = jax.jit(gradient)(params, data, {}, {}, context, jax.random.key(0))
            gradients.append(jax.tree.map(np.asarray, found))
    if not gradients:
        return None
    if len(gradients) == 1:
        return "sum over all states", gradients[0]
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in gradients]
    if not np.linalg.norm(flat[0] - flat[1]) <= 1e-5 * np.linalg.norm(flat[1]):
        return None
    return f"quadrature, order {orders[1]}", gradients[1]


def _orders(q, tuple_size: int) -> list[int]:
    """Orders of quadrature within MAX_TERMS, half and whole; one where states are summed; none where too many."""
    try:
        states = [len(jax.eval_shape(functools.partial(nodes, order=order), q)[0]) for order in (2, 3)]
    except ValueError:
        return []
    if states[0] == states[1]:
        return [1] if states[0] ** tuple_size <= MAX_TERMS else []
    width = round(math.log2(states[0])) * tuple_size
    order = min(96, int(MAX_TERMS ** (1 / width) + 1e-9))
    return [order // 2, order] if order >= 16 else []


def _time(problem: Problem, objective: str, cases: list[Case]) -> np.ndarray:
    """Seconds of one gradient of each case in each round, `[cases, rounds]`."""
    protocol, programs, counts = _protocol(problem), [], []
    for case in _bar(cases, "timing"):
        estimator = _make(case.name, case.num_samples)
        gradient = diagnostics.make_gradient(problem.bounds[objective], estimator)
        block = _block(protocol.draws // protocol.chunks, case.flops, _size(problem))
        arguments = (problem.params, problem.data, *_initial(problem, objective, estimator), problem.context)
        program = jax.jit(
            lambda arguments, steps, gradient=gradient, block=block: diagnostics.repeated(
                functools.partial(gradient, *arguments), jax.random.key(0), steps, block
            )
        )
        jax.block_until_ready(program(arguments, 1))
        once = diagnostics.interleaved_seconds([lambda p=program, a=arguments: p(a, 1)], 3).min()
        steps = max(1, math.ceil(0.03 / once))
        programs.append(functools.partial(program, arguments, steps))
        counts.append(steps * block)
    return diagnostics.interleaved_seconds(programs, FLAGS.rounds) / np.array(counts)[:, None]


# What is said


def tabulate(found: list[Found], cases: list[Case], seconds: np.ndarray, confidence: float):
    """Rows of results.csv, layers.csv and pairs.csv.

    `seconds` `[cases, rounds]` of one gradient; medians are resampled over rounds for the intervals of variance x time.
    """
    replicates = len(next(iter(found[0].replicates.values()))["variance"])
    picks = np.random.default_rng(0).integers(0, seconds.shape[1], (replicates, seconds.shape[1]))
    clocks = {case: np.median(seconds[i][picks], axis=1) for i, case in enumerate(cases)}
    times = {case: float(np.median(seconds[i])) for i, case in enumerate(cases)}
    rows, layers, pairs, warnings = [], [], [], {}
    for one in found:
        row = _head(one) | {"evaluations": one.case.evaluations, "flops": one.case.flops, "seconds": times[one.case]}
        low, high = np.quantile(clocks[one.case], [0.5 - confidence / 2, 0.5 + confidence / 2])
        row |= {"seconds_low": float(low), "seconds_high": float(high)}
        for part in one.figures:
            figures = _part(one, part, times[one.case], clocks[one.case], confidence)
            layers.append(_head(one) | {"part": part} | figures)
            if part in one.problem.params:
                row |= {f"{part}_{key}": value for key, value in figures.items()}
                warnings |= _unsure(figures, part, one)
        rows.append(row)
    for index in _slots(found):
        for group in found[0].problem.params:
            pairs += _judge(index, group, found, rows, times, clocks, confidence)
    print("".join(warnings))
    return rows, layers, pairs


def _unsure(figures: dict[str, Any], part: str, one: Found) -> dict[str, None]:
    """A sentence where the reference's own noise blurs what is held against it."""
    error = figures["truth_relative_stderr"]
    if error <= UNSURE:
        return {}
    return {
        f"the reference for {part} ({one.truth}) is itself uncertain by {100 * error:.0f} %, which lowers cosine and DSNR:"
        " raise --reference_draws, or name a steadier unbiased estimator by --reference\n": None
    }


def _head(one: Found) -> dict[str, Any]:
    head = {"problem": one.problem.name, **one.problem.point, "estimator": one.case.name}
    head |= {"num_samples": one.case.num_samples, "declared_biased": BY_NAME[one.case.name].biased}
    return head | {"truth": one.truth}


def _part(one: Found, part: str, seconds: float, clock: np.ndarray, confidence: float) -> dict[str, Any]:
    """All figures of one part, with `_low` and `_high` for those that have an interval."""
    figures, resampled = one.figures[part], one.replicates[part]
    row = {
        "size": int(figures["size"]),
        "truth_norm": figures["norm"],
        "truth_relative_stderr": figures["truth_stderr"],
    }
    row |= {"bias": figures["scale"] - 1, "bias_stderr": figures["scale_stderr"]}
    row |= {key: figures[key] for key in ("max_abs_z", "relative_bias", "relative_stderr")}
    row |= {"critical_z": diagnostics.critical_z(figures["size"])}
    row |= {"biased": is_biased(row)}
    measured = {key: (figures[key], resampled[key]) for key in ("variance", "snr", "dsnr", "cosine")}
    variance, replicates = measured["variance"]
    measured |= {"variance_x_flops": (variance * one.case.flops, replicates * one.case.flops)}
    measured |= {"variance_x_seconds": (variance * seconds, replicates * clock)}
    for key, (value, samples) in measured.items():
        low, high = diagnostics.interval(samples, one.chunks, confidence, value)
        row |= {key: value, f"{key}_low": _finite(low), f"{key}_high": _finite(high)}
    return row


def is_biased(row: dict[str, Any]) -> bool:
    """Whether the deviation is more than chance: in the worst coordinate, or along the truth (|z| of 5 or more, where
    the deviation is more than rounding)."""
    along = abs(row["bias"]) > max(5 * row["bias_stderr"], 10 * diagnostics.ROUNDING)  # False where it is NaN
    return bool(row["max_abs_z"] > row["critical_z"] or along)


def _slots(found: list[Found]) -> list[list[int]]:
    """Indices of what is compared with each other: one point, one of --num_samples."""
    groups: dict[Any, list[int]] = {}
    for i, one in enumerate(found):
        groups.setdefault((tuple(one.problem.point.items()), one.case.slot), []).append(i)
    return list(groups.values())


def _judge(index, group, found, rows, times, clocks, confidence) -> list[dict[str, Any]]:
    """Pairs of one slot, and in its rows the ratios to the best and the verdict."""

    def cost(i, key):
        if key == "variance":
            return 1.0, 1.0
        case = found[i].case
        return (case.flops, case.flops) if key == "variance_x_flops" else (times[case], clocks[case])

    def ratio(i, j, key):
        """Estimate, low, high of figure `key` of i over that of j."""
        (cost_i, costs_i), (cost_j, costs_j) = cost(i, key), cost(j, key)
        a, b = (found[n].replicates[group]["variance"].astype(np.float64) for n in (i, j))
        value, other = found[i].figures[group]["variance"] * cost_i, found[j].figures[group]["variance"] * cost_j
        if other == 0 or value == 0:
            nothing = 1.0 if value == other else math.inf if other == 0 else 0.0
            return nothing, nothing, nothing
        low, high = diagnostics.interval((a * costs_i) / (b * costs_j), found[i].chunks, confidence)
        return value / other, low, high

    sound = [i for i in index if not rows[i][f"{group}_biased"] and not rows[i]["declared_biased"]] or index
    best = min(sound, key=lambda i: rows[i][f"{group}_variance_x_flops"])
    pairs = []
    for i in index:
        for key in ("variance_x_flops", "variance_x_seconds"):
            names = [f"{group}_{key}_to_best{end}" for end in ("", "_low", "_high")]
            rows[i] |= dict(zip(names, ratio(i, best, key) if i != best else (1.0, math.nan, math.nan), strict=True))
        _, low, high = ratio(i, best, "variance_x_flops")
        verdict = "best" if i == best else "better" if high < 1 else "worse" if low > 1 else "not told from best"
        rows[i][f"{group}_verdict"] = f"BIASED, {verdict}" if rows[i][f"{group}_biased"] else verdict
        for j in index:
            for key in ("variance", "variance_x_flops", "variance_x_seconds") if j > i else ():
                value, low, high = ratio(i, j, key)
                told = "first is better" if high < 1 else "second is better" if low > 1 else "not distinguished"
                pair = {"group": group, "figure": key, "first": rows[i]["estimator"], "second": rows[j]["estimator"]}
                samples = {"num_samples_first": rows[i]["num_samples"], "num_samples_second": rows[j]["num_samples"]}
                numbers = {"ratio": value, "ratio_low": low, "ratio_high": high, "verdict": told}
                pairs.append({**found[i].problem.point, **pair, **samples, **numbers})
    return pairs


def _write(folder: Path, points, objective, found, rows, layers, pairs) -> None:
    groups = list(points[0].params)
    for name, table in (("results", rows), ("layers", layers), ("pairs", pairs)):
        workdir.write_text(folder / f"{name}.csv", laboratory_tables.to_csv(table))
    markdown, latex = [], []
    for point in points:
        mine = [row for row, one in zip(rows, found, strict=True) if one.problem is point]
        for group in groups:
            place = "".join(f", {key}={value:g}" for key, value in point.point.items())
            truths = " and ".join(dict.fromkeys(row["truth"] for row in mine))
            title = f"{point.name}{place}, {objective}: gradient of {group}; truth: {truths}"
            table = laboratory_tables.cells(mine, group)
            markdown.append(f"**{title}**\n\n{laboratory_tables.to_markdown(table)}\n")
            latex.append(laboratory_tables.to_latex(table, title))
    note = (
        f"{_protocol(points[0]).draws} draws each; intervals {100 * FLAGS.confidence:g} %, bootstrap over chunks of"
        " draws; variance is the trace of the covariance; variance x FLOP and x time are relative to the best unbiased;"
        " the verdict is on variance x FLOP; * biased by its paper"
    )
    workdir.write_text(folder / "results.md", "\n".join([*markdown, note, ""]))
    workdir.write_text(folder / "results.tex", "\n\n".join(latex) + "\n")
    workdir.write_json(folder / "config.json", _config(points[0], objective))
    _draw(folder / "figures", points, found, rows)
    print("\n".join([*markdown, note, ""]))
    print(f"figures: {', '.join(str(p) for p in sorted((folder / 'figures').glob('*.png')))}")
    print(f"every number: {folder / 'results.csv'}; by layer: layers.csv; every pair: pairs.csv; LaTeX: results.tex")


def _draw(folder: Path, points, found, rows) -> None:
    groups, several = list(points[0].params), len({row["num_samples"] for row in rows}) > 1
    label = lambda row: f"{row['estimator']}, K={row['num_samples']}" if several else row["estimator"]
    for point in points:
        mine = [r | {"label": label(r)} for r, one in zip(rows, found, strict=True) if one.problem is point]
        place = "".join(f"_{key}={value:g}" for key, value in point.point.items()) if len(points) > 1 else ""
        plots.save(plots_gradients.bias_forest(mine, groups), folder / f"bias{place}")
        plots.save(plots_gradients.variance_against_cost(mine, groups), folder / f"variance_cost{place}")
        if len({one.case.slot for one in found}) > 1:
            plots.save(plots_gradients.against(mine, groups, "num_samples", "snr"), folder / f"snr{place}")
    if len(points) > 1:
        [name] = points[0].point
        rows = [row | {"label": label(row)} for row in rows]
        plots.save(plots_gradients.against(rows, groups, name, "variance", by="label"), folder / f"variance_{name}")


def _config(problem: Problem, objective: str) -> dict[str, Any]:
    mine = FLAGS.flags_by_module_dict()[FLAGS.find_module_defining_flag("cv_steps")]
    settings = {flag.name: flag.value for flag in mine}
    return {
        "command": "python -m experiments.compare_estimators " + " ".join(sys.argv[1:]),
        "settings": settings | {"objective": objective, **_protocol(problem)._asdict()},
        "versions": {name: importlib.metadata.version(name) for name in workdir.PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": f"{jax.default_backend()}, {platform.machine()}, {os.cpu_count()} cores",
    }


def _bar(items, title: str = "estimators"):
    return tqdm(items, title, leave=False, disable=not sys.stdout.isatty())


def _number(flag: str, text: str, kind: type):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"--{flag}: {text!r} is not {'an integer' if kind is int else 'a number'}")
    return value


def _finite(value) -> float:
    return float(value) if math.isfinite(value) else math.nan


def _default_output() -> str:
    """A name that the same command finds again."""
    flags_given = sorted(arg for arg in sys.argv[1:] if not arg.startswith("--output"))
    digest = hashlib.sha256(json.dumps(flags_given).encode()).hexdigest()[:8]
    name = Path(FLAGS.workdir).name if FLAGS.workdir else (FLAGS.problem or "quadratic").replace(":", "-")
    return f"results/compare-{name}-{digest}"


if __name__ == "__main__":
    cli.run(main)
