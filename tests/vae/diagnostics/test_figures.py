"""Figures against NumPy on stored draws, and what counts as a bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.helpers.noisy_gradients import flat, flat_one, noisy_gradient, some_truth, stored
from vae import diagnostics


def skewness_of_mean(sample):
    """The third moment of the mean of ten numbers, less what ten normal numbers have by chance."""
    cube, second = stats.moment(sample, 3), np.var(sample, axis=0)
    return np.sign(cube) * np.maximum(np.abs(cube) - np.sqrt(0.6) * second**1.5, 0) / 100


def without_skewness(z, g):
    """Hall's transformation ((1 + g z / 3)^3 - 1) / g + g / 6 if it makes |z| smaller."""
    return np.minimum(np.abs(z), np.abs(z + g * z**2 / 3 + g**2 * z**3 / 27 + g / 6))


def test_report_agrees_with_numpy_on_stored_draws():
    key, truth = jax.random.key(1), some_truth()
    moments = lambda key: diagnostics.gradient_moments(noisy_gradient, key, 300, 10, truth=truth)
    report = jax.device_get(jax.jit(lambda key: diagnostics.report(moments(key), truth))(key))
    assert set(report) == {"encoder", "encoder.first", "encoder.last", "decoder"}
    draws = jax.jit(stored, static_argnums=0)(300, key)
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
        by_chunk = g.reshape(10, 30, -1).mean(1)
        stderr = deviation / np.sqrt(300)
        expected = {
            "variance": np.sum(deviation**2),
            "snr": np.mean(np.abs(average) / deviation),
            "cosine": cosine.mean(),
            "scale": average @ t / (t @ t),
            "scale_stderr": scales.std(ddof=1) / np.sqrt(10),
            "scale_skewness": skewness_of_mean(scales) / (scales.var(ddof=1) / 10) ** 1.5,
            "max_abs_z": np.max(without_skewness((average - t) / stderr, skewness_of_mean(by_chunk) / stderr**3)),
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


def test_the_mean_over_chunks_is_the_figure():
    key, truth = jax.random.key(1), some_truth()

    @jax.jit
    def program(key):
        moments = diagnostics.gradient_moments(noisy_gradient, key, 4000, 10, 40, truth)
        return diagnostics.report(moments, truth), diagnostics.figures_by_chunk(moments)

    report, by_chunk = jax.device_get(program(key))
    for part in report:
        for figure in diagnostics.FIGURES:
            assert by_chunk[part][figure].shape == (10,)
            np.testing.assert_allclose(np.mean(by_chunk[part][figure]), report[part][figure], rtol=1e-5)


@pytest.mark.parametrize("size", [40, 4])
def test_the_snr_of_a_chunk_is_what_is_missing_without_it(size):
    """The jackknife: C chunks times their snr, less C - 1 times the snr of the other chunks."""
    key = jax.random.key(1)
    moments = lambda key: diagnostics.gradient_moments(noisy_gradient, key, 10 * size, 10, size)
    draws = flat(jax.jit(stored, static_argnums=0)(10 * size, key)["encoder"]).reshape(10, size, -1)
    snr = lambda chunks: np.mean(chunks.mean((0, 1)) / chunks.reshape(-1, draws.shape[-1]).std(0, ddof=1))
    pseudo = np.array([10 * snr(draws) - 9 * snr(np.delete(draws, c, axis=0)) for c in range(10)])
    found = np.array(jax.jit(lambda key: diagnostics.figures_by_chunk(moments(key)))(key)["encoder"]["snr"])
    np.testing.assert_allclose(found - found.mean(), pseudo - pseudo.mean(), rtol=1e-3, atol=1e-3)


def test_a_chunk_that_has_all_of_the_variance_leaves_the_snr_finite():
    """Without it the variance would be 0; it is a thousandth of that of all draws instead."""
    means, squares = np.ones((10, 3), np.float32), np.zeros((10, 3), np.float32)
    means[3], squares[3] = 2, 4
    moments = diagnostics.Moments({"a": means}, {"a": squares}, *2 * ({"a": jnp.zeros(10)},), jnp.float32(5))
    by_chunk = jax.jit(diagnostics.figures_by_chunk)(jax.tree.map(jnp.asarray, moments))["a"]["snr"]
    variance = lambda means: (4 + 5 * np.sum((means - means.mean()) ** 2)) / (5 * len(means) - 1)
    nine = means[1:, 0]  # with the chunk that varies
    without = np.full(10, nine.mean() / np.sqrt(variance(nine)))
    without[3] = 1 / np.sqrt(1e-3 * variance(means[:, 0]))
    np.testing.assert_allclose(by_chunk - by_chunk.mean(), 9 * (without.mean() - without), rtol=1e-3)


def test_scale_is_unbiased_against_a_noisy_reference():
    """The reference is as noisy as the estimator. Without the correction of |t|^2, scale would be well below 1."""
    truth_of = lambda key: {"a": jnp.full(400, 0.1) + jax.random.normal(key, (400,))}
    moments = functools.partial(diagnostics.gradient_moments, truth_of, draws=400, chunks=20, block=20)

    @jax.jit
    def program(key, other):
        reference = diagnostics.reference(moments(key))
        return diagnostics.report(moments(other, truth=reference), reference)["a"]

    report = jax.device_get(program(jax.random.key(0), jax.random.key(1)))
    assert float(report["norm"]) == pytest.approx(2.0, rel=0.15)
    assert abs(report["scale"] - 1) < 4 * report["scale_stderr"] < 0.6
    assert report["max_abs_z"] < diagnostics.critical_z(400)


def test_the_error_of_the_reference_counts_in_every_error():
    """40 draws make the reference, and 4000 the estimate, so that nearly all error is that of the reference."""
    truth_of = lambda key: {"a": 1 + jax.random.normal(key, (400,))}
    reference = diagnostics.reference(diagnostics.gradient_moments(truth_of, jax.random.key(0), 40, 20, 2))
    moments = diagnostics.gradient_moments(truth_of, jax.random.key(1), 4000, 20, 40, reference)
    report = jax.device_get(jax.jit(diagnostics.report)(moments, reference)["a"])
    assert report["truth_stderr"] * report["norm"] == pytest.approx(np.sqrt(400 / 40), rel=0.05)
    assert report["relative_stderr"] * report["norm"] == pytest.approx(np.sqrt(400 / 40 + 400 / 4000), rel=0.05)
    assert report["deviation"] == pytest.approx(1, rel=0.15)
    assert 2 < report["max_abs_z"] < 5
    assert abs(report["scale"] - 1) < 4 * report["scale_stderr"]
    along = np.sqrt((1 / 40 + 1 / 4000) / 400)  # the error of an inner product with t, relative to |t|^2 = 400
    assert report["scale_stderr"] == pytest.approx(along, rel=0.5)  # of 20 chunks


def test_the_error_of_scale_covers_where_the_noise_of_the_reference_has_one_direction():
    """All coordinates of the reference share their noise, which makes it 30 % too long or too short. Of 400 unbiased
    estimators, at most 5 % are further off than Student's t times their standard error, and none by five of them."""

    def once(key):
        draws = 1 + 0.3 * np.sqrt(20) * jax.random.normal(key, (20, 1)) * jnp.ones(8)
        chunks = diagnostics.Moments({"a": draws}, {"a": jnp.ones((20, 8))}, *2 * ({"a": jnp.zeros(20)},), jnp.ones(()))
        reference = jax.jit(diagnostics.reference)(chunks)
        exact = chunks._replace(mean={"a": 1 + 1e-3 * (-1.0) ** jnp.arange(20)[:, None] * jnp.ones(8)})
        figures = jax.jit(diagnostics.report)(exact, reference)["a"]
        return (figures["scale"] - 1) / figures["scale_stderr"]

    z = np.abs(jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(0), 400)))
    assert np.mean(z > diagnostics.students_t(0.95, 20)) < 0.06
    assert np.mean(z > 1) > 0.08
    assert np.nanmax(z) < 5  # NaN where the reference is too noisy to tell |t|


