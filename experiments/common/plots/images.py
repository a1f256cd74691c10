"""Grids of images: samples, reconstructions, interpolations and the plane of a two-dimensional latent.

A grid is an image itself, `[height, width, 3]` in [0, 1]. The plane, which has axes, is a matplotlib figure.

Images are `[..., H, W, C]` in [0, 1]. One channel is grey, three are RGB, and any other number of channels is drawn as
grey images side by side. A line of pixels, such as a row of features, is drawn as bars from 0 to 1.
"""

import math

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common.charts.chart import limits
from experiments.common.plots.style import VERMILLION, WIDTH, look, styled

# The least number of pixels of the shorter side of an image in a grid.
LEAST_SIDE = 64
# The height of a row of bars in pixels, and their largest number. Each bar of a longer row is a mean of neighbours.
BAR_HEIGHT = 64
MOST_BARS = 200
# The means of at most so many classes are drawn as the numbers of their classes.
MOST_CLASSES = 20


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """A grid of images `[N, H, W, C]`, row by row. By default the grid is about as high as it is wide."""
    images = _as_rgb(images)
    count, height, width, _ = images.shape
    columns = columns or min(count, math.ceil(math.sqrt(count * height / width)))
    return _enlarge(_tile(images, columns, _gap(images)), side=min(height, width))


def reconstructions(x: np.ndarray, x_hat: np.ndarray) -> np.ndarray:
    """Rows of data `x` above rows of their reconstructions `x_hat`, both `[N, H, W, C]`."""
    if np.shape(x) != np.shape(x_hat):
        raise ValueError(f"x has shape {np.shape(x)} and x_hat {np.shape(x_hat)}; every image needs its reconstruction")
    x, x_hat = _as_rgb(x), _as_rgb(x_hat)
    count, height, width, _ = x.shape
    rows = math.ceil(count / np.clip(round(10 * height / width), 1, count))
    columns = math.ceil(count / rows)
    gap = _gap(x)
    pairs = np.concatenate([x, np.ones_like(x[:, :gap]), x_hat], axis=1)  # [N, 2 H + gap, W, 3]
    return _enlarge(_tile(pairs, columns, gap, row_gap=3 * gap), side=min(height, width))


def interpolations(images: np.ndarray) -> np.ndarray:
    """Paths through the latent space, `[rows, steps, H, W, C]`, from left to right.

    The first and the last image of a path are data, and have a frame.
    """
    rows, steps = np.shape(images)[:2]
    images = _as_rgb(np.reshape(images, (rows * steps, *np.shape(images)[2:])))
    count, height, width, _ = images.shape
    border = _gap(images)
    framed = np.ones((count, height + 2 * border, width + 2 * border, 3))
    framed[np.isin(np.arange(count) % steps, (0, steps - 1))] = to_rgb(VERMILLION)
    framed[:, border:-border, border:-border] = images
    return _enlarge(_tile(framed, steps, border), side=min(height, width))


