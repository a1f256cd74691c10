"""Pictures of trained models show the numbers that they are given."""

import itertools
import math

import numpy as np
import pytest

from experiments.common import comparison, plots
from experiments.common.charts import training
from experiments.report import plotly_charts
from tests.helpers.figures import column, legend_texts, line_called, make_rows
from tests.helpers.sweep_levels import row


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
    assert rate.get_legend().get_title().get_text() == "11 active units"
    low, high = bound.get_ylim()
    assert low > rows[0]["elbo_nats"]  # the untrained model does not set the scale
    assert low < min(column(rows[4:], "elbo_nats"))
    assert high > max(column(rows, "bound_nats"))


def test_short_learning_curves_are_shown_whole():
    rows = make_rows()[:10]
    low, high = plots.learning_curves(rows, "test").axes[0].get_ylim()
    assert low < rows[0]["elbo_nats"] < max(column(rows, "elbo_nats")) < high


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


def test_the_number_of_active_units_covers_no_point():
    rising, falling = [0.2, 1.0], [1.0, 0.2]
    for rates in (rising, falling):
        rows = [{"epoch": i + 1, "rate_nats": rate, "active_units": 0} for i, rate in enumerate(rates)]
        figure = plots.learning_curves(rows, "test")
        figure.draw_without_rendering()
        ax = figure.axes[1]
        box = ax.get_legend().get_window_extent()
        for place in ax.transData.transform([*enumerate(rates, start=1)]):
            assert not box.contains(*place)


def test_learning_curves_tell_the_time():
    figure = plots.learning_curves(make_rows(), "test", timing=[10 + 3 * epoch for epoch in range(12)])
    assert figure.axes[0].child_axes[0].get_xlabel() == "training time (s)"
    assert time_ticks(figure) == {"10": 0, "20": 10 / 3, "30": 20 / 3, "40": 10}
    uneven = plots.learning_curves(make_rows()[1:], "test", timing=[epoch + 50 * (epoch > 6) for epoch in range(1, 12)])
    assert time_ticks(uneven) == {"40": 6 + 34 / 51, "60": 10}  # 20 would be printed under 40
    rows = [row | {"epoch": 50 + row["epoch"]} for row in make_rows()]
    late = plots.learning_curves(rows, "test", timing=[100 + row["epoch"] for row in rows])
    assert len(time_ticks(late)) > 2  # the first epochs, which are out of view, are no reason for fewer
    day = plots.learning_curves(make_rows(), "test", timing=[8640 * epoch for epoch in range(12)])
    assert "50,000" in time_ticks(day)
    with pytest.raises(ValueError, match="one number for each row"):
        plots.learning_curves(make_rows(), "test", timing=[1.0])


def time_ticks(figure):
    """The numbers at the axis of seconds, and the epochs above which they stand."""
    figure.draw_without_rendering()
    ax = figure.axes[0]
    (clock,) = ax.child_axes
    left, right = ax.get_xlim()
    names = [text.get_text() for text in clock.get_xticklabels()]
    places = clock.xaxis.get_transform().transform(clock.get_xticks())
    ends = clock.xaxis.get_transform().transform(clock.get_xlim())
    epochs = left + (right - left) * (places - ends[0]) / (ends[1] - ends[0])
    return {
        name: pytest.approx(epoch, abs=1e-6)
        for name, epoch in zip(names, epochs, strict=True)
        if left <= epoch <= right
    }