def test_a_coordinate_that_moves_in_some_chunks_only_is_not_tested():
    """The first coordinate moves in all ten chunks and is right; the second is far from its truth of 1."""
    means = np.stack([1 + 0.1 * np.random.default_rng(0).normal(size=10), 0.1 * (np.arange(10) == 3)], axis=1)

    @jax.jit
    def max_abs_z(squares):
        moments = diagnostics.Moments(
            {"a": jnp.float32(means)}, {"a": squares}, *2 * ({"a": jnp.zeros(10)},), jnp.float32(100)
        )
        return diagnostics.report(moments, diagnostics.exactly({"a": jnp.ones(2)}))["a"]["max_abs_z"]

    squares = np.float32(np.stack([np.ones(10), 1e-3 * (means[:, 1] > 0)], axis=1))
    assert max_abs_z(squares) < 4
    assert max_abs_z(np.maximum(squares, 1e-3)) > 20  # the control moves in all chunks


def test_a_standard_error_is_at_least_a_fiftieth_of_that_of_the_layer():
    """Of 1000 draws; the first coordinate has the variance 1, and the second hardly moves and is off by 0.01."""
    means = jnp.tile(jnp.float32([1.0, 1.01]), (10, 1))
    squares = jnp.tile(jnp.float32([99.9, 1e-9]), (10, 1))
    moments = diagnostics.Moments({"a": means}, {"a": squares}, *2 * ({"a": jnp.zeros(10)},), jnp.float32(100))
    report = jax.jit(diagnostics.report)(moments, diagnostics.exactly({"a": jnp.ones(2)}))["a"]
    of_layer = np.sqrt(1 / 1000 / 2)  # the root of the mean square
    assert report["max_abs_z"] == pytest.approx(0.01 / (0.02 * of_layer), rel=1e-3)


