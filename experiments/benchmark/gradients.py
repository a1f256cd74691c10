"""The sections `flops`, `laboratory`, `toys` and `discrete`: the cost of gradients and of measuring them."""

import functools
import resource
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark import contenders
from experiments.benchmark.timing import ratio, spread, take_turns
from experiments.common import candidates, measuring, problems, tables
from experiments.common.budget import Budget, Refused, affordable
from experiments.common.candidates import Case
from experiments.common.grammar import least_samples
from experiments.common.measuring import Protocol
from experiments.common.problems import Problem
from experiments.common.task import Task, make_estimator
from vae import diagnostics, estimators, models, objectives, train

# The section `laboratory` leaves out estimators whose gradient costs more than this many times the FLOP of reparam.
# They take minutes, and beside their cost the laboratory's overhead would not show.
MOST_COSTLY = 10
# Training steps in one run of the section `discrete`.
STEPS = 20


def flops() -> tuple[dict[str, float], str]:
    """The FLOP of sticking the landing and of DReG, relative to the plain pathwise gradient."""
    measured = flop_of_gradients()
    table = [["gradient, K = 64", "FLOP", "of the plain one"]]
    for name, flop in measured.items():
        plain = measured["reparam (elbo)" if "elbo" in name else "reparam"]
        table.append([name, f"{flop:.4g}", f"{flop / plain:.4f}"])
    return measured, tables.to_markdown(table)


def flop_of_gradients(batch_size: int = 20, num_samples: int = 64) -> dict[str, float]:
    """The FLOP of the compiled gradient of a 784-200-200-50 VAE with each estimator, as XLA counts them."""
    model = models.make_vae((28, 28, 1), latent_dim=50, hidden=(200, 200), activation="tanh")
    x = jnp.zeros((batch_size, 28, 28, 1))
    params = model.init(jax.random.key(0), x, jax.random.key(0))

    def flop(name: str, objective: Callable) -> float:
        estimator = estimators.BY_NAME[name].make(num_samples=num_samples)

        def loss(params, key):
            expect = estimators.bind(estimator, {}, {}, key, x)
            return -jnp.mean(objective(model.apply, params, x, expect).value)

        return diagnostics.flops(jax.grad(loss), params, jax.random.key(0))

    return {
        "reparam": flop("reparam", objectives.iwae),
        "dreg": flop("dreg", objectives.iwae),
        "reparam (elbo)": flop("reparam", objectives.elbo),
        "stl (elbo)": flop("stl", objectives.elbo),
    }


def laboratory(draws: int, rounds: int) -> tuple[dict, str]:
    """The time to measure an estimator in the laboratory, relative to the time to draw as many gradients.

    The network is that of the section `epoch`, with batch 128.
    """
    task = _vae_task("normal", hidden=(contenders.HIDDEN,), latent_dim=contenders.LATENT)
    protocol = _protocol(draws, most_chunks=10)
    truth = diagnostics.exactly(jax.tree.map(lambda leaf: np.ones(leaf.shape), task.problem.params))
    cheapest = task.cost("flops", "reparam", 1)
    runs: dict[str, Callable] = {}
    too_costly = []
    for name in candidates.choose(task):
        case = _case(task, name)
        if case.flops > MOST_COSTLY * cheapest:
            too_costly.append(name)
            continue
        runs[name] = functools.partial(measuring.measure, task, case, protocol, truth)
        runs[f"{name}, bare"] = _bare_gradients(task, case, draws)
    times = take_turns(runs, rounds, "laboratory")
    ratios = {name: ratio(times[name], times[f"{name}, bare"]) for name in times if f"{name}, bare" in times}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = [["estimator", f"s for {draws} bare gradients", "laboratory over bare"]]
    table += [[name, spread(times[f"{name}, bare"]), f"{over:.2f}"] for name, over in ratios.items()]
    notes = f"\n\nLargest memory of the process so far: {memory:.0f} MiB."
    notes += f" Left out because they cost too much: {', '.join(too_costly)}." if too_costly else ""
    seconds = {name: t.tolist() for name, t in times.items()}
    return {"ratios": ratios, "seconds": seconds, "peak_mebibytes": memory}, tables.to_markdown(table) + notes


def toys(rounds: int) -> tuple[dict[str, list[float]], str]:
    """The seconds that the laboratory takes for a million gradients of the problem `quadratic`, without compiling."""
    task = Task(problems.quadratic(), "elbo")
    truth = diagnostics.exactly(task.problem.oracle("elbo", 1))
    protocol = _protocol(10**6, most_chunks=50)
    measure = lambda name: functools.partial(measuring.measure, task, _case(task, name), protocol, truth)
    times = take_turns({name: measure(name) for name in candidates.choose(task)}, rounds, "toys")
    table = [["estimator", "s for a million draws"], *([name, spread(t)] for name, t in times.items())]
    return {name: t.tolist() for name, t in times.items()}, tables.to_markdown(table)


