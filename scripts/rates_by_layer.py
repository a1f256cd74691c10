"""Prints the rate of each stochastic layer for the runs of a sweep, nats of the test set, means over the runs of each
program that did not diverge: PYTHONPATH=. python scripts/rates_by_layer.py WORKDIR."""

import sys
from pathlib import Path

import jax
import numpy as np

from experiments.common import assess, build, program_state, tables
from experiments.common.program_folder import ProgramFolder, programs_of
from vae import evaluate

SAMPLES = 20


def mean_rates(folder: ProgramFolder) -> np.ndarray:
    """The rate of each layer `[L]`, from the image upwards: the mean over test images and runs. NaN without a run."""
    run = folder.runs()[0]
    data = build.load_trained(run, folder.data_dir())
    functions = build.trained_functions(run, data)
    restored = program_state.restore_readable(folder, data, functions)
    model, x = functions.evaluated, assess.pixels(data, "test")
    rates = lambda params: evaluate.rate_by_layer(model.apply, params, x, assess.key(), SAMPLES).mean(axis=0)
    by_run = np.asarray(jax.jit(jax.vmap(rates))(restored.state.params["model"]))
    return by_run[[not fault for fault in restored.faults]].mean(axis=0)


def main(workdir: Path) -> None:
    rows = [["latents", "inference", "rate of each layer"]]
    for folder in programs_of(workdir):
        run = folder.runs()[0]
        dims = "-".join(map(str, run.latent_dim))
        rows.append([dims, run.inference, ", ".join(f"{rate:.2f}" for rate in mean_rates(folder))])
    print(tables.to_markdown(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
