"""The training of the toy problems of `python -m experiments.toy_bernoulli`, with every estimator in one program."""

import functools
import itertools
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.common import (
    build,
    candidates,
    checks,
    cli,
    files,
    plots,
    problems,
    provenance,
    results,
    tables,
)
from experiments.common.options import entry
from experiments.common.store import Store, digest_of
from experiments.compare_estimators import laboratory
from experiments.toy_bernoulli.__main__ import TOYS, define_flags
from vae import diagnostics, train

# Of the gradients behind a variance, as many at once as have so many numbers together.
SIDE_BY_SIDE = 4096

# What estimators work with: columns of the picture.
FAMILIES = SCORE, VALUES, SLOPE, BIASED = "score function", "f at chosen states", "f and df/dz", "biased"


def train_all(options: flags.FlagValues) -> None:
    """Trains, tabulates, draws; bad input is one sentence and exit 1."""
    started = time.perf_counter()
    with cli.one_sentence():
        if options.estimators == []:
            raise ValueError("--estimators is empty; leave it out for all that fit")
        if not 0 < options.learning_rate < math.inf:
            raise ValueError(f"--learning_rate={options.learning_rate} is not a number above 0")
        if options.steps % (options.records - 1):
            raise ValueError(f"--steps={options.steps} must be a multiple of --records less one, {options.records - 1}")
        folder = Path(options.output or f"results/toy-{options.toy}")
        files.check_writable(folder, "output")
        checks.refuse_links(folder)
        points = TOYS[options.toy](problems, options.batch_size)
        names = candidates.choose(points[0], "elbo", options.estimators)

        def fits(name: str) -> str:
            candidates.cost(points[0], "elbo", name, "evaluations", _num_samples(name, options))
            return name

        # Refused here rather than when all are compiled.
        names = candidates.each(zip(names), fits, asked=options.estimators is not None)
        program, seeds = functools.partial(_all_curves, points, names, options), jnp.arange(options.seeds)
        store = Store(folder / "kept")
    with cli.one_sentence(OSError):
        # The names are in what it returns, not in what it computes.
        curves = store.recall(digest_of(program, seeds, of=tuple(names)), lambda: _train(program, seeds))
        if store.earlier_seconds:
            print(f"{store.folder} holds the curves, from {store.earlier_seconds:.0f} seconds of training: none anew\n")
        _write(folder, points, curves, options)
        seconds = time.perf_counter() - started + store.earlier_seconds
        files.write_json(
            folder / "config.json", provenance.describe_measurement(cli.given(define_flags, options), seconds)
        )


def _train(program, seeds):
    with laboratory.progress(["compile", "run"], "all estimators") as bar:
        bar.set_postfix_str("compiling")
        compiled = jax.jit(program).lower(seeds).compile()
        bar.update()
        bar.set_postfix_str("running")
        curves = jax.device_get(compiled(seeds))
        bar.update()
    return curves


def _all_curves(points, names, options, seeds):
    """{name: {"loss", "variance"}}, each `[points, seeds, records]`."""
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(point.data for point in points))
    found = {}
    for name in names:
        run = functools.partial(_curve, points[0], name, options)
        found[name] = jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None))(data, seeds)
    return found


def _curve(problem: problems.Problem, name: str, options, data, seed):
    """One run: `[records]` exact losses and variances of the gradient, after equal numbers of steps each."""
    estimator = build.estimator(name, _num_samples(name, options))
    bound = problem.bounds["elbo"]
    objective = lambda apply, params, data, expect: bound(params, data, expect)
    tx = optax.adam(options.learning_rate)
    step = train.make_step(None, objective, estimator, tx)
    gradient = diagnostics.make_gradient(bound, estimator)
    key_init, key_steps, key_draws = jax.random.split(jax.random.key(seed), 3)

    learned, counted = estimator.init(key_init, candidates.posteriors(problem._replace(data=data), "elbo")[0][0], data)
    params = {"model": problem.params, "estimator": learned}
    start = train.TrainState(params, tx.init(params), counted, jnp.zeros((), jnp.int32))

    def advance(state, _):
        return step(state, jax.random.fold_in(key_steps, state.step), data)[0], None

    def row(state):
        params = state.params["model"]
        number = options.draws or (16 if options.toy == "polynomial" else 256)
        keys = jax.random.split(jax.random.fold_in(key_draws, state.step), number)
        draw = lambda key: gradient(params, data, state.params["estimator"], state.estimator_state, data, key)
        draws = jax.lax.map(draw, keys, batch_size=max(1, SIDE_BY_SIDE // laboratory.size(problem)))
        spread = jax.tree.map(lambda leaf: jnp.sum(jnp.var(leaf, axis=0, ddof=1)), draws)
        return {"loss": -problem.expected(params, data), "variance": sum(jax.tree.leaves(spread))}

    def record(state, _):
        return jax.lax.scan(advance, state, length=_stride(options))[0], row(state)

    last, rows = jax.lax.scan(record, start, length=options.records - 1)
    return jax.tree.map(lambda rows, end: jnp.append(rows, end), rows, row(last))


def _num_samples(name: str, options) -> int:
    return max(options.num_samples, entry(name).min_samples)


def _stride(options) -> int:
    """Steps from one record to the next."""
    return options.steps // (options.records - 1)


def _write(folder: Path, points, curves, options) -> None:
    steps = np.arange(options.records) * _stride(options)
    titles = [", ".join(f"{name} {value:g}" for name, value in point.point.items()) or point.name for point in points]
    long, last = [], []
    for (i, title), (name, curve) in itertools.product(enumerate(titles), curves.items()):
        of, loss, variance = {"point": title, "estimator": name}, curve["loss"][i], curve["variance"][i]
        for seed, at in np.ndindex(loss.shape):
            here = {"seed": seed, "step": int(steps[at])}
            long.append(of | here | {"loss": float(loss[seed, at]), "variance": float(variance[seed, at])})
        row = of | {"family": _family(name)}
        for figure, values in (("final_loss", loss[:, -1]), ("first_variance", variance[:, 0])):
            row[figure], row[f"{figure}_stderr"] = results.mean_and_error(values.tolist())
        last.append(row)
    last.sort(key=lambda row: (titles.index(row["point"]), results.least_first(row["final_loss"])))
    files.write_text(folder / "curves.csv", tables.to_csv(long))
    files.write_text(folder / "results.csv", tables.to_csv(last))
    table = tables.to_markdown([["point", "estimator", "final loss", "variance at the start"], *map(_cells, last)])
    files.write_text(folder / "results.md", table + "\n")
    families = {family: [name for name in curves if _family(name) == family] for family in FAMILIES}
    families = {family: names for family, names in families.items() if names}
    plots.save(plots.toy_curves(steps, curves, titles, families), folder / "figures" / "toy")
    print(f"{table}\n* biased by its paper; mean ± standard error of {options.seeds} seeds\n")
    print(f"picture: {folder / 'figures' / 'toy.png'}\nevery number: {folder / 'curves.csv'}, {folder / 'results.csv'}")


def _family(name: str) -> str:
    """What an estimator works with, as the table of estimators has it."""
    found = entry(name)
    if found.biased or found.differentiates_f:
        return BIASED if found.biased else SLOPE
    return SCORE if "any" in found.latents else VALUES


def _cells(row) -> list[str]:
    error = row["final_loss_stderr"]
    loss = f"{row['final_loss']:.6f}" + ("" if math.isnan(error) else f" ± {error:.6f}")
    return [
        row["point"],
        row["estimator"] + (" *" if row["family"] == BIASED else ""),
        loss,
        tables.number(row["first_variance"]),
    ]
