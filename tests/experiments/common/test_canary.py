"""Runs side by side that compute something else than single runs are found, and rounding is not mistaken for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap

from experiments.common import canary
from vae.train import TrainState

RATES = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
IMAGES = np.random.default_rng(0).random((canary.STEPS * 2, 3)).astype(np.float32)


def init(rate):
    params = {"weights": jnp.array([1.0, -2.0, 3.0]) + rate}
    return TrainState(params, opt_state=(), estimator_state=(), step=jnp.zeros((), jnp.int32))


def epoch_with(scale):
    """Gradient descent on a bound, as a scan. `scale(rate, x)` should be rate * x."""

    def epoch(state, rate, images):
        def step(state, x):
            bound, gradient = jax.value_and_grad(lambda weights: -jnp.mean(jnp.square(x @ weights)))(
                state.params["weights"]
            )
            params = {"weights": state.params["weights"] + scale(rate, gradient)}
            return state._replace(params=params, step=state.step + 1), bound

        state, bounds = jax.lax.scan(step, state, images.reshape(canary.STEPS, -1, 3))
        return state, {"bound": jnp.mean(bounds)}

    return jax.jit(epoch)


@custom_vmap
def planted(rate, x):
    """The product; but as in jax-ml/jax#40362, a factor is lost where runs are side by side."""
    return rate * x


@planted.def_vmap
def _lose_a_factor(axis_size, in_batched, rate, x):
    del axis_size, in_batched, rate
    return x, True


def test_runs_side_by_side_that_compute_the_same_pass():
    assert canary.difference(init, epoch_with(jnp.multiply), RATES, IMAGES, canary.ROUNDING["float32"]) is None


def test_a_planted_difference_is_named_with_its_size():
    sentence = canary.difference(init, epoch_with(planted), RATES, IMAGES, canary.ROUNDING["float32"])
    name, distance, tolerance = sentence.split(" differs by ")[0], *map(float, _numbers(sentence))
    assert name == "params/weights"
    assert distance > 1000 * tolerance > 0


def _numbers(sentence: str) -> list[str]:
    return sentence.split(" differs by ")[1].split(", and rounding explains ")


# --- The comparison


def pair(weights, bound=(1.0, 2.0), step=(3, 3)):
    state = {"step": np.array(step, np.int32), "weights": np.array(weights, np.float32)}
    return state, {"bound": np.array(bound, np.float32)}


ALONE = pair([[1.0, 0.0], [2.0, 4.0]])
PERTURBED = pair([[1.001, 0.0], [2.0, 4.001]])
NAN = np.nan
CASES = {
    "equal": (ALONE, None),
    "less than the perturbation": (pair([[1.0, 0.0], [2.0005, 4.0]]), None),
    "more than the perturbation": (pair([[1.0, 0.0], [2.01, 4.0]]), "weights differs by 0.0071"),
    "only the last run": (pair([[1.0, 0.0], [0.0, 0.0]]), "weights differs by"),
    "rounding of an array that the perturbation leaves alone": (pair([[1.0, 0.0], [2.0, 4.0]], (1.0, 2.00001)), None),
    "more than rounding of such an array": (pair([[1.0, 0.0], [2.0, 4.0]], (1.0, 2.001)), "bound differs by 0.001"),
    "another count": (pair([[1.0, 0.0], [2.0, 4.0]], step=(3, 4)), "step differs by 1, and rounding explains 0"),
    "not finite in one only": (pair([[1.0, 0.0], [2.0, NAN]]), "1 of 2 runs are finite either side by side or alone"),
}


@pytest.mark.parametrize(("together", "expected"), CASES.values(), ids=CASES)
def test_a_difference_counts_if_rounding_does_not_explain_it(together, expected):
    sentence = canary.compare(together, ALONE, PERTURBED, canary.ROUNDING["float32"])
    assert sentence is None if expected is None else sentence.startswith(expected)


def test_runs_that_are_finite_neither_side_by_side_nor_alone_are_left_out():
    alone = pair([[1.0, 0.0], [NAN, 4.0]], bound=(1.0, np.inf))
    compare = lambda together: canary.compare(together, alone, alone, canary.ROUNDING["float32"])
    assert compare(pair([[1.0, 0.0], [2.0, np.inf]], bound=(1.0, np.inf))) is None
    assert compare(pair([[9.0, 0.0], [2.0, np.inf]], bound=(1.0, np.inf))).startswith("weights differs by")
    diverged = pair([[NAN, NAN], [NAN, NAN]])
    assert canary.compare(diverged, diverged, diverged, canary.ROUNDING["float32"]) is None


# --- When it is due


def test_side_by_side_on_an_accelerator_is_compared_and_nothing_else(monkeypatch):
    assert not canary.is_due("vmap")  # the tests run on the CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert canary.is_due("vmap")
    assert not canary.is_due("map")
    assert canary.rounding("float32", "default") == canary.ROUNDING["tensorfloat32"]
    assert canary.rounding("float32", "float32") == canary.ROUNDING["float32"]
    assert canary.rounding("bfloat16", "float32") == canary.ROUNDING["bfloat16"]


def test_a_few_images_are_whole_batches():
    images = np.arange(10)
    assert canary.few(images, batch_size=2).tolist() == list(range(6))
    assert canary.few(images, batch_size=4).tolist() == list(range(8))
