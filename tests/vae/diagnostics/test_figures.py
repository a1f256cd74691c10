"""Figures against NumPy on stored draws, and intervals against known distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.helpers.noisy_gradients import flat, flat_one, noisy_gradient, some_truth, stored
from vae import diagnostics


def test_report_agrees_with_numpy_on_stored_draws():
    key, truth = jax.random.key(1), some_truth()
    moments = diagnostics.gradient_moments(noisy_gradient, key, 300, 10, truth=truth)
    report = jax.jit(diagnostics.report)(moments, truth)
    assert set(report) == {"encoder", "encoder.first", "encoder.last", "decoder"}
    draws = stored(300, key)
    for name, pick in {
        "encoder": lambda tree: tree["encoder"],
        "encoder.first": lambda tree: tree["encoder"]["first"],
        "decoder": lambda tree: tree["decoder"],
    }.items():
        g, t = flat(pick(draws)), flat_one(pick(truth.gradient))
        average, deviation = g.mean(0), g.std(0, ddof=1)
        cosine = g @ t / np.linalg.norm(t) / np.linalg.norm(g, axis=1)
        along = (g @ t / np.linalg.norm(t))[:, None] * t / np.linalg.norm(t)
        scales = (g @ t / (t @ t)).reshape(10, 30).mean(1)
        expected = {
            "variance": np.sum(deviation**2),
            "snr": np.mean(np.abs(average) / deviation),
            "cosine": cosine.mean(),
            "scale": average @ t / (t @ t),
            "scale_stderr": scales.std(ddof=1) / np.sqrt(10),
            "max_abs_z": np.max(np.abs(average - t) / deviation) * np.sqrt(300),
            "relative_bias": np.linalg.norm(average - t) / np.linalg.norm(t),
            "relative_stderr": np.linalg.norm(deviation) / np.sqrt(300) / np.linalg.norm(t),
            "deviation": np.linalg.norm(average - t) / np.linalg.norm(deviation) * np.sqrt(300),
            "truth_stderr": 0.0,
            "norm": np.linalg.norm(t),
            "size": g.shape[1],
        }
        if g.shape[1] > 2:
            expected["dsnr"] = np.mean(np.linalg.norm(along, axis=1) / np.linalg.norm(g - along, axis=1))
        else:
            assert np.isnan(report[name]["dsnr"])
        for figure, value in expected.items():
            np.testing.assert_allclose(report[name][figure], value, rtol=2e-3, err_msg=f"{name} {figure}")


def test_resampled_figures_equal_the_figures_of_the_picked_draws():
    key, truth = jax.random.key(1), some_truth()
    moments = diagnostics.gradient_moments(noisy_gradient, key, 4000, 10, 40, truth)
    picks = np.array([[0, 0, 3, 3, 4, 5, 6, 7, 8, 9], np.arange(10)])
    weights = np.stack([np.bincount(row, minlength=10) for row in picks]).astype(np.float32)
    found = diagnostics.resample(moments, weights)["encoder"]
    report = diagnostics.report(moments, truth)["encoder"]
    draws = flat(stored(4000, key)["encoder"]).reshape(10, 400, -1)
    for b, row in enumerate(picks):
        g = draws[row].reshape(4000, -1)
        np.testing.assert_allclose(found["variance"][b], g.var(0, ddof=1).sum(), rtol=1e-4)
        # The snr is linearized, so its error is quadratic in the change of the weights.
        np.testing.assert_allclose(
            found["snr"][b], np.mean(g.mean(0) / g.std(0, ddof=1)), rtol=0.02 if b == 0 else 1e-4
        )
    for figure in diagnostics.FIGURES:
        np.testing.assert_allclose(found[figure][1], report[figure], rtol=1e-4)


def test_bootstrap_estimates_the_standard_error_of_the_variance():
    """The bootstrap's standard error agrees with the standard deviation over repetitions of the whole experiment."""
    gradient = lambda key: {"a": jax.random.normal(key, (4,))}
    truth = diagnostics.exactly({"a": np.ones(4)})

    def once(key):
        moments = diagnostics.gradient_moments(gradient, key, 500, 50, 10, truth)
        spread = jnp.std(diagnostics.bootstrap(moments, key, 200)["a"]["variance"])
        return diagnostics.report(moments, truth)["a"]["variance"], spread

    variances, spreads = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(0), 200))
    assert float(np.mean(spreads)) == pytest.approx(float(np.std(variances)), rel=0.15)
    assert float(np.mean(variances)) == pytest.approx(4.0, rel=0.02)


def test_interval_of_a_mean_is_students_interval():
    """For a mean of normal draws, the expanded percentiles are Student's interval."""
    rng = np.random.default_rng(0)
    replicates = rng.normal(2.0, np.sqrt(9 / 10) / np.sqrt(10), 400_000)  # as a bootstrap of 10 draws with variance 1
    low, high = diagnostics.interval(replicates, 10)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 9) / np.sqrt(10), rel=0.02)
    assert (low + high) / 2 == pytest.approx(2.0, abs=0.01)


def test_critical_z_is_exceeded_with_the_stated_probability():
    assert diagnostics.critical_z(1, 0.05) == pytest.approx(1.96, abs=0.001)
    assert 1 - (1 - 2 * stats.norm.sf(diagnostics.critical_z(1000, 0.01))) ** 1000 == pytest.approx(0.01, rel=0.01)


def test_scale_is_unbiased_against_a_noisy_reference():
    """The reference is as noisy as the estimator. Without the correction of |t|^2, scale would be well below 1."""
    truth_of = lambda key: {"a": jnp.full(400, 0.1) + jax.random.normal(key, (400,))}
    moments = functools.partial(diagnostics.gradient_moments, truth_of, draws=400, chunks=20, block=20)
    reference = diagnostics.reference(moments(jax.random.key(0)))
    report = diagnostics.report(moments(jax.random.key(1), truth=reference), reference)["a"]
    assert float(report["norm"]) == pytest.approx(2.0, rel=0.15)
    assert abs(report["scale"] - 1) < 4 * report["scale_stderr"] < 0.6
    assert report["max_abs_z"] < diagnostics.critical_z(400)


def test_rare_events_are_not_reported_as_bias_but_wrong_constants_are():
    """The unbiased gradient has coordinates that move in one draw of 500. Two controls have a bias: a coordinate with a
    wrong constant value, and a layer whose gradient is lost."""

    def draw(key, constant=1.0):
        key_event, key_noise = jax.random.split(key)
        rare = jnp.where(jax.random.uniform(key_event, (400,)) < 0.002, 500.0, 0.0)
        return {
            "a": {"rare": rare, "steady": 1 + jax.random.normal(key_noise, (10,)), "constant": jnp.array([constant])}
        }

    truth = diagnostics.exactly({"a": {"rare": np.ones(400), "steady": np.ones(10), "constant": np.ones(1)}})
    measure = lambda gradient: diagnostics.report(
        diagnostics.gradient_moments(gradient, jax.random.key(0), 1000, 10, 100, truth), truth
    )["a"]
    assert measure(draw)["max_abs_z"] < diagnostics.critical_z(411)
    assert measure(functools.partial(draw, constant=1.01))["max_abs_z"] > diagnostics.critical_z(411)
    lost = lambda key: {"a": {name: leaf * (name != "steady") for name, leaf in draw(key)["a"].items()}}
    assert measure(lost)["max_abs_z"] > diagnostics.critical_z(411)
