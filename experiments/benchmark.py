"""How fast a training step is, side by side with others in one process, as ratios, which hold on a shared machine too.

    python -m experiments.benchmark                              # everything, about ten minutes on two CPU cores
    python -m experiments.benchmark --sections=flops --output=results/benchmark

The net is 784-500-(20+20)-20-500-784, Bernoulli likelihood, Adam 1e-3, float32, on 60000 synthetic binary images.
Contenders of the section "epoch", each trained over whole epochs, in turn, `--rounds` times:

    this project     vae.train.make_epoch with flax, optax and the estimator table, as experiments.train runs it
    bare scan        the same training written by hand in plain JAX: one lax.scan, hand-written Adam and likelihood
    matmul limit     the time that the step's matrix products alone would take at the measured speed of a 2048^3 product
    numpyro          SVI in a fori_loop over the epoch (where numpyro is installed)
    torch.compile    the same net and optimizer in PyTorch (where torch is installed)

Writes benchmark.json and benchmark.md. Times are wall-clock; each ratio is the median over rounds of a round's ratio.
"""

import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

from experiments import cli
from vae import estimators, models, objectives, train

flags.DEFINE_list("sections", ["epoch", "flops"], "what to measure: epoch, flops")
flags.DEFINE_list("batch_sizes", ["128", "512"], "images in a step, for the section epoch")
flags.DEFINE_integer("rounds", 7, "times that every contender runs, in turn", lower_bound=1)
flags.DEFINE_integer("images", 60000, "training images in an epoch", lower_bound=512)
flags.DEFINE_string("output", "results/benchmark", "folder of benchmark.json and benchmark.md")
FLAGS = flags.FLAGS

PIXELS, HIDDEN, LATENT, RATE = 784, 500, 20, 1e-3
WEIGHTS = 2 * PIXELS * HIDDEN + 3 * HIDDEN * LATENT


def main() -> None:
    unknown = set(FLAGS.sections) - {"epoch", "flops"}
    with cli.one_sentence():
        if unknown or not all(size.isdigit() for size in FLAGS.batch_sizes):
            raise ValueError("--sections takes epoch and flops, --batch_sizes takes integers")
        Path(FLAGS.output).mkdir(parents=True, exist_ok=True)
    report, lines = {"machine": machine()}, [f"Machine: {machine()}", ""]
    if "epoch" in FLAGS.sections:
        report["epoch"] = [epoch_times(int(size)) for size in FLAGS.batch_sizes]
        lines += [line for section in report["epoch"] for line in epoch_table(section)]
    if "flops" in FLAGS.sections:
        report["flops"] = flop_ratios()
        lines += ["| gradient, K = 64 | FLOP | of plain IWAE |", "|---|---|---|"]
        lines += [f"| {n} | {f:.4g} | {f / report['flops']['reparam']:.4f} |" for n, f in report["flops"].items()]
    text = "\n".join(lines)
    print(text)
    (Path(FLAGS.output) / "benchmark.json").write_text(json.dumps(report, indent=2) + "\n")
    (Path(FLAGS.output) / "benchmark.md").write_text(text + "\n")


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


def epoch_times(batch_size: int) -> dict:
    """Milliseconds a step of every contender, by round, and the medians of the ratios."""
    images = (np.random.default_rng(0).random((FLAGS.images, PIXELS)) < 0.13).astype(np.uint8)
    contenders = {"this project": _project, "bare scan": _bare_scan}
    contenders |= {"numpyro": _numpyro} if importlib.util.find_spec("numpyro") else {}
    contenders |= {"torch.compile": _torch} if importlib.util.find_spec("torch") else {}
    steps = FLAGS.images // batch_size
    runs = {name: make(images, batch_size) for name, make in contenders.items()}
    runs["matmul limit"], steps_of_limit = _matmul_limit()
    for run in runs.values():
        run()
    times = {name: [] for name in runs}
    for _ in tqdm(range(FLAGS.rounds), f"batch {batch_size}", disable=not sys.stdout.isatty()):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    flop = 6 * WEIGHTS * batch_size
    limit = np.array(times.pop("matmul limit")) / steps_of_limit * flop  # seconds a step
    per_step = {name: np.array(t) / steps for name, t in times.items()} | {"matmul limit": limit}
    ratio = lambda a, b: statistics.median(per_step[a] / per_step[b])
    return {
        "batch_size": batch_size,
        "matmul_flop": flop,
        "milliseconds": {name: (1e3 * t).tolist() for name, t in per_step.items()},
        "over_bare_scan": {name: ratio(name, "bare scan") for name in per_step},
        "of_matmul_limit": {name: ratio("matmul limit", name) for name in per_step},
    }


