"""The sections of `python -m experiments.benchmark`, whose flags are there."""

import functools
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

from experiments.benchmark import contenders
from experiments.benchmark.__main__ import SECTIONS
from experiments.common import build, candidates, cli, files, problems, tables
from experiments.compare_estimators import laboratory
from vae import diagnostics, estimators, models, objectives, train

PIXELS = contenders.PIXELS
# Estimators that cost so many times the cheapest gradient have nothing to hide an overhead behind, and take minutes.
DEAR = 10


def measure(options: flags.FlagValues) -> None:
    """Runs the sections asked for, and writes the report after each; bad input is one sentence and exit 1."""
    with cli.one_sentence():
        if not options.sections or set(options.sections) - set(SECTIONS):
            raise ValueError(f"--sections takes {', '.join(SECTIONS)}")
        for name in ("batch_sizes", "runs"):
            numbers = options[name].value
            if not numbers or not all(number.isdecimal() and int(number) for number in numbers):
                raise ValueError(f"--{name} takes positive integers")
        laboratory.cut(options.draws, 10)
        folder = Path(options.output)
        files.check_writable(folder, "output")
    report, text = {"machine": machine()}, f"Machine: {machine()}\n"
    for name in options.sections:
        report[name], lines = FUNCTIONS[name](options)
        print(lines, flush=True)
        text += f"\n{lines}\n"
        with cli.one_sentence(OSError):  # after each section: the next may take minutes
            (folder / "benchmark.json").write_text(json.dumps(report, indent=2) + "\n")
            (folder / "benchmark.md").write_text(text)