def test_compare_runs_averages_seeds():
    runs = [{"label": "stl", "rows": make_rows(seed=s), "seconds": [s + 2 * t for t in range(12)]} for s in range(4)]
    runs += [{"label": "dreg", "rows": make_rows(best=-88, seed=9), "seconds": None}]
    figure = plots.compare_runs(runs)
    steps, seconds = figure.axes
    elbo = np.array([column(run["rows"], "elbo_nats") for run in runs[:4]])
    for ax, x in ((steps, 100 * np.arange(12)), (seconds, 1.5 + 2 * np.arange(12))):
        mean = line_called(ax, "STL")
        np.testing.assert_allclose(mean.get_xdata(), x, rtol=1e-12)
        np.testing.assert_allclose(mean.get_ydata(), elbo.mean(axis=0), rtol=1e-12)
    thin = [line.get_ydata() for line in steps.lines if line.get_label().startswith("_")]
    np.testing.assert_array_equal(thin, elbo)
    (band,) = steps.collections
    last = band.get_paths()[0].vertices
    last = last[last[:, 0] == 1100][:, 1]
    error = elbo[:, -1].std(ddof=1) / 2
    np.testing.assert_allclose([last.min(), last.max()], elbo[:, -1].mean() + np.array([-error, error]), rtol=1e-12)
    np.testing.assert_array_equal(line_called(steps, "DReG").get_ydata(), column(runs[4]["rows"], "elbo_nats"))
    assert not len(line_called(seconds, "DReG").get_xdata())  # its time is not known
    assert (steps.get_xlabel(), seconds.get_xlabel()) == ("training step", "training time (s)")
    assert steps.get_ylabel() == "held-out ELBO (nats)"
    assert legend_texts(figure) == ["STL", "DReG"]
    assert -130 < steps.get_ylim()[0] < -90 < steps.get_ylim()[1]
    assert len(plots.compare_runs(runs[4:]).axes) == 1


def test_runs_with_one_evaluation_are_points():
    rows = [{"step": 23, "split": "test", "elbo_nats": -40.0}]
    figure = plots.compare_runs([{"label": name, "rows": rows, "seconds": [1.0], "status": "done"} for name in "ab"])
    for ax in figure.axes:
        assert all(line.get_marker() not in (None, "None") for line in ax.lines)
    rows.append({"step": 46, "split": "test", "elbo_nats": -39.0})
    figure = plots.compare_runs([{"label": "a", "rows": rows, "seconds": [1.0, 2.0], "status": "done"}])
    assert figure.axes[0].lines[0].get_marker() == "None"


def test_compare_runs_averages_only_the_steps_that_all_seeds_have():
    short, long = make_rows(epochs=6, seed=1), make_rows(epochs=12, seed=2)
    long[3]["elbo_nats"] = math.nan
    figure = plots.compare_runs([{"label": "nvil", "rows": rows, "seconds": None} for rows in (short, long)])
    x, y = line_called(figure.axes[0], "NVIL").get_data()
    np.testing.assert_array_equal(x, [0, 100, 200, 400, 500])
    np.testing.assert_allclose(y[-1], (short[5]["elbo_nats"] + long[5]["elbo_nats"]) / 2, rtol=1e-12)


def test_a_seed_that_diverged_does_not_cut_the_mean_of_the_others():
    status = ("done", 12), ("done", 12), ("diverged", 2), (None, 5)
    runs = [
        {"label": "nvil", "rows": make_rows(seed=s)[:n], "seconds": None, "status": status}
        for s, (status, n) in enumerate(status)
    ]
    for chosen, mean_of in ((runs, runs[:2]), (runs[:3], runs[:2]), (runs[2:], runs[3:]), (runs[2:3], runs[2:3])):
        x, y = line_called(plots.compare_runs(chosen).axes[0], "NVIL").get_data()
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


def test_compare_runs_draws_dashes_above_solid_lines_and_numbers_apart_from_each_other():
    runs = [{"label": name, "rows": make_rows(), "seconds": None} for name in ("stl", "reparam")]
    for number, run in enumerate(runs):
        run["step_evaluations"] = 1 + number
        run["rows"] = [row | {"examples": 50000 * row["epoch"]} for row in run["rows"]]
    steps, evaluations = plots.compare_runs(runs).axes
    dashed, solid = line_called(steps, "STL"), line_called(steps, "Reparameterization")
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
    assert dashed.get_zorder() > solid.get_zorder()
    evaluations.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in evaluations.get_xticklabels()]
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert evaluations.xaxis.get_offset_text().get_text()  # the power of ten


def test_the_candidates_of_a_verdict_are_drawn_with_whole_intervals_and_papers_names():
    rows = [row("stl", s, 10.0, rate=r, validation=-10.0 - s) for s in range(2) for r in (1e-3, 1e-2)]
    rows += [row("reparam", s, 11.0, rate=r, validation=-12.0 - s) for s in range(2) for r in (1e-3, 1e-2)]
    figure = plots.candidates(comparison.compare(rows, "estimator"))
    low, high = figure.axes[0].get_ylim()
    assert low < -13.0  # one standard error, 0.5, below the mean of -12.5
    assert high > -10.0
    assert legend_texts(figure) == ["STL", "Reparameterization", "chosen by validation"]
    assert figure.axes[0].get_title("right") == "bars: one standard error over seeds"
    alone = plots.candidates(comparison.compare([one for one in rows if one["seed"] == 0], "estimator"))
    assert not alone.axes[0].get_title("right")  # a single seed has no bar