def epoch_table(section: dict) -> list[str]:
    lines = [
        f"| batch {section['batch_size']} | ms a step: median (range) | time over bare scan | of the matmul limit |",
        "|---|---|---|---|",
    ]
    for name, times in section["milliseconds"].items():
        spread = f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        share, limit = section["over_bare_scan"][name], section["of_matmul_limit"][name]
        lines.append(f"| {name} | {spread} | {share:.2f} | {limit:.0%} |")
    return [*lines, ""]


def _blocking(epoch: Callable, state) -> Callable[[], None]:
    """A run of one epoch that waits for its end and carries the state to the next."""
    carried = [state]

    def run():
        carried[0] = jax.block_until_ready(epoch(carried[0]))

    return run


def _project(images: np.ndarray, batch_size: int):
    model = models.make_vae((28, 28, 1), latent_dim=LATENT, hidden=(HIDDEN,))
    estimator, tx = estimators.BY_NAME["reparam"].make(num_samples=1), optax.adam(RATE)
    data, key = jnp.asarray(images.reshape(-1, 28, 28, 1)), jax.random.key(0)
    state = train.make_init(model, estimator, tx, jnp.zeros((batch_size, 28, 28, 1)))(key)
    update = train.make_step(model.apply, objectives.elbo_analytic(1.0), estimator, tx)
    step = lambda state, key, x: update(state, key, x.astype(jnp.float32))
    epoch = jax.jit(train.make_epoch(step, batch_size), donate_argnums=0)
    return _blocking(lambda state: epoch(state, key, data)[0], state)


def _bare_scan(images: np.ndarray, batch_size: int):
    key = jax.random.key(0)
    shapes = [(PIXELS, HIDDEN), (HIDDEN, LATENT), (HIDDEN, LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]
    weights = [jax.random.normal(jax.random.fold_in(key, i), s) * s[0] ** -0.5 for i, s in enumerate(shapes)]
    params = [(w, jnp.zeros(w.shape[1])) for w in weights]
    zeros = jax.tree.map(jnp.zeros_like, params)
    data, steps = jnp.asarray(images), len(images) // batch_size

    @jax.custom_vjp
    def log_likelihood(logits, x):
        return jnp.sum(x * logits - jnp.maximum(logits, 0) - jnp.log1p(jnp.exp(-jnp.abs(logits))))

    log_likelihood.defvjp(
        lambda logits, x: (log_likelihood(logits, x), x - jax.nn.sigmoid(logits)),
        lambda residual, g: (g * residual, None),
    )

    def loss(params, x, eps):
        (w1, b1), (wm, bm), (wv, bv), (w2, b2), (w3, b3) = params
        h = jax.nn.relu(x @ w1 + b1)
        mean, log_var = h @ wm + bm, h @ wv + bv
        z = mean + jnp.exp(0.5 * log_var) * eps
        logits = jax.nn.relu(z @ w2 + b2) @ w3 + b3
        kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_var) - 1 - log_var)
        return (kl - log_likelihood(logits, x)) / len(x)

    def step(state, batch):
        params, m, v, t = state
        eps = jax.random.normal(jax.random.fold_in(key, t), (batch_size, LATENT))
        bound, g = jax.value_and_grad(loss)(params, data[batch].astype(jnp.float32), eps)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        a, b = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
        params = jax.tree.map(lambda p, m, v: p - RATE * (m * a) / (jnp.sqrt(v * b) + 1e-8), params, m, v)
        return (params, m, v, t), bound

    def epoch(state):
        order = jax.random.permutation(jax.random.fold_in(key, state[3]), len(data))
        return jax.lax.scan(step, state, order[: steps * batch_size].reshape(steps, batch_size))[0]

    return _blocking(jax.jit(epoch, donate_argnums=0), (params, zeros, jax.tree.map(jnp.zeros_like, params), 0.0))