def machine() -> str:
    """What the numbers were measured on."""
    processor = next(
        (line.split(":")[1].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    device = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else f"{processor}, {os.cpu_count()} cores"
    return f"{device}, jax {jax.__version__}, Python {platform.python_version()}"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def take_turns(runs: dict[str, Callable], rounds: int, title: str) -> dict[str, np.ndarray]:
    """Seconds of every run, `[rounds]`, after one that does not count and compiles."""
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for _ in tqdm(range(rounds), title, leave=False, disable=not sys.stdout.isatty()):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(times) for name, times in seconds.items()}


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    return statistics.median(a / b)


def _spread(times: np.ndarray) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


# Sections


def epochs(options) -> tuple[list[dict], str]:
    found = [epoch_times(int(size), options) for size in options.batch_sizes]
    return found, "\n\n".join(map(epoch_table, found))


def epoch_times(batch_size: int, options) -> dict:
    """Milliseconds a step of every contender, by round, and the medians of the ratios."""
    images = (np.random.default_rng(0).random((options.images, PIXELS)) < 0.13).astype(np.uint8)
    steps, flop = len(images) // batch_size, step_flop(batch_size)
    runs = {name: make(images, batch_size) for name, make in contenders.available().items()}
    runs["matmul limit"], flop_of_limit = _matmul_limit()
    times = take_turns(runs, options.rounds, f"batch {batch_size}")
    limit = times.pop("matmul limit") / flop_of_limit * flop
    per_step = {name: t / steps for name, t in times.items()} | {"matmul limit": limit}  # seconds
    return {
        "batch_size": batch_size,
        "matmul_flop": flop,
        "milliseconds": {name: (1e3 * t).tolist() for name, t in per_step.items()},
        "project_over": {name: _ratio(per_step["this project"], t) for name, t in per_step.items()},
        "over_bare_scan": {name: _ratio(t, per_step["bare scan"]) for name, t in per_step.items()},
        "of_matmul_limit": {name: _ratio(limit, t) for name, t in per_step.items()},
    }


def step_flop(batch_size: int) -> int:
    """Of the matrix products of the contenders' step: three a weight, but that the first layer's give no gradient of
    the images."""
    return (6 * contenders.WEIGHTS - 2 * PIXELS * contenders.HIDDEN) * batch_size


def epoch_table(section: dict) -> str:
    columns = ["ms a step: median (range)", "over the bare scan", "of the matmul limit", "this project over it"]
    table = [[f"batch {section['batch_size']}", *columns]]
    for name, times in section["milliseconds"].items():
        ratios = (section[key][name] for key in ("over_bare_scan", "of_matmul_limit", "project_over"))
        over, share, ours = ratios
        table.append([name, _spread(times), f"{over:.2f}", f"{share:.0%}", f"{ours:.2f}"])
    return tables.to_markdown(table)


def _matmul_limit(size: int = 2048, repeats: int = 4):
    """A run of `repeats` products of two size^3 matrices, and their FLOP."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)

    def run():
        for _ in range(repeats):
            jax.block_until_ready(product(a))

    return run, 2 * size**3 * repeats


class _Network(NamedTuple):
    """What a sweep trains: a model, its bound, an epoch's steps, and the multiply-adds of an image's forward pass, of
    its first layer, of the encoder and of the decoder."""

    name: str
    model: models.VAE
    objective: Callable
    batch_sizes: tuple[int, ...]
    num_samples: int
    steps: int
    shape: tuple[int, int, int]
    first: int
    encoder: int
    decoder: int

    def flop(self, batch_size: int) -> int:
        """Of the matrix products of a step: three a weight, but that the first layer's give no gradient of images."""
        return batch_size * (6 * (self.encoder + self.num_samples * self.decoder) - 2 * self.first)


def _networks(batch_sizes: tuple[int, ...]) -> list[_Network]:
    bound, digits, mnist = objectives.elbo_analytic(1.0), (8, 8, 1), (28, 28, 1)
    small = models.make_vae(digits, latent_dim=8, hidden=(128, 64))
    large = models.make_vae(mnist, latent_dim=contenders.LATENT, hidden=(contenders.HIDDEN,))
    iwae = models.make_vae(mnist, latent_dim=50, hidden=(200, 200), activation="tanh")

    def adds(*widths: int) -> int:
        return sum(a * b for a, b in itertools.pairwise(widths))

    of_small = adds(64, 128), adds(64, 128, 64, 16), adds(8, 64, 128, 64)
    of_large = adds(784, 500), adds(784, 500, 40), adds(20, 500, 784)
    of_iwae = adds(784, 200), adds(784, 200, 200, 100), adds(50, 200, 200, 784)
    return [
        _Network("digits", small, bound, batch_sizes, 1, 64, digits, *of_small),
        _Network("MNIST", large, bound, batch_sizes, 1, 16, mnist, *of_large),
        _Network("IWAE, K = 50", iwae, objectives.iwae, (20,), 50, 16, mnist, *of_iwae),
    ]


def sweep(options) -> tuple[list[dict], str]:
    found = []
    for network in _networks(tuple(map(int, options.batch_sizes))):
        for batch_size in network.batch_sizes:
            found += [sweep_times(network, batch_size, int(runs), options.rounds) for runs in options.runs]
    columns = ["runs", "images/s one by one: median (range)", "of the matmul peak", "vmap (range)", "map (range)"]
    table = [["network, batch", *columns, "GFLOP a step"]]
    for row in found:
        ratios = [_spread(np.array(row["over_one_by_one"][mode])) for mode in ("vmap", "map")]
        rates, share = np.array(row["images_per_second"]["one by one"]), row["of_matmul_peak"]["one by one"]
        rate = f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"
        name = f"{row['network']}, {row['batch_size']}"
        table.append([name, str(row["runs"]), rate, f"{share:.0%}", *ratios, f"{row['matmul_flop'] / 1e9:.3g}"])
    return found, tables.to_markdown(table)


def sweep_times(network: _Network, batch_size: int, runs: int, rounds: int) -> dict:
    """Images a second of `runs` runs, by round, and by how many times a shared program is faster than one for each."""
    steps = network.steps  # whatever the runs, so that what an epoch costs once weighs the same
    images = np.random.default_rng(0).random((steps * batch_size, *network.shape)) < 0.3
    data, keys = jnp.asarray(images, jnp.uint8), jax.random.split(jax.random.key(0), runs)
    estimator, tx = estimators.BY_NAME["reparam"].make(num_samples=network.num_samples), optax.adam(contenders.RATE)
    update = train.make_step(network.model.apply, network.objective, estimator, tx)
    init = train.make_init(network.model, estimator, tx, jnp.zeros((batch_size, *network.shape)))
    epoch = train.make_epoch(lambda state, key, x: update(state, key, x.astype(jnp.float32)), batch_size)
    start = jax.jit(train.over_runs(init, "map"))

    def together(mode: str) -> Callable[[], None]:
        program = jax.jit(train.over_runs(epoch, mode, shared=1), donate_argnums=0)
        return contenders.blocking(lambda state: program(state, keys, data)[0], start(keys))

    alone = jax.jit(epoch, donate_argnums=0)
    states = [jax.tree.map(lambda leaf, i=i: leaf[i], start(keys)) for i in range(runs)]
    one_by_one = lambda states: [
        jax.block_until_ready(alone(state, key, data)[0]) for state, key in zip(states, keys, strict=True)
    ]
    contestants = {
        "one by one": contenders.blocking(one_by_one, states),
        "vmap": together("vmap"),
        "map": together("map"),
    }
    product, flop_of_product = _matmul_limit()
    title = f"{network.name}, batch {batch_size}, {runs} runs"
    times = take_turns(contestants | {"product": product}, rounds, title)
    peak = flop_of_product / times.pop("product")
    flop = network.flop(batch_size)
    return {
        "network": network.name,
        "batch_size": batch_size,
        "runs": runs,
        "matmul_flop": flop,
        "images_per_second": {name: (runs * len(data) / t).tolist() for name, t in times.items()},
        "over_one_by_one": {name: (times["one by one"] / t).tolist() for name, t in times.items()},
        "of_matmul_peak": {name: statistics.median(flop * runs * steps / t / peak) for name, t in times.items()},
    }


def flops(options) -> tuple[dict[str, float], str]:
    del options
    found = flop_ratios()
    table = [["gradient, K = 64", "FLOP", "of the plain one"]]
    for name, flop in found.items():
        plain = found["reparam (elbo)" if "elbo" in name else "reparam"]
        table.append([name, f"{flop:.4g}", f"{flop / plain:.4f}"])
    return found, tables.to_markdown(table)


def flop_ratios(batch_size: int = 20, num_samples: int = 64) -> dict[str, float]:
    """FLOP of the compiled gradient of the importance-weighted bound, by estimator, as XLA counts them."""
    model = models.make_vae((28, 28, 1), latent_dim=50, hidden=(200, 200), activation="tanh")
    x = jnp.zeros((batch_size, 28, 28, 1))
    params = model.init(jax.random.key(0), x, jax.random.key(0))

    def flop(name: str, objective: Callable) -> float:
        estimator = estimators.BY_NAME[name].make(num_samples=num_samples)

        def loss(params, key):
            expect = estimators.bind(estimator, {}, {}, key, x)
            return -jnp.mean(objective(model.apply, params, x, expect).value)

        return diagnostics.flops(jax.grad(loss), params, jax.random.key(0))

    plain = {"reparam": flop("reparam", objectives.iwae), "dreg": flop("dreg", objectives.iwae)}
    return plain | {f"{name} (elbo)": flop(name, objectives.elbo) for name in ("reparam", "stl")}


def laboratory_overhead(options) -> tuple[dict, str]:
    """Measuring an estimator against making as many gradients, on the net of the section epoch, batch 128."""
    problem = _vae("normal", hidden=(contenders.HIDDEN,), latent_dim=contenders.LATENT)
    protocol = _protocol(options.draws, 10)
    truth = diagnostics.exactly(jax.tree.map(lambda leaf: np.ones(leaf.shape), problem.params))
    runs, dear, cheapest = {}, [], candidates.cost(problem, "elbo", "reparam", "flops", 1)
    for name in candidates.choose(problem, "elbo", None):
        case = _case(problem, name, estimators.BY_NAME[name].min_samples)
        if case.flops > DEAR * cheapest:
            dear.append(name)
            continue
        runs[name] = lambda case=case: laboratory.measure(problem, "elbo", case, protocol, "", truth)
        runs[f"{name}, bare"] = _bare_gradients(problem, case, options.draws)
    times = take_turns(runs, options.rounds, "laboratory")
    ratios = {name: _ratio(times[name], times[f"{name}, bare"]) for name in times if f"{name}, bare" in times}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = [["estimator", f"s for {options.draws} bare gradients", "laboratory over bare"]]
    table += [[name, _spread(times[f"{name}, bare"]), f"{ratio:.2f}"] for name, ratio in ratios.items()]
    notes = f"\n\nLargest memory of the process so far: {memory:.0f} MiB."
    notes += f" Left out as dear: {', '.join(dear)}." if dear else ""
    found = {"ratios": ratios, "seconds": {n: t.tolist() for n, t in times.items()}, "peak_mebibytes": memory}
    return found, tables.to_markdown(table) + notes


def toys(options) -> tuple[dict[str, float], str]:
    """Seconds that a million draws of a Gaussian's quadratic cost take in the laboratory, compiled."""
    problem = problems.gaussian_cost("quadratic")
    truth, protocol = diagnostics.exactly(problem.oracle("elbo", 1)), _protocol(10**6, 50)
    cases = [_case(problem, n, estimators.BY_NAME[n].min_samples) for n in candidates.choose(problem, "elbo", None)]
    measure = lambda case: laboratory.measure(problem, "elbo", case, protocol, "", truth)
    times = take_turns({case.name: functools.partial(measure, case) for case in cases}, options.rounds, "toys")
    table = [["estimator", "s for a million draws"], *([name, _spread(t)] for name, t in times.items())]
    return {name: t.tolist() for name, t in times.items()}, tables.to_markdown(table)


def discrete(options, steps: int = 20) -> tuple[dict, str]:
    """A training step of each estimator of Bernoulli latents against leave_one_out's, and its FLOP, at equal numbers of
    evaluations."""
    problem = _vae("bernoulli", hidden=(), latent_dim=200)
    budget, runs, flop, left_out = ("evaluations", float(options.evaluations)), {}, {}, []
    for name in candidates.choose(problem, "elbo", None):
        try:
            k = candidates.affordable(
                budget, functools.partial(candidates.cost, problem, "elbo", name, budget[0]), name
            )
        except candidates.Refused as error:
            left_out.append(f"Left out: {error}.")
            continue
        runs[name], flop[name] = _steps(problem, build.estimator(name, k), steps)
    times = take_turns(runs, options.rounds, "discrete")
    ratios = {name: _ratio(t, times["leave_one_out"]) for name, t in times.items()}
    found = {name: {"time": r, "flop": flop[name] / flop["leave_one_out"]} for name, r in ratios.items()}
    columns = ["ms a step: median (range)", "time over leave_one_out", "FLOP over leave_one_out"]
    table = [[f"estimator, {options.evaluations} evaluations", *columns]]
    for name in sorted(ratios, key=ratios.get):
        table.append([name, _spread(1e3 * times[name] / steps), f"{ratios[name]:.2f}", f"{found[name]['flop']:.2f}"])
    return found, "\n\n".join([tables.to_markdown(table), *left_out])


def _vae(posterior: str, batch_size: int = 128, **sizes) -> problems.Problem:
    """A VAE at its initial parameters on synthetic binary images."""
    model = models.make_vae((28, 28, 1), posterior=posterior, **sizes)
    x = (np.random.default_rng(0).random((batch_size, 28, 28, 1)) < 0.13).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(0))["params"]
    bound = lambda params, x, expect: objectives.elbo(model.apply, {"params": params}, x, expect)
    return problems.Problem(posterior, params, {"elbo": bound}, jnp.asarray(x), context=jnp.asarray(x))


