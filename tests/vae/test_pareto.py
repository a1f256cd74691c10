"""The Pareto k of importance weights equals that of ArviZ, and the shape of tails that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import pareto

# k of the weights of `wavy`, by (K, shape), from `arviz.stats.stats._psislw` of ArviZ 0.23.4.
ARVIZ = {
    (25, -0.5): 0.02927943771646279,
    (25, 0.3): 0.23507954929628944,
    (25, 1.2): 0.6062554432173113,
    (100, -0.5): -0.11496596080297167,
    (100, 0.3): 0.35531176995269964,
    (100, 1.2): 1.1073971865430774,
    (1000, -0.5): -0.5416619455495348,
    (1000, 0.3): 0.3689365169136831,
    (1000, 1.2): 1.1430188873321756,
}


def k_of(log_weights) -> float:
    largest = np.sort(np.float32(log_weights))[::-1][: pareto.tail_length(len(log_weights)) + 1]
    return float(jax.jit(pareto.pareto_k)(jnp.asarray(largest)))


def wavy(num_samples: int, shape: float) -> np.ndarray:
    """Log-weights near a Pareto law of this shape."""
    i = np.arange(num_samples)
    return -shape * np.log((i + 0.5) / num_samples) + 0.2 * np.sin(7.0 * i)


@pytest.mark.parametrize(("num_samples", "shape"), ARVIZ)
def test_k_is_that_of_arviz(num_samples, shape):
    assert k_of(wavy(num_samples, shape)) == pytest.approx(ARVIZ[num_samples, shape], abs=2e-5)
    assert k_of(wavy(num_samples, shape) - 700) == pytest.approx(ARVIZ[num_samples, shape], abs=2e-3)  # any unit


@pytest.mark.parametrize("shape", [-1.0, 0.2, 0.7, 1.5])
def test_the_quantiles_of_a_pareto_law_have_its_shape(shape):
    """A shape of -1 is that of uniform weights. The prior, 10 observations at 0.5, is taken out of the estimate."""
    uniform = (np.arange(5000) + 0.5) / 5000
    tail = pareto.tail_length(5000)
    k = k_of(np.log1p(-uniform) if shape == -1 else -shape * np.log(uniform))
    assert ((tail + 10) * k - 5) / tail == pytest.approx(shape, abs=0.04)


def test_the_tail_is_three_roots_of_k_and_a_fifth_of_few_weights():
    assert [pareto.tail_length(k) for k in (1, 20, 21, 500, 5000)] == [1, 4, 5, 68, 213]


def test_few_or_equal_weights_have_no_k():
    assert np.isnan(k_of(wavy(20, 1.2)))
    assert np.isnan(k_of(np.repeat([0.0, -1.0, -5.0], 200)))  # three states of discrete latents
    assert not np.isnan(k_of(wavy(21, 1.2)))  # the control


def test_weights_that_span_more_than_the_range_of_float32_are_heavy():
    assert 1 < k_of(-200.0 * np.arange(500)) < np.inf