def _matmul_limit(size: int = 2048, repeats: int = 4):
    """A run of `repeats` products of two size^3 matrices, and their FLOP."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)

    def run():
        for _ in range(repeats):
            jax.block_until_ready(product(a))

    return run, 2 * size**3 * repeats


def _numpyro(images: np.ndarray, batch_size: int):
    import numpyro
    import numpyro.distributions as npd
    from numpyro.infer import SVI, TraceMeanField_ELBO

    data, steps, key = jnp.asarray(images), len(images) // batch_size, jax.random.key(0)
    encoder, decoder = models.MLP((HIDDEN,), outputs=2 * LATENT), models.MLP((HIDDEN,), outputs=PIXELS)
    params = {
        "encoder": encoder.init(key, jnp.zeros((1, PIXELS))),
        "decoder": decoder.init(key, jnp.zeros((1, LATENT))),
    }

    def model(x):
        weights = numpyro.param("decoder", params["decoder"])
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", npd.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            numpyro.sample("x", npd.Bernoulli(logits=decoder.apply(weights, z)).to_event(1), obs=x)

    def guide(x):
        mean, log_var = jnp.split(encoder.apply(numpyro.param("encoder", params["encoder"]), x), 2, axis=-1)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", npd.Normal(mean, jnp.exp(0.5 * log_var)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(RATE), TraceMeanField_ELBO())

    @jax.jit
    def epoch(state):
        order = jax.random.permutation(state.rng_key, len(data))[: steps * batch_size].reshape(steps, batch_size)
        return jax.lax.fori_loop(0, steps, lambda i, s: svi.update(s, data[order[i]].astype(jnp.float32))[0], state)

    return _blocking(epoch, svi.init(key, data[:batch_size].astype(jnp.float32)))


def _torch(images: np.ndarray, batch_size: int):
    import torch
    from torch import nn

    data, steps = torch.from_numpy(images), len(images) // batch_size
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], RATE, fused=True)

    @torch.compile
    def loss(x):
        mean, log_var = encoder(x).chunk(2, -1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        nll = nn.functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return (nll + 0.5 * torch.sum(mean**2 + log_var.exp() - 1 - log_var)) / len(x)

    def run():
        order = torch.randperm(len(data))
        for i in range(steps):
            optimizer.zero_grad()
            loss(data[order[i * batch_size : (i + 1) * batch_size]].float()).backward()
            optimizer.step()

    return run


def flop_ratios(batch_size: int = 20, num_samples: int = 64) -> dict[str, float]:
    """FLOP of the compiled gradient of the importance-weighted bound, by estimator, as XLA counts them."""
    model = models.make_vae((28, 28, 1), latent_dim=50, hidden=(200, 200), activation="tanh")
    x = jnp.zeros((batch_size, 28, 28, 1))
    params = model.init(jax.random.key(0), x, jax.random.key(0))

    def flop(name: str, objective: Callable) -> float:
        estimator = estimators.BY_NAME[name].make(num_samples=num_samples)

        def loss(params, key):
            expect = lambda q, f, reduce: estimator.estimate({}, {}, key, q, f, reduce, x)
            return -jnp.mean(objective(model.apply, params, x, expect).value)

        analysis = jax.jit(jax.grad(loss)).lower(params, jax.random.key(0)).compile().cost_analysis()
        return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]

    plain = {"reparam": flop("reparam", objectives.iwae), "dreg": flop("dreg", objectives.iwae)}
    return plain | {f"{name} (elbo)": flop(name, objectives.elbo) for name in ("reparam", "stl")}


if __name__ == "__main__":
    cli.run(main)
