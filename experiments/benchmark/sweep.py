"""The section `sweep`: the speed of many runs in one program, relative to one program for each run."""

import itertools
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark import contenders
from experiments.benchmark.timing import matmul_limit, spread, take_turns
from experiments.common import tables
from vae import estimators, models, objectives, train


class Network(NamedTuple):
    """A network to train, and its sizes.

    Attributes:
      name: The name in the table.
      model: The VAE.
      objective: The bound that is trained.
      batch_sizes: The batch sizes to measure.
      num_samples: The number of samples K.
      steps: The number of steps in an epoch.
      shape: The shape of an image.
      first_layer: The multiply-adds of the encoder's first layer for one image.
      encoder: The multiply-adds of the encoder for one image.
      decoder: The multiply-adds of the decoder for one sample.
    """

    name: str
    model: models.VAE
    objective: Callable
    batch_sizes: tuple[int, ...]
    num_samples: int
    steps: int
    shape: tuple[int, int, int]
    first_layer: int
    encoder: int
    decoder: int

    def flop(self, batch_size: int) -> int:
        """The FLOP of a step's matrix products.

        Each weight matrix has three products, except that the first layer needs no gradient in the images.
        """
        return batch_size * (6 * (self.encoder + self.num_samples * self.decoder) - 2 * self.first_layer)


def networks(batch_sizes: tuple[int, ...]) -> list[Network]:
    """The network for the digits, the network for MNIST, and an IWAE."""

    def multiply_adds(*widths: int) -> int:
        return sum(a * b for a, b in itertools.pairwise(widths))

    digits = (8, 8, 1)
    mnist = (28, 28, 1)
    bound = objectives.elbo_analytic(1.0)
    return [
        Network(
            "digits",
            model=models.make_vae(digits, latent_dim=8, hidden=(128, 64)),
            objective=bound,
            batch_sizes=batch_sizes,
            num_samples=1,
            steps=64,
            shape=digits,
            first_layer=multiply_adds(64, 128),
            encoder=multiply_adds(64, 128, 64, 16),
            decoder=multiply_adds(8, 64, 128, 64),
        ),
        Network(
            "MNIST",
            model=models.make_vae(mnist, latent_dim=contenders.LATENT, hidden=(contenders.HIDDEN,)),
            objective=bound,
            batch_sizes=batch_sizes,
            num_samples=1,
            steps=16,
            shape=mnist,
            first_layer=multiply_adds(784, 500),
            encoder=multiply_adds(784, 500, 40),
            decoder=multiply_adds(20, 500, 784),
        ),
        Network(
            "IWAE, K = 50",
            model=models.make_vae(mnist, latent_dim=50, hidden=(200, 200), activation="tanh"),
            objective=objectives.iwae,
            batch_sizes=(20,),
            num_samples=50,
            steps=16,
            shape=mnist,
            first_layer=multiply_adds(784, 200),
            encoder=multiply_adds(784, 200, 200, 100),
            decoder=multiply_adds(50, 200, 200, 784),
        ),
    ]


def measure(batch_sizes: list[int], numbers_of_runs: list[int], rounds: int) -> tuple[list[dict], str]:
    """The numbers for each network, batch size and number of runs, and their table."""
    measured = [
        _measure(network, batch_size, runs, rounds)
        for network in networks(tuple(batch_sizes))
        for batch_size in network.batch_sizes
        for runs in numbers_of_runs
    ]
    return measured, _table(measured)


def _measure(network: Network, batch_size: int, runs: int, rounds: int) -> dict:
    """The images per second of `runs` runs in each round, and how many times faster a shared program is."""
    steps = network.steps  # the same for all numbers of runs, so that an epoch's fixed cost is the same share
    images = np.random.default_rng(0).random((steps * batch_size, *network.shape)) < 0.3
    data = jnp.asarray(images, jnp.uint8)
    keys = jax.random.split(jax.random.key(0), runs)
    estimator = estimators.BY_NAME["reparam"].make(num_samples=network.num_samples)
    tx = optax.adam(contenders.RATE)
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
    product, flop_of_product = matmul_limit()
    programs = {
        "one by one": contenders.blocking(one_by_one, states),
        "vmap": together("vmap"),
        "map": together("map"),
        "product": product,
    }
    times = take_turns(programs, rounds, f"{network.name}, batch {batch_size}, {runs} runs")
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


def _table(measured: list[dict]) -> str:
    columns = ["runs", "images/s one by one: median (range)", "of the matmul peak", "vmap (range)", "map (range)"]
    table = [["network, batch", *columns, "GFLOP a step"]]
    for row in measured:
        rates = np.array(row["images_per_second"]["one by one"])
        rate = f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"
        share = row["of_matmul_peak"]["one by one"]
        ratios = [spread(np.array(row["over_one_by_one"][mode])) for mode in ("vmap", "map")]
        name = f"{row['network']}, {row['batch_size']}"
        table.append([name, str(row["runs"]), rate, f"{share:.0%}", *ratios, f"{row['matmul_flop'] / 1e9:.3g}"])
    return tables.to_markdown(table)