def test_a_biased_estimator_has_a_star_that_the_picture_explains():
    names = ("reinmax", "disarm")
    rows = [row(name, s, 10.0, rate=r, validation=-10.0 - s) for name in names for s in (0, 1) for r in (1e-3, 1e-2)]
    curves = [{"label": name, "rows": make_rows(), "seconds": None} for name in names]
    points = [{"label": name, "rate_nats": 5.0 + len(name), "distortion_nats": 80.0} for name in names]

    verdict = plots.candidates(comparison.compare(rows, "estimator"))
    runs = plots.compare_runs(curves)
    plane = plots.rate_distortion(points)

    for figure in (verdict, runs, plane):
        assert set(legend_texts(figure)) - {"chosen by validation"} == {"ReinMax *", "DisARM"}
        assert figure.axes[0].get_title("right").endswith("* biased according to its paper")
    assert not plots.compare_runs(curves[1:]).axes[0].get_title("right")


def test_a_run_at_the_place_of_others_is_a_ring_around_them():
    places = [(5.0, 100.0), (20.0, 80.0), (5.0, 100.0), (5.02, 100.05), (5.2, 100.0)]
    points = [
        {"label": name, "rate_nats": r, "distortion_nats": d} for name, (r, d) in zip("abcde", places, strict=True)
    ]
    chart = training.rate_distortion(points)
    assert [series.hidden.tolist() for series in chart.series] == [[0], [0], [1], [2], [0]]
    assert chart.series[0].remarks == ("at the same place:\nc\nd",)
    assert chart.series[1].remarks == ("",)
    assert "a ring" in chart.note
    dots = plots.rate_distortion(points).axes[0].collections
    sizes = [dot.get_sizes()[0] for dot in dots]
    assert sizes[0] == sizes[1] == sizes[4] < sizes[2] < sizes[3]
    assert [bool(dot.get_facecolor()[0, 3]) for dot in dots] == [True, True, False, False, True]
    trace = plotly_charts.draw(chart, hover="%{text}", mode="markers")["data"][-3]
    assert (trace["marker"]["symbol"], trace["text"]) == (["triangle-up-open"], ["<br>at the same place:<br>a<br>d"])
    assert not training.rate_distortion(points[:2]).note


def test_rate_distortion_and_its_lines_of_equal_elbo():
    places = [(5.0, 100.0), (20.0, 80.0), (21.0, 81.0), (math.nan, math.nan)]
    points = [{"label": f"{r < 10}", "rate_nats": r, "distortion_nats": d} for r, d in places]
    figure = plots.rate_distortion(points)
    (ax,) = figure.axes
    drawn = np.concatenate([dots.get_offsets().filled(np.nan) for dots in ax.collections])
    np.testing.assert_array_equal(drawn, places)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "rate, KL(q(z|x) || p(z)) (nats)",
        "distortion, \N{MINUS SIGN}E log p(x|z) (nats)",
    )
    assert legend_texts(figure) == ["True", "False"]
    assert len(ax.texts) >= 2
    for text in ax.texts:
        elbo = float(text.get_text().removeprefix("ELBO ").replace("\N{MINUS SIGN}", "-"))
        assert elbo == pytest.approx(-sum(text.get_position()))
    levels = [-sum(np.array(line.get_data())) for line in ax.lines]
    assert all(np.ptp(level) < 1e-9 for level in levels)


def test_the_lines_of_equal_elbo_have_equally_many_digits():
    points = [{"label": "", "rate_nats": rate, "distortion_nats": 28.0} for rate in (0.6, 1.0, 1.3)]
    labels = [guide.label for guide in training.rate_distortion(points).guides]
    assert {"ELBO \N{MINUS SIGN}29.0", "ELBO \N{MINUS SIGN}29.2"} <= set(labels)
