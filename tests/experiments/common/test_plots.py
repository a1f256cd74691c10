"""Pictures show the numbers that they are given: lines, means over seeds, pixels, units; their bytes do not change."""

import io
import math

import matplotlib.image
import numpy as np
import pytest

from experiments.common import plots


def make_rows(epochs=12, best=-90.0, seed=0):
    """Evaluation rows of a plausible run; like a real one, it has no training objective at epoch 0."""
    noise = np.random.default_rng(seed).normal(size=(epochs, 3))
    rows = []
    for epoch in range(epochs):
        elbo, rate = best - 450 * math.exp(-epoch) + noise[epoch, 0], 20 * (1 - math.exp(-epoch)) + noise[epoch, 1]
        row = {
            "epoch": epoch,
            "step": 100 * epoch,
            "elbo_nats": elbo,
            "rate_nats": rate,
            "distortion_nats": -elbo - rate,
        }
        rows.append(row | ({"bound_nats": elbo + 1, "active_units": epoch} if epoch else {}))
    return rows


def column(rows, key):
    return [row[key] for row in rows if key in row]


def line_called(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def shown(figure):
    """The mosaic of the first panel, [rows, columns, 3]."""
    (image,) = figure.axes[0].images
    assert image.get_interpolation() == "nearest"
    return image.get_array()


# Files


def test_save_writes_valid_files_of_unchanging_bytes(tmp_path):
    figure = plots.compare_runs([{"label": "reparam", "rows": make_rows(), "seconds": None}])
    paths = plots.save(figure, tmp_path / "new" / "folder" / "lr0.001")
    assert [path.name for path in paths] == ["lr0.001.png", "lr0.001.pdf"]
    png, pdf = (path.read_bytes() for path in paths)
    assert matplotlib.image.imread(paths[0]).shape[2] == 4
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in pdf
    assert b"Software" not in png
    again = plots.save(figure, tmp_path / "again")
    rebuilt = plots.save(
        plots.compare_runs([{"label": "reparam", "rows": make_rows(), "seconds": None}]), tmp_path / "b"
    )
    for copies in zip(again, rebuilt, strict=True):
        assert [copy.read_bytes() for copy in copies] == [png if copies[0].suffix == ".png" else pdf] * 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    figure = plots.image_grid(np.zeros((1, 4, 4, 1)))
    png, _ = plots.save(figure, tmp_path / "samples")
    before = png.read_bytes()

    def refuse(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(plots.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        plots.save(plots.image_grid(np.ones((1, 4, 4, 1))), tmp_path / "samples")
    assert png.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_plots_leave_the_callers_style_alone():
    before = dict(matplotlib.rcParams)
    plots.learning_curves(make_rows(), "test")
    assert dict(matplotlib.rcParams) == before


# Curves


def test_learning_curves_draw_the_rows():
    rows = make_rows()
    figure = plots.learning_curves(rows, "test")
    bound, rate, distortion = figure.axes
    for ax, label, key in (
        (bound, "training objective", "bound_nats"),
        (bound, "test ELBO", "elbo_nats"),
        (rate, "test ELBO", "rate_nats"),
        (distortion, "test ELBO", "distortion_nats"),
    ):
        x, y = line_called(ax, label).get_data()
        np.testing.assert_array_equal(x, [row["epoch"] for row in rows if key in row])
        np.testing.assert_array_equal(y, column(rows, key))
    assert [ax.get_ylabel() for ax in figure.axes] == ["bound (nats)", "test rate (nats)", "test distortion (nats)"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}
    assert legend_texts(figure) == ["training objective", "test ELBO"]
    assert [text.get_text() for text in rate.texts] == ["11 active units"]
    low, high = bound.get_ylim()
    assert low > rows[0]["elbo_nats"]  # the untrained model does not set the scale
    assert low < min(column(rows[4:], "elbo_nats"))
    assert high > max(column(rows, "bound_nats"))


def test_learning_curves_of_one_row_and_of_nan():
    one = plots.learning_curves(make_rows()[:1], "validation", timing=[0.5])
    assert legend_texts(one) == ["validation ELBO"]
    rows = make_rows()
    rows[5] = rows[5] | {"elbo_nats": math.nan, "bound_nats": None, "rate_nats": math.inf}
    figure = plots.learning_curves(rows, "test")
    for ax in figure.axes[:2]:
        np.testing.assert_array_equal(line_called(ax, "test ELBO").get_xdata(), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    diverged = plots.learning_curves([row | {"elbo_nats": math.nan} for row in rows], "test")
    for drawn in (one, figure, diverged):
        drawn.draw_without_rendering()


def test_learning_curves_tell_the_time():
    figure = plots.learning_curves(make_rows(), "test", timing=[10 + 3 * epoch for epoch in range(12)])
    (clock,) = figure.axes[0].child_axes
    assert clock.get_xlabel() == "training time (s)"
    assert clock.xaxis.get_major_formatter()(5, None) == "25"
    late = plots.learning_curves(make_rows()[4:], "test", timing=[10 + 3 * epoch for epoch in range(4, 12)])
    assert late.axes[0].child_axes[0].xaxis.get_major_formatter()(0, None) == "0"  # no evaluation is so early
    day = plots.learning_curves(make_rows(), "test", timing=[8640 * epoch for epoch in range(12)])
    assert day.axes[0].child_axes[0].xaxis.get_major_formatter()(10, None) == "86,400"
    with pytest.raises(ValueError, match="one number of seconds per row"):
        plots.learning_curves(make_rows(), "test", timing=[1.0])


def test_compare_runs_averages_seeds():
    runs = [{"label": "stl", "rows": make_rows(seed=s), "seconds": [s + 2 * t for t in range(12)]} for s in range(4)]
    runs += [{"label": "dreg", "rows": make_rows(best=-88, seed=9), "seconds": None}]
    figure = plots.compare_runs(runs)
    steps, seconds = figure.axes
    elbo = np.array([column(run["rows"], "elbo_nats") for run in runs[:4]])
    for ax, x in ((steps, 100 * np.arange(12)), (seconds, 1.5 + 2 * np.arange(12))):
        mean = line_called(ax, "stl")
        np.testing.assert_allclose(mean.get_xdata(), x, rtol=1e-12)
        np.testing.assert_allclose(mean.get_ydata(), elbo.mean(axis=0), rtol=1e-12)
    thin = [line.get_ydata() for line in steps.lines if line.get_label().startswith("_")]
    np.testing.assert_array_equal(thin, elbo)
    (band,) = steps.collections
    last = band.get_paths()[0].vertices
    last = last[last[:, 0] == 1100][:, 1]
    error = elbo[:, -1].std(ddof=1) / 2
    np.testing.assert_allclose([last.min(), last.max()], elbo[:, -1].mean() + np.array([-error, error]), rtol=1e-12)
    np.testing.assert_array_equal(line_called(steps, "dreg").get_ydata(), column(runs[4]["rows"], "elbo_nats"))
    assert not len(line_called(seconds, "dreg").get_xdata())  # its time is not known
    assert (steps.get_xlabel(), seconds.get_xlabel()) == ("training step", "training time (s)")
    assert steps.get_ylabel() == "held-out ELBO (nats)"
    assert legend_texts(figure) == ["stl", "dreg"]
    assert -130 < steps.get_ylim()[0] < -90 < steps.get_ylim()[1]
    assert len(plots.compare_runs(runs[4:]).axes) == 1


def test_compare_runs_averages_only_the_steps_that_all_seeds_have():
    short, long = make_rows(epochs=6, seed=1), make_rows(epochs=12, seed=2)
    long[3]["elbo_nats"] = math.nan
    figure = plots.compare_runs([{"label": "nvil", "rows": rows, "seconds": None} for rows in (short, long)])
    x, y = line_called(figure.axes[0], "nvil").get_data()
    np.testing.assert_array_equal(x, [0, 100, 200, 400, 500])
    np.testing.assert_allclose(y[-1], (short[5]["elbo_nats"] + long[5]["elbo_nats"]) / 2, rtol=1e-12)


def test_a_seed_that_diverged_does_not_cut_the_mean_of_the_others():
    status = ("done", 12), ("done", 12), ("diverged", 2), (None, 5)
    runs = [
        {"label": "nvil", "rows": make_rows(seed=s)[:n], "seconds": None, "status": status}
        for s, (status, n) in enumerate(status)
    ]
    for chosen, mean_of in ((runs, runs[:2]), (runs[:3], runs[:2]), (runs[2:], runs[3:]), (runs[2:3], runs[2:3])):
        x, y = line_called(plots.compare_runs(chosen).axes[0], "nvil").get_data()
        elbo = [column(run["rows"], "elbo_nats") for run in mean_of]
        np.testing.assert_array_equal(x, 100 * np.arange(len(elbo[0])))
        np.testing.assert_allclose(y, np.mean(elbo, axis=0), rtol=1e-12)


def test_compare_runs_names_what_cannot_be_seen():
    rows = make_rows()
    runs = [{"label": f"good {s}", "rows": make_rows(seed=s), "seconds": None} for s in range(4)]
    runs += [{"label": "bad", "rows": [row | {"elbo_nats": -1e9} for row in rows], "seconds": None}]
    runs += [{"label": "nan", "rows": [row | {"elbo_nats": math.nan} for row in rows], "seconds": None}]
    runs += [{"label": "apart", "rows": part, "seconds": None} for part in (rows[6:9], rows[9:])]
    figure = plots.compare_runs(runs)
    assert legend_texts(figure)[-3:] == ["bad (off scale)", "nan (not finite)", "apart (no step in common)"]
    assert -130 < figure.axes[0].get_ylim()[0]


def test_compare_runs_has_room_for_twenty_labels():
    labels = [f"a_long_estimator_name_{number}" for number in range(20)]
    times = {label: [4**number * t for t in range(12)] for number, label in enumerate(labels)}
    figure = plots.compare_runs([{"label": label, "rows": make_rows(), "seconds": times[label]} for label in labels])
    assert figure.axes[1].get_xscale() == "log"
    assert legend_texts(figure) == labels
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 20
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 > figure.axes[1].get_window_extent().x1
    assert figure.bbox.contains(box.x1, box.y1)
    assert figure.bbox.contains(box.x0, box.y0)


def test_rate_distortion_and_its_lines_of_equal_elbo():
    places = [(5.0, 100.0), (20.0, 80.0), (21.0, 81.0), (math.nan, math.nan)]
    points = [{"label": f"{r < 10}", "rate_nats": r, "distortion_nats": d} for r, d in places]
    figure = plots.rate_distortion(points)
    (ax,) = figure.axes
    drawn = np.concatenate([dots.get_offsets().filled(np.nan) for dots in ax.collections])
    np.testing.assert_array_equal(drawn, places)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate (nats)", "distortion (nats)")
    assert legend_texts(figure) == ["True", "False"]
    assert len(ax.texts) >= 2
    for text in ax.texts:
        elbo = float(text.get_text().removeprefix("ELBO ").replace("\N{MINUS SIGN}", "-"))
        assert elbo == pytest.approx(-sum(text.get_position()))
    levels = [-sum(np.array(line.get_data())) for line in ax.lines]
    assert all(np.ptp(level) < 1e-9 for level in levels)


# Images


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


@pytest.mark.parametrize("shape", [(1, 784, 1), (784, 1, 1), (1, 1, 3), (28, 20, 3), (1, 3, 1)])
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


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (0, 8, 8, 1)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"images are \[N, H, W, C\]"):
        plots.image_grid(np.zeros(shape))


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
