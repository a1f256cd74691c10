"""Pictures are written whole, with unchanging bytes, and leave the style of others alone."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.common import files, plots
from experiments.common.plots import panels
from tests.helpers.figures import make_rows


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
    [png] = plots.save(figure, tmp_path / "samples")
    before = png.read_bytes()

    def refuse(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        plots.save(plots.image_grid(np.ones((1, 4, 4, 1))), tmp_path / "samples")
    assert png.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_axis_of_large_numbers_shows_a_power_of_ten_and_others_have_plain_ticks(tmp_path):
    figure = Figure()
    ax = figure.subplots()
    ax.plot([0, 3e6], [-95, -85])
    plots.save(figure, tmp_path / "a")
    assert r"\times" in ax.xaxis.get_offset_text().get_text()
    assert "$" not in "".join(label.get_text() for label in ax.get_yticklabels())
    assert not ax.yaxis.get_offset_text().get_text()


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((0.0123, 0.0124), (2.3e-5, 2.31e-5), (0.925, 1.045), (1.9, 2.1), (0.9, 60)),
        *((2.3e-5, 2.30001e-5), (99999, 100001), (1, 1 + 1e-7)),
    ],
)
def test_a_logarithmic_axis_has_a_few_different_numbers_however_short_it_is(low, high):
    for ends in ((low, high), (high, low)):
        ax = Figure().subplots()
        ax.set(yscale="log", ylim=ends)
        panels.plain_ticks(ax.yaxis)
        names = [label.get_text() for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high]
        assert 2 <= len(names) <= 6
        assert len(set(names)) == len(names)


def test_plots_leave_the_callers_style_alone():
    before = dict(matplotlib.rcParams)
    plots.learning_curves(make_rows(), "test")
    assert dict(matplotlib.rcParams) == before
