"""Grids of images show every pixel where its label says."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.markers import MarkerStyle

from experiments.common import plots

# Values of z_1 and z_2 for planes of two images on each side.
Z = np.array([[-1.0, 1.0], [-1.0, 1.0]])


def pixels(mosaic: np.ndarray, side: int) -> np.ndarray:
    """The mosaic with one pixel for each square of pixels; `side` is the shorter side of an image."""
    factor = 64 // side
    small = mosaic[::factor, ::factor]
    np.testing.assert_array_equal(small.repeat(factor, axis=0).repeat(factor, axis=1), mosaic)
    return small


def test_image_grid_shows_every_pixel():
    images = np.random.default_rng(0).uniform(size=(7, 8, 6, 1))
    mosaic = pixels(plots.image_grid(images, columns=3), 6)
    assert mosaic.shape == (3 * 8 + 2, 3 * 6 + 2, 3)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(
            mosaic[9 * row : 9 * row + 8, 7 * column : 7 * column + 6], image.repeat(3, axis=-1)
        )
    np.testing.assert_array_equal(mosaic[18:, 7:], 1)  # what lacks is white
    np.testing.assert_array_equal(mosaic[8], 1)  # so is the gap


def test_pixels_are_clipped_and_nan_is_conspicuous():
    images = np.array([-1.0, 2.0, math.nan, 0.5]).reshape(1, 2, 2, 1)
    mosaic = pixels(plots.image_grid(images), 2)
    np.testing.assert_array_equal(mosaic[0, :, 0], [0, 1])
    np.testing.assert_allclose(mosaic[1, 0], matplotlib.colors.to_rgb("#D55E00"))


def test_a_grid_is_written_as_an_image_with_every_pixel_and_without_axes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)) / 255
    mosaic = plots.image_grid(images)
    assert plots.save(mosaic, tmp_path / "grid") == [tmp_path / "grid.png"]
    written = matplotlib.image.imread(tmp_path / "grid.png")[..., :3]
    assert written.shape == mosaic.shape
    np.testing.assert_allclose(written, mosaic, atol=1 / 510)


@pytest.mark.parametrize(
    "shape", [(1, 784, 1), (784, 1, 1), (1, 1, 3), (28, 20, 3), (1, 3, 1), (9, 7, 2), (9, 7, 4), (5, 3, 12)]
)
def test_any_size_of_image(shape):
    images = np.random.default_rng(0).uniform(size=(4, *shape))
    square = images.reshape(2, 2, *shape)
    for mosaic in (plots.image_grid(images), plots.reconstructions(images, images), plots.interpolations(square)):
        assert mosaic.shape[2] == 3
        assert 64 <= min(mosaic.shape[:2])
        assert max(mosaic.shape[:2]) < 2600
        assert mosaic.min() < 0.9
    figure = plots.latent_plane(square, Z, np.zeros((1, 2)))
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=50)
    png.seek(0)
    assert matplotlib.image.imread(png)[..., :3].min() < 0.9
    assert 0.05 < min(figure.get_size_inches()) <= max(figure.get_size_inches()) < 9


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 0), (0, 8, 8, 1)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"images are \[N, H, W, C\]"):
        plots.image_grid(np.zeros(shape))


def test_channels_that_are_no_colours_lie_side_by_side():
    images = np.random.default_rng(0).uniform(size=(1, 5, 4, 2))
    mosaic = pixels(plots.image_grid(images), 5)
    np.testing.assert_array_equal(mosaic[..., 0], np.concatenate([images[0, ..., 0], images[0, ..., 1]], axis=1))


@pytest.mark.parametrize("shape", [(1, 4, 1), (4, 1, 1), (1, 2, 2), (1, 1, 4)])
def test_a_row_of_features_becomes_bars_with_the_channels_one_after_the_other(shape):
    values = np.array([0.25, 1.0, 0.0, math.nan])
    features = values.reshape(2, 2).T if shape == (1, 2, 2) else values
    mosaic = plots.image_grid(features.reshape(1, *shape))
    assert mosaic.shape == (64, 64, 3)
    dark = (mosaic == 0.2).all(axis=-1)
    np.testing.assert_array_equal(dark.sum(axis=0), np.repeat([16, 64, 0, 0], 16))
    assert dark[-16:, :16].all()  # a bar stands on the ground
    np.testing.assert_allclose(mosaic[:, 48:], np.broadcast_to(matplotlib.colors.to_rgb("#D55E00"), (64, 16, 3)))


def test_each_bar_of_a_long_row_is_a_mean_of_neighbours():
    values = np.zeros((1, 1, 401, 1))
    values[0, 0, [0, 1, 400], 0] = 0.75, 0.75, 1
    dark = plots.image_grid(values)[..., 0] == 0.2
    np.testing.assert_array_equal(dark.sum(axis=0), [32, *[0] * 132, 32])  # three features, and two at the end


def test_reconstructions_lie_under_their_data():
    x = np.random.default_rng(0).uniform(size=(13, 8, 8, 1))
    mosaic = pixels(plots.reconstructions(x, 1 - x), 8)
    for top, images in zip((0, 9, 20, 29), (x[:7], 1 - x[:7], x[7:], 1 - x[7:]), strict=True):
        for column, image in enumerate(images):
            np.testing.assert_array_equal(mosaic[top : top + 8, 9 * column : 9 * column + 8, :1], image)
    with pytest.raises(ValueError, match="every image needs its reconstruction"):
        plots.reconstructions(x, x[1:])


def test_interpolations_put_a_frame_around_the_data():
    images = np.random.default_rng(0).uniform(size=(2, 5, 8, 8, 1))
    mosaic = pixels(plots.interpolations(images), 8)
    for row in (0, 1):
        for column in range(5):
            top, left = 11 * row + 1, 11 * column + 1
            np.testing.assert_array_equal(mosaic[top : top + 8, left : left + 8, :1], images[row, column])
            frame = matplotlib.colors.to_rgb("#D55E00") if column in (0, 4) else (1, 1, 1)
            for edge in (mosaic[top - 1, left - 1 : left + 9], mosaic[top - 1 : top + 9, left + 8]):
                np.testing.assert_allclose(edge, np.broadcast_to(frame, edge.shape))


def test_latent_plane_has_z_2_upwards_and_ticks_at_round_values_of_z():
    images = np.zeros((3, 3, 4, 2, 1))
    images[0, 2] = 1  # the largest z_1 and the smallest z_2
    means = np.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 0.5]])
    figure = plots.latent_plane(images, np.array([[-2.0, 0.0, 1.0], [3.0, 4.0, 8.0]]), means)
    plane, scatter = figure.axes
    (image,) = plane.images
    assert image.get_interpolation() == "nearest"
    mosaic = image.get_array()
    np.testing.assert_array_equal(mosaic[8:, 4:], 1)
    assert mosaic.sum() == 4 * 2 * 3
    assert plane.images[0].get_extent() == [-0.5, 2.5, -0.5, 2.5]
    ticks = [
        dict(zip([text.get_text() for text in axis.get_ticklabels()], axis.get_ticklocs(), strict=True))
        for axis in (plane.xaxis, plane.yaxis)
    ]
    # A value between those of two images is as far between their centres.
    assert ticks[0] == {"\N{MINUS SIGN}2": 0, "\N{MINUS SIGN}1": 0.5, "0": 1, "1": 2}
    assert ticks[1] == {"3": 0, "4": 1, "5": 1.25, "6": 1.5, "7": 1.75, "8": 2}
    assert plane.get_aspect() == 2  # pixels are square: tiles are twice as high as wide
    assert plane.get_xlabel() == "$z_1$ at equally spaced prior quantiles"
    assert plane.get_ylabel() == "$z_2$ at equally spaced prior quantiles"
    np.testing.assert_array_equal(scatter.collections[0].get_offsets(), means)
    with pytest.raises(ValueError, match="as many rows as columns"):
        plots.latent_plane(images[:2], Z, means)


@pytest.mark.parametrize(("classes", "groups"), [(1, 1), (3, 3), (20, 20), (21, 1)])
def test_the_means_are_drawn_as_the_numbers_of_their_classes_if_there_are_few(classes, groups):
    labels = np.arange(classes * 2) % classes
    means = np.stack([labels, 5.0 * labels], axis=-1)
    figure = plots.latent_plane(np.zeros((2, 2, 4, 4, 1)), Z, means, labels)
    drawn = figure.axes[1].collections
    assert len(drawn) == groups
    if groups > 1:
        assert all(len(np.unique(points.get_offsets(), axis=0)) == 1 for points in drawn)
        for points in drawn:
            number = MarkerStyle(f"${points.get_offsets()[0, 0]:.0f}$")
            outline = number.get_path().transformed(number.get_transform())
            np.testing.assert_allclose(points.get_paths()[0].vertices, outline.vertices)
