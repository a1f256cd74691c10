"""Grids of images show every pixel where its label says."""

import io
import math

import matplotlib.image
import numpy as np
import pytest

from experiments.common import plots


def shown(figure):
    """The mosaic of the first panel, [rows, columns, 3]."""
    (image,) = figure.axes[0].images
    assert image.get_interpolation() == "nearest"
    return image.get_array()


def test_image_grid_shows_every_pixel():
    images = np.random.default_rng(0).uniform(size=(7, 8, 6, 1))
    mosaic = shown(plots.image_grid(images, columns=3))
    assert mosaic.shape == (3 * 8 + 2, 3 * 6 + 2, 3)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(
            mosaic[9 * row : 9 * row + 8, 7 * column : 7 * column + 6], image.repeat(3, axis=-1)
        )
    np.testing.assert_array_equal(mosaic[18:, 7:], 1)  # what lacks is white
    np.testing.assert_array_equal(mosaic[8], 1)  # so is the gap


def test_pixels_are_square_clipped_and_nan_is_conspicuous():
    images = np.array([-1.0, 2.0, math.nan, 0.5]).reshape(1, 2, 2, 1)
    figure = plots.image_grid(images)
    mosaic = shown(figure)
    np.testing.assert_array_equal(mosaic[0, :, 0], [0, 1])
    np.testing.assert_allclose(mosaic[1, 0], matplotlib.colors.to_rgb("#D55E00"))
    assert figure.axes[0].get_aspect() == 1


@pytest.mark.parametrize(
    "shape", [(1, 784, 1), (784, 1, 1), (1, 1, 3), (28, 20, 3), (1, 3, 1), (9, 7, 2), (9, 7, 4), (5, 3, 12)]
)
def test_any_size_of_image(shape):
    images = np.random.default_rng(0).uniform(size=(4, *shape))
    square = images.reshape(2, 2, *shape)
    for figure in (
        plots.image_grid(images),
        plots.reconstructions(images, images),
        plots.interpolations(square),
        plots.latent_plane(square, (-2, 2)),
    ):
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=50)
        png.seek(0)
        assert matplotlib.image.imread(png)[..., :3].min() < 0.9
        assert min(figure.get_size_inches()) > 0.05
        assert max(figure.get_size_inches()) < 9


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 0), (0, 8, 8, 1)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"images are \[N, H, W, C\]"):
        plots.image_grid(np.zeros(shape))


def test_channels_that_are_no_colours_lie_side_by_side():
    images = np.random.default_rng(0).uniform(size=(1, 5, 4, 2))
    mosaic = shown(plots.image_grid(images))
    np.testing.assert_array_equal(mosaic[..., 0], np.concatenate([images[0, ..., 0], images[0, ..., 1]], axis=1))


def test_reconstructions_lie_under_their_data():
    x = np.random.default_rng(0).uniform(size=(13, 8, 8, 1))
    figure = plots.reconstructions(x, 1 - x)
    (ax,) = figure.axes
    mosaic = shown(figure)
    middles = dict(zip(ax.get_yticks(), [text.get_text() for text in ax.get_yticklabels()], strict=True))
    assert sorted(middles.values()) == ["data", "data", "reconstruction", "reconstruction"]
    first = [round(middle - 3.5) for middle in sorted(middles)]  # top rows of pixels
    for top, images in zip(first, (x[:7], 1 - x[:7], x[7:], 1 - x[7:]), strict=True):
        for column, image in enumerate(images):
            np.testing.assert_array_equal(mosaic[top : top + 8, 9 * column : 9 * column + 8, :1], image)
    assert [middles[middle] for middle in sorted(middles)] == ["data", "reconstruction"] * 2
    with pytest.raises(ValueError, match="every image needs its reconstruction"):
        plots.reconstructions(x, x[1:])


def test_labels_of_images_are_inside_the_figure():
    x = np.zeros((10, 28, 28, 1))
    for figure in (plots.reconstructions(x, x), plots.interpolations(x[None])):
        figure.draw_without_rendering()
        box = figure.axes[0].get_tightbbox()
        assert box.x0 >= 0
        assert box.y1 <= figure.bbox.y1


def test_interpolations_mark_the_data():
    images = np.random.default_rng(0).uniform(size=(2, 5, 8, 8, 1))
    figure = plots.interpolations(images)
    (ax,) = figure.axes
    mosaic = shown(figure)
    np.testing.assert_array_equal(mosaic[9:17, 36:44, :1], images[1, 4])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["data", "data"]
    np.testing.assert_array_equal(ax.get_xticks(), [3.5, 39.5])
    assert [patch.get_x() for patch in ax.patches] == [-0.5, 35.5]


def test_latent_plane_has_z_2_upwards_and_ticks_at_the_centres():
    images = np.zeros((3, 3, 4, 2, 1))
    images[0, 2] = 1  # z_1 = 2, z_2 = -2
    means = np.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 0.5]])
    figure = plots.latent_plane(images, (-2, 2), means=means, labels=np.array([7, 3, 7]))
    plane, scatter = figure.axes
    mosaic = shown(figure)
    np.testing.assert_array_equal(mosaic[8:, 4:], 1)
    assert mosaic.sum() == 4 * 2 * 3
    assert plane.images[0].get_extent() == [-3, 3, -3, 3]
    assert plane.get_aspect() == 2  # pixels are square: tiles are twice as high as wide
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("$z_1$", "$z_2$")
    three, seven = scatter.collections
    np.testing.assert_array_equal(three.get_offsets(), means[[1]])
    np.testing.assert_array_equal(seven.get_offsets(), means[[0, 2]])
    assert [text.get_text() for text in scatter.get_legend().get_texts()] == ["3", "7"]
    assert plots.latent_plane(images, (0.05, 0.95), quantiles=True).axes[0].get_xlabel() == "$z_1$ (prior quantile)"
    with pytest.raises(ValueError, match="as many rows as columns"):
        plots.latent_plane(images[:2], (-2, 2))
