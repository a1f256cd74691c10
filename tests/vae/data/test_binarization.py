"""Pixels, binarization and the mean image: exact values, and draws within their standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.data_sets import one_sentence
from vae.data import BINARIZATIONS, Dataset, binarize, fix_binarization, load, mean_image, pixels

KEY = jax.random.key(0)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixels_are_the_grey_level_over_the_largest(levels):
    images = np.arange(levels, dtype=np.uint8)
    expected = np.arange(levels) / (levels - 1)
    for got in (pixels(images, levels), jax.jit(lambda x: pixels(x, levels))(images)):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=2e-7, atol=0)
        assert (got[0], got[-1]) == (0, 1)
    assert isinstance(pixels(images, levels), np.ndarray)


def test_float_pixels_pass_through():
    x = np.linspace(0, 1, 5, dtype=np.float32)
    assert pixels(x, 0) is x
    np.testing.assert_array_equal(jax.jit(lambda x: pixels(x, 0))(x), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_binarize_draws_each_pixel_with_its_own_probability(dtype):
    x = np.array([0.0, 0.1, 0.5, 0.9, 1.0], dtype)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: binarize(key, x)))(jax.random.split(KEY, 20000)))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0, 1}
    p = np.float64(x)
    assert np.all(np.abs(draws.mean(0) - p) <= 4.5 * np.sqrt(p * (1 - p) / len(draws)))
    np.testing.assert_array_equal(binarize(KEY, x), jax.jit(binarize)(KEY, x))


def probabilities(draw, x):
    """P(1) of each pixel in x `[levels]`, from every value that the 16 random bits of two neighbours can take."""
    every = np.arange(2**16, dtype=np.uint32)
    bits = (every | every[::-1] << 16)[:, None]
    ink = jax.jit(jax.vmap(lambda pixel: draw(bits, jnp.full((2**16, 2), pixel)).sum(0)))
    sums = np.concatenate([ink(part) for part in np.array_split(x, 16)])  # [levels, 2]
    np.testing.assert_array_equal(sums[:, 0], sums[:, 1])
    return sums[:, 0] / 2**16


def test_a_pixel_is_drawn_with_its_probability_to_sixteen_bits(monkeypatch):
    x = pixels(np.arange(256, dtype=np.uint8), 256)

    def binarize_with(bits, x):
        monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: bits.astype(dtype).reshape(shape))
        return binarize(KEY, x)

    drawn = probabilities(binarize_with, x)
    np.testing.assert_array_equal(drawn, np.round(x.astype(np.float64) * 2**16) / 2**16)
    assert np.abs(drawn - np.arange(256) / 255).max() <= 2**-17
    assert (drawn[0], drawn[-1]) == (0, 1)
    # Control: the eight low bits of each half are not enough.
    eight = lambda bits, x: binarize_with((bits & 0xFF00FF) << 8, x)
    assert np.abs(probabilities(eight, x) - np.arange(256) / 255).max() > 2**-10


@pytest.mark.parametrize("shape", [(), (5,), (3, 1), (2, 3, 3, 1), (0, 2, 2, 1)])
def test_images_of_every_shape_are_binarized(shape):
    for pixel in (0, 1):
        x = np.full(shape, pixel, np.float32)
        np.testing.assert_array_equal(jax.jit(binarize)(KEY, x), x)


def test_pixels_and_images_are_drawn_independently():
    """Also the two pixels that share a random number: the correlation with the first pixel is that of chance."""
    draws = np.asarray(jax.jit(binarize)(KEY, np.full((40_000, 6), np.float32(0.3)))) - 0.3
    products = draws[:, :1] * draws[:, 1:]
    assert np.all(np.abs(products.mean(0)) < 4.5 * products.std(0) / np.sqrt(len(products)))
    following = draws[1:] * draws[:-1]
    assert np.all(np.abs(following.mean(0)) < 4.5 * following.std(0) / np.sqrt(len(following)))


def z_score_of_residuals(images, ink, levels):
    """Of sum of (ink - pixel) weighed by (pixel - 1/2): 0 on average if P(ink) is the pixel, and far away if not."""
    p = pixels(images, levels).astype(np.float64)
    weight = p - 0.5
    variance = np.sum(weight**2 * p * (1 - p))
    return np.sum(weight * (pixels(ink, levels) - p)) / np.sqrt(variance)


def grey(levels, size=4000):
    rng = np.random.default_rng(1)
    draw = lambda n: (
        rng.integers(0, levels, (n, 3, 2, 1), dtype=np.uint8) if levels else rng.random((n, 3, 2, 1), np.float32)
    )
    return Dataset("grey", draw(size), draw(size // 4), draw(size // 2), levels, "")


@pytest.mark.parametrize("levels", [0, 17, 256])
def test_static_binarization_is_one_unbiased_draw(levels):
    data = grey(levels)
    fixed = fix_binarization(data, "static", seed=3)
    for images, ink in zip(data[1:4], fixed[1:4], strict=True):
        assert (ink.dtype, ink.shape) == (images.dtype, images.shape)
        assert set(np.unique(pixels(ink, levels))) == {0, 1}
        assert abs(z_score_of_residuals(images, ink, levels)) < 4.5
    thresholded = fix_binarization(data, "threshold").train
    assert abs(z_score_of_residuals(data.train, thresholded, levels)) > 45  # the control: the check can fail
    assert np.all(fixed.train[data.train == max(levels - 1, 1)] > 0)
    assert not fixed.train[data.train == 0].any()


def test_binarization_depends_on_the_seed_and_the_split_alone():
    a, b = load("digits"), load("digits", validation_size=100)
    first = fix_binarization(a, "static", seed=5)
    assert first.checksum == fix_binarization(a, "static", seed=5).checksum
    assert first.checksum != fix_binarization(a, "static", seed=6).checksum != a.checksum
    np.testing.assert_array_equal(first.test, fix_binarization(b, "static", seed=5).test)
    assert first.checksum == "373ae747e3d908b87b9d0efe41c02c269360c56360ed651e033575ae9f98f315"


def test_dynamic_binarization_leaves_train_grey_and_fixes_the_rest():
    data = load("digits", validation_size=100)
    dynamic, static = fix_binarization(data, "dynamic", seed=2), fix_binarization(data, "static", seed=2)
    assert dynamic.train is data.train
    np.testing.assert_array_equal(dynamic.validation, static.validation)
    np.testing.assert_array_equal(dynamic.test, static.test)
    assert set(np.unique(dynamic.test)) == {0, 16}


def test_threshold_is_at_one_half():
    digits = grey(17)
    np.testing.assert_array_equal(fix_binarization(digits, "threshold").train, np.where(digits.train >= 8, 16, 0))
    photos = grey(256)
    np.testing.assert_array_equal(fix_binarization(photos, "threshold").train, np.where(photos.train >= 128, 255, 0))
    halves = Dataset("halves", *[np.array([[[[0.5]]], [[[0.49]]]], np.float32)] * 3, 0, "")
    assert fix_binarization(halves, "threshold").train.ravel().tolist() == [1, 0]


def test_binary_images_stay_as_they_are_under_every_binarization():
    data = grey(2)
    for binarization in BINARIZATIONS:
        for got, expected in zip(fix_binarization(data, binarization)[1:4], data[1:4], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_none_changes_nothing_and_other_names_are_refused():
    data = load("digits")
    assert fix_binarization(data, "none") is data
    with pytest.raises(
        ValueError, match="^binarization=otsu is unknown; choose one of none, dynamic, static, threshold"
    ) as caught:
        fix_binarization(data, "otsu")
    one_sentence(caught.value)


def test_the_mean_image_is_of_the_training_images_and_has_logits():
    train = np.uint8([[[[0], [16]]], [[[0], [8]]]])
    data = Dataset("", train, train[:0], 1 + train, 17, "")
    assert mean_image(data) == pytest.approx((1e-3, 0.75))


def test_the_mean_of_a_pixel_stays_away_from_black_and_white():
    images = np.zeros((4, 1, 2, 1), np.uint8)
    images[:, :, 1] = 255
    data = Dataset("mine", images, images[:0], images[:1], levels=256, checksum="")
    np.testing.assert_allclose(mean_image(data, margin=0.01), [0.01, 0.99])
