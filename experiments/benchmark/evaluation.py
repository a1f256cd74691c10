"""The section `evaluation`: the speed of the importance-weighted bound on log p(x), relative to matrix products."""

import statistics

import jax
import numpy as np

from experiments.benchmark import sweep
from experiments.benchmark.sweep import Network
from experiments.benchmark.timing import matmul_limit, spread, take_turns
from experiments.common import assess, tables
from vae.devices import mesh

# K of the bound.
NUM_SAMPLES = 500
# For each network, the number of its images and the numbers of runs that are evaluated.
SIZES = {"MNIST": (1000, (1,)), "digits": (297, (1, 32))}


def measure(rounds: int) -> tuple[list[dict], str]:
    """The numbers for each network and number of runs, and their table."""
    networks = {network.name: network for network in sweep.networks(())}
    measured = [
        _measure(networks[name], num_images, runs, rounds)
        for name, (num_images, numbers_of_runs) in SIZES.items()
        for runs in numbers_of_runs
    ]
    return measured, _table(measured)


def flop(network: Network, num_images: int, num_samples: int) -> int:
    """The FLOP of the matrix products for one run: an image is encoded once, and each of its samples decoded."""
    return 2 * num_images * (network.encoder + num_samples * network.decoder)


def _measure(network: Network, num_images: int, runs: int, rounds: int) -> dict:
    """The seconds that L_500 of all images takes for each run in each round, and the share of the limit."""
    x = (np.random.default_rng(0).random((num_images, *network.shape)) < 0.3).astype(np.float32)
    key = jax.random.key(0)
    params = jax.jit(jax.vmap(lambda key: network.model.init(key, x[:1], key)))(jax.random.split(key, runs))
    devices = mesh.make(runs, batch_size=1)

    def evaluate():
        for _, part in assess.parts(devices, params, assess.image_bytes(devices, x)):
            assess.importance_weights(network.model, devices, part, x, NUM_SAMPLES)

    product, flop_of_product = matmul_limit()
    times = take_turns({"evaluation": evaluate, "product": product}, rounds, f"{network.name}, {runs} runs")
    of_run = flop(network, num_images, NUM_SAMPLES)
    seconds = times["evaluation"] / runs
    shares = (of_run / seconds) / (flop_of_product / times["product"])
    return {
        "network": network.name,
        "images": num_images,
        "num_samples": NUM_SAMPLES,
        "runs": runs,
        "matmul_flop": of_run,
        "seconds": seconds.tolist(),
        "of_matmul_limit": statistics.median(shares),
    }


def _table(measured: list[dict]) -> str:
    table = [["network", "images", "runs", "s for a run: median (range)", "of the matmul limit"]]
    for row in measured:
        share = f"{row['of_matmul_limit']:.0%}"
        table.append([row["network"], str(row["images"]), str(row["runs"]), spread(np.array(row["seconds"])), share])
    return tables.to_markdown(table)
