"""The canary: a few steps of runs side by side, compared with the same steps of single runs.

XLA has had bugs that gave wrong numbers without a word in a scan or in a vmapped scan: on GPUs jax-ml/jax#36958 (in jax
0.10), #31919 and #40362, on CPUs #39103. So an accelerator trains runs side by side only after this comparison.

    sentence = canary.difference(init, epoch, values, canary.few(images, batch_size), rounding)     # None: all is well

The tolerance is measured, because the effect of rounding depends on the network, the estimator and the optimizer. Each
single run is repeated from parameters that are changed at random by +-`rounding` of themselves. Runs side by side may
differ from single runs as much as these repetitions do, and not more.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae import train

PyTree = Any

STEPS = 3
# The number of runs that are also computed alone: the first, the last, and runs between them.
SINGLE_RUNS = 3
# The relative errors of a step's numbers, times sixteen, because one random change of the parameters need not be the
# worst one. A float32 sum of a thousand products is exact to about 2^-18. Operands of products that are rounded to
# tensorfloat32 or bfloat16 are exact to 2^-11 or 2^-8.
ROUNDING = {"float32": 2.0**-14, "tensorfloat32": 2.0**-7, "bfloat16": 2.0**-4}
# The precision of matrix products with --matmul_precision=default.
DEFAULT_PRECISION = {"cpu": "float32", "gpu": "tensorfloat32", "tpu": "bfloat16"}


def is_due(mode: str) -> bool:
    """Whether runs in this mode (see `train.over_runs`) are compared with single runs before they train."""
    return mode == "vmap" and jax.default_backend() != "cpu"


def rounding(compute_dtype: str, matmul_precision: str) -> float:
    """The relative error of a step's numbers, for these two settings of a run on the present device."""
    if matmul_precision == "default":
        matmul_precision = DEFAULT_PRECISION[jax.default_backend()]
    return max(ROUNDING[compute_dtype], ROUNDING[matmul_precision])


def few(images: Any, batch_size: int) -> np.ndarray:
    """The images of an epoch with at most `STEPS` steps."""
    steps = min(STEPS, len(images) // batch_size)
    return np.asarray(images[np.arange(steps * batch_size)])


def difference(init: Callable, epoch: Callable, values: PyTree, images: np.ndarray, rounding: float) -> str | None:
    """A sentence about the largest difference between runs side by side and single runs, or None.

    Args:
      init: `init(values) -> state` of one run.
      epoch: `epoch(state, values, images) -> (state, metrics)` of one run, jitted, as `build.functions` makes it.
      values: The array-valued settings of all runs, each with a leading axis of runs.
      images: The images of a few steps, the same for all runs.
      rounding: The relative change of the parameters from which the tolerance is measured.
    """
    start = jax.jit(train.over_runs(init, "map"))(values)
    last = len(start.step) - 1
    chosen = np.unique(np.linspace(0, last, SINGLE_RUNS).astype(int))
    pick = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[chosen], tree))
    chosen_start, chosen_values = jax.device_get(pick((start, values)))
    side_by_side = jax.jit(train.over_runs(epoch, "vmap", shared=1), donate_argnums=0)
    together = jax.device_get(pick(side_by_side(start, values, images)))

    def alone(start: train.TrainState) -> PyTree:
        runs = [jax.tree.map(lambda leaf, i=i: leaf[i], (start, chosen_values)) for i in range(len(chosen))]
        results = [jax.device_get(epoch(*run, images)) for run in runs]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)

    return compare(together, alone(chosen_start), alone(perturb(chosen_start, rounding)), rounding)


def perturb(start: train.TrainState, rounding: float) -> train.TrainState:
    """The state with p * (1 +- rounding) in place of each parameter p; the random signs are the same in every call."""
    rng = np.random.default_rng(0)

    def change(leaf: np.ndarray) -> np.ndarray:
        signs = rng.choice([-1.0, 1.0], leaf.shape)
        return (leaf * (1 + rounding * signs)).astype(leaf.dtype)

    return start._replace(params=jax.tree.map(change, start.params))


def compare(together: PyTree, alone: PyTree, perturbed: PyTree, rounding: float) -> str | None:
    """A sentence about the array that differs most between `together` and `alone`, or None if none differs too much.

    The three trees are pairs (state, metrics) of NumPy arrays `[runs, ...]`. An array may differ as much as `perturbed`
    differs from `alone`, plus `rounding` of itself, by the root mean square of its numbers; counts must be equal. Runs
    that are finite neither together nor alone are not compared.
    """
    finite = _finite_runs(alone)
    if unequal := np.sum(finite != _finite_runs(together)):
        return f"{unequal} of {len(finite)} runs are finite either side by side or alone, but not both"
    steady = finite & _finite_runs(perturbed)
    leaves = zip(jax.tree.leaves_with_path(together), jax.tree.leaves(alone), jax.tree.leaves(perturbed), strict=True)
    worst = 1.0
    sentence = None
    for (path, a), b, c in leaves:
        distance = _largest_distance(a, b, finite)
        rounded = _largest_distance(c, b, steady) + rounding * _largest_distance(b, np.zeros_like(b), finite)
        tolerance = rounded if jnp.issubdtype(b.dtype, jnp.floating) else 0.0
        excess = distance / max(tolerance, 1e-300)
        if excess > worst:
            worst = excess
            name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
            sentence = f"{name} differs by {distance:.2g}, and rounding explains {tolerance:.2g}"
    return sentence


def _finite_runs(tree: PyTree) -> np.ndarray:
    """For each run, whether all its numbers are finite."""
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in jax.tree.leaves(tree)]
    return np.all(finite, axis=0)


def _largest_distance(a: np.ndarray, b: np.ndarray, runs: np.ndarray) -> float:
    """The largest root mean square of a run's differences a - b, among some of the runs; 0 without runs or numbers."""
    differences = a[runs].astype(np.float64) - b[runs].astype(np.float64)
    return max((float(np.sqrt(np.mean(np.square(run)))) for run in differences if run.size), default=0.0)