def discrete(evaluations: int, rounds: int) -> tuple[dict, str]:
    """The time and FLOP of a training step of a Bernoulli VAE with each estimator, relative to leave_one_out.

    All estimators have equal numbers of evaluations of the bound.
    """
    task = _vae_task("bernoulli", hidden=(), latent_dim=200)
    budget = Budget("evaluations", float(evaluations))
    runs: dict[str, Callable] = {}
    flop: dict[str, float] = {}
    left_out = []
    for name in candidates.choose(task):
        try:
            num_samples = affordable(budget, functools.partial(task.cost, budget.kind, name), name)
        except Refused as error:
            left_out.append(f"Left out: {error}.")
            continue
        runs[name], flop[name] = _training_steps(task, name, num_samples)
    times = take_turns(runs, rounds, "discrete")
    measured = {
        name: {"time": ratio(t, times["leave_one_out"]), "flop": flop[name] / flop["leave_one_out"]}
        for name, t in times.items()
    }
    columns = ["ms a step: median (range)", "time over leave_one_out", "FLOP over leave_one_out"]
    table = [[f"estimator, {evaluations} evaluations", *columns]]
    for name in sorted(measured, key=lambda name: measured[name]["time"]):
        over = measured[name]
        table.append([name, spread(1e3 * times[name] / STEPS), f"{over['time']:.2f}", f"{over['flop']:.2f}"])
    return measured, "\n\n".join([tables.to_markdown(table), *left_out])


def _vae_task(posterior: str, batch_size: int = 128, **sizes) -> Task:
    """The ELBO of a VAE at its initial parameters on synthetic binary images."""
    model = models.make_vae((28, 28, 1), posterior=posterior, **sizes)
    x = (np.random.default_rng(0).random((batch_size, 28, 28, 1)) < 0.13).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(0))["params"]
    bound = lambda params, x, expect: objectives.elbo(model.apply, {"params": params}, x, expect)
    problem = Problem(posterior, params, {"elbo": bound}, data=jnp.asarray(x), context=jnp.asarray(x))
    return Task(problem, "elbo")


def _case(task: Task, name: str) -> Case:
    num_samples = least_samples(name)
    return Case(name, num_samples, slot=0, evaluations=0, flops=task.cost("flops", name, num_samples))


def _protocol(draws: int, most_chunks: int) -> Protocol:
    return Protocol(
        draws=draws,
        reference_draws=draws,
        reference="",
        chunks=measuring.number_of_chunks(draws, most_chunks),
        replicates=400,
        cv_steps=0,
        seed=0,
        confidence=0.95,
        rounds=1,
    )


def _bare_gradients(task: Task, case: Case, draws: int) -> Callable[[], None]:
    """A run that draws `draws` gradients in one scan, and keeps only the last of them."""
    gradient = diagnostics.make_gradient(task.bound, make_estimator(case.estimator, case.num_samples))
    arguments = task.arguments(task.start(case.estimator, case.num_samples))
    keys = jax.random.split(jax.random.key(0), draws)

    @jax.jit
    def run(arguments, keys):
        return jax.lax.scan(lambda _, key: (gradient(key, *arguments), None), arguments[0], keys)[0]

    return lambda: jax.block_until_ready(run(arguments, keys))


def _training_steps(task: Task, name: str, num_samples: int) -> tuple[Callable[[], None], float]:
    """A run of STEPS training steps with Adam, and the FLOP of one step."""
    problem = task.problem
    estimator = make_estimator(name, num_samples)
    tx = optax.adam(contenders.RATE)
    objective = lambda apply, params, x, expect: task.bound(params, x, expect)
    step = train.make_step(None, objective, estimator, tx)
    learned, counted = task.start(name, num_samples)
    params = {"model": problem.params, "estimator": learned}
    state = train.TrainState(params, tx.init(params), counted, jnp.zeros((), jnp.int32))
    keys = jax.random.split(jax.random.key(0), STEPS)
    run = jax.jit(lambda state: jax.lax.scan(lambda s, key: (step(s, key, problem.data)[0], None), state, keys)[0])
    flop = diagnostics.flops(lambda state, key: step(state, key, problem.data), state, keys[0])
    return lambda: jax.block_until_ready(run(state)), flop