def test_large_draws_of_the_reference_make_a_gradient_that_is_too_long_less_certain():
    """An exact gradient, three standard errors above a reference of ten chunks, of which one is large."""
    t = 1 + 0.1 * np.random.default_rng(0).normal(size=(10, 8))
    t[0] += 3
    error = t.std(0, ddof=1) / np.sqrt(10)
    of_means = lambda means: diagnostics.Moments(
        {"a": jnp.float32(means)}, {"a": jnp.full((10, 8), 1e-6)}, *2 * ({"a": jnp.zeros(10)},), jnp.ones(())
    )
    reference = jax.jit(diagnostics.reference)(of_means(t))
    report = jax.jit(diagnostics.report)(of_means(np.tile(t.mean(0) + 3 * error, (10, 1))), reference)["a"]
    expected = without_skewness(3, -skewness_of_mean(t) / error**3).max()
    assert report["max_abs_z"] == pytest.approx(expected, rel=5e-3)
    assert expected < 2 < 3 <= without_skewness(3, skewness_of_mean(t) / error**3).max()


def test_the_error_of_scale_is_that_of_the_jackknife():
    """Of an exact gradient whose scale is 1, against a reference of five chunks that are left out in turn."""
    t = 1 + 0.2 * np.random.default_rng(0).normal(size=(5, 8))
    square = lambda t: (np.sum(t @ t.T) - np.sum(t**2)) / (len(t) * (len(t) - 1))  # without the squares of noise
    g = np.ones(8) * square(t) / np.sum(t.mean(0))
    one = lambda means: diagnostics.Moments(
        {"a": means}, {"a": jnp.ones((5, 8))}, *2 * ({"a": jnp.zeros(5)},), jnp.ones(())
    )
    reference = jax.jit(diagnostics.reference)(one(jnp.float32(t)))
    report = jax.jit(diagnostics.report)(one(jnp.float32(np.tile(g, (5, 1)))), reference)["a"]
    without = [np.delete(t, r, axis=0) for r in range(5)]
    differences = np.array([g @ rest.mean(0) - square(rest) for rest in without])
    error = np.sqrt(4 / 5 * np.sum((differences - differences.mean()) ** 2)) / square(t)
    assert report["scale"] == pytest.approx(1, abs=1e-5)
    assert report["norm"] == pytest.approx(np.sqrt(square(t)), rel=1e-5)
    assert report["scale_stderr"] == pytest.approx(error, rel=1e-4)


def test_rare_events_are_not_reported_as_bias_but_wrong_constants_are():
    """The unbiased gradient has coordinates that move in one draw of 500. Two controls have a bias: a coordinate with a
    wrong constant value, and a layer whose gradient is lost."""

    def draw(constant, layer, key):
        key_event, key_noise = jax.random.split(key)
        rare = jnp.where(jax.random.uniform(key_event, (400,)) < 0.002, 500.0, 0.0)
        steady = layer * (1 + jax.random.normal(key_noise, (10,)))
        return {"a": {"rare": rare, "steady": steady, "constant": constant[None]}}

    ones = {"a": {"rare": np.ones(400), "steady": np.ones(10), "constant": np.ones(1)}}
    truth = jax.jit(diagnostics.exactly)(ones)

    @jax.jit
    def max_abs_z(constant, layer):
        gradient = functools.partial(draw, constant, layer)
        moments = diagnostics.gradient_moments(gradient, jax.random.key(0), 1000, 10, 100, truth)
        return diagnostics.report(moments, truth)["a"]["max_abs_z"]

    assert max_abs_z(1.0, 1.0) < diagnostics.critical_z(411)
    assert max_abs_z(1.01, 1.0) > diagnostics.critical_z(411)
    assert max_abs_z(1.0, 0.0) > diagnostics.critical_z(411)