def _case(problem: problems.Problem, name: str, num_samples: int) -> candidates.Case:
    return candidates.Case(name, num_samples, 0, 0, candidates.cost(problem, "elbo", name, "flops", num_samples))


def _protocol(draws: int, chunks: int) -> laboratory.Protocol:
    chunks = laboratory.cut(draws, chunks)
    return laboratory.Protocol(draws, draws, "", chunks, replicates=400, cv_steps=0, seed=0, confidence=0.95, rounds=1)


def _bare_gradients(problem: problems.Problem, case: candidates.Case, draws: int) -> Callable[[], None]:
    """As many gradients in a scan, each of them made and thrown away."""
    estimator = build.estimator(case.name, case.num_samples)
    gradient = diagnostics.make_gradient(problem.bounds["elbo"], estimator)
    q = candidates.posteriors(problem, "elbo")[0][0]
    learned, counted = estimator.init(jax.random.key(0), q, problem.context)

    arguments = (problem.params, problem.data, learned, counted, problem.context)

    @jax.jit
    def run(arguments, keys):
        return jax.lax.scan(lambda _, key: (gradient(*arguments, key), None), arguments[0], keys)[0]

    keys = jax.random.split(jax.random.key(0), draws)
    return lambda: jax.block_until_ready(run(arguments, keys))


def _steps(problem: problems.Problem, estimator: estimators.Estimator, steps: int) -> tuple[Callable, float]:
    """A run of so many training steps with Adam, and the FLOP of one."""
    tx, bound = optax.adam(contenders.RATE), problem.bounds["elbo"]
    step = train.make_step(None, lambda apply, params, x, expect: bound(params, x, expect), estimator, tx)
    learned, counted = estimator.init(jax.random.key(0), candidates.posteriors(problem, "elbo")[0][0], problem.context)
    params = {"model": problem.params, "estimator": learned}
    state = train.TrainState(params, tx.init(params), counted, jnp.zeros((), jnp.int32))
    keys = jax.random.split(jax.random.key(0), steps)
    scan = jax.jit(lambda state: jax.lax.scan(lambda s, key: (step(s, key, problem.data)[0], None), state, keys)[0])
    flop = diagnostics.flops(lambda state, key: step(state, key, problem.data), state, keys[0])
    return lambda: jax.block_until_ready(scan(state)), flop


FUNCTIONS: dict[str, Callable] = {
    "epoch": epochs,
    "sweep": sweep,
    "flops": flops,
    "laboratory": laboratory_overhead,
    "toys": toys,
    "discrete": discrete,
}