@styled
def latent_plane(images: np.ndarray, z: np.ndarray, means: np.ndarray, labels: np.ndarray | None = None) -> Figure:
    """Images decoded over the plane of a two-dimensional latent, and beside them the posterior means of the data.

    Args:
      images: The decoded images, `[n, n, H, W, C]`. images[i, j] is decoded from z_1 = z[0, j] and z_2 = z[1, i], which
        is the order of `meshgrid`. In the picture, z_2 points up.
      z: The values of z_1 and of z_2, `[2, n]`, ascending: quantiles of the prior at equal distances. The axes have
        ticks at round values of z, so that a place is found in both panels by the same numbers.
      means: The posterior means as values of z, `[N, 2]`.
      labels: The classes of the data, `[N]`. If they are at most twenty, each mean is drawn as the number of its class.
    """
    size = len(images)
    if np.shape(images)[:2] != (size, size):
        raise ValueError(f"images has shape {np.shape(images)}; the latent plane needs as many rows as columns")
    tiles = _as_rgb(np.reshape(images[::-1], (size * size, *np.shape(images)[2:])))
    figure = Figure(figsize=(WIDTH, 0.45 * WIDTH), layout="constrained")
    mosaic_ax, means_ax = figure.subplots(1, 2)
    edges = (-0.5, size - 0.5)  # the centres of the images are 0, 1, 2, ...
    mosaic = _tile(tiles, size, _gap(tiles) if 1 in np.shape(images)[2:4] else 0)  # bars need gaps
    mosaic_ax.imshow(mosaic, extent=(*edges, *edges), aspect=mosaic.shape[0] / mosaic.shape[1])
    mosaic_ax.grid(False)
    mosaic_ax.set(xlabel="$z_1$ at equally spaced prior quantiles", ylabel="$z_2$ at equally spaced prior quantiles")
    classes = [] if labels is None else np.unique(labels)
    points = dict(alpha=0.7, linewidth=0, rasterized=True)
    if 0 < len(classes) <= MOST_CLASSES:
        for i, c in enumerate(classes):
            means_ax.scatter(*means[labels == c].T, s=14, marker=f"${c}$", color=look(i).colour, **points)
    else:
        means_ax.scatter(*means.T, s=5, marker=look(0).marker, color=look(0).colour, **points)
    if both := limits([means.ravel()]):
        means_ax.set(xlim=both, ylim=both)
    means_ax.set_aspect("equal")
    means_ax.set(xlabel="posterior mean of $z_1$", ylabel="posterior mean of $z_2$")
    locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    for axis, values in zip((mosaic_ax.xaxis, mosaic_ax.yaxis), z, strict=True):
        ticks = [tick for tick in locator.tick_values(values[0], values[-1]) if values[0] <= tick <= values[-1]]
        names = [f"{tick:.6g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
        axis.set_ticks(np.interp(ticks, values, np.arange(size)), names)
    for axis in (means_ax.xaxis, means_ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


def _as_rgb(images: np.ndarray) -> np.ndarray:
    """`[N, H, W, C]` -> `[N, H, W, 3]` in [0, 1]; `[N, H, W * C, 3]` if C is neither 1 nor 3.

    NaN becomes vermillion. A line of pixels becomes bars.
    """
    images = np.asarray(images, dtype=float)
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images are [N, H, W, C] with N > 0, got {images.shape}")
    count, height, width, channels = images.shape
    if 1 in (height, width):
        images = _bars(images.reshape(count, height * width, channels).swapaxes(1, 2).reshape(count, -1))
    elif channels not in (1, 3):
        images = images.swapaxes(2, 3).reshape(count, height, channels * width, 1)
    images = np.broadcast_to(images, (*images.shape[:3], 3)).clip(0, 1)
    return np.where(np.isnan(images), to_rgb(VERMILLION), images)


def _bars(values: np.ndarray) -> np.ndarray:
    """Rows of values `[N, D]` in [0, 1] as dark bars on light grey, `[N, BAR_HEIGHT, width, 1]`."""
    starts = np.arange(0, values.shape[1], math.ceil(values.shape[1] / MOST_BARS))
    bars = np.add.reduceat(values, starts, axis=1) / np.diff(starts, append=values.shape[1])
    heights = (np.arange(BAR_HEIGHT, 0, -1)[:, None] - 0.5) / BAR_HEIGHT  # of the middles of the pixels, from the top
    bars = bars[:, None]  # [N, 1, bars]
    images = np.where(np.isnan(bars), bars, np.where(heights < bars, 0.2, 0.9))
    return images.repeat(max(1, BAR_HEIGHT // len(starts)), axis=2)[..., None]


def _gap(images: np.ndarray) -> int:
    """The number of pixels between images."""
    return max(1, round(0.06 * min(images.shape[1:3])))


def _tile(images: np.ndarray, columns: int, gap: int, row_gap: int | None = None) -> np.ndarray:
    """The images `[N, H, W, 3]` as one image, row by row. Gaps and the empty places of the last row are white."""
    count, height, width, _ = images.shape
    row_gap = gap if row_gap is None else row_gap
    rows = math.ceil(count / columns)
    tiles = np.ones((rows * columns, height + row_gap, width + gap, 3))
    tiles[:count, :height, :width] = images
    mosaic = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2).reshape(rows * tiles.shape[1], -1, 3)
    return mosaic[: mosaic.shape[0] - row_gap, : mosaic.shape[1] - gap]


def _enlarge(mosaic: np.ndarray, side: int) -> np.ndarray:
    """The mosaic with square pixels in place of each pixel, so that the `side` pixels of an image can be seen."""
    factor = max(1, LEAST_SIDE // side)
    return mosaic.repeat(factor, axis=0).repeat(factor, axis=1)
