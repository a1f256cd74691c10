"""The tour notebook: its stored outputs, and the claims that its text makes."""

import re
from pathlib import Path

import pytest

from tests.helpers import notebook

TOUR = Path(__file__).parents[2] / "experiments" / "tour.ipynb"
ROOTS = r"/(?:home|root|Users|tmp|var|mnt|opt|usr|work|workspace|content|private)/\w|[A-Z]:\\\\"


def test_every_cell_was_executed_in_order_and_no_cell_failed():
    tour = notebook.read(TOUR)

    counts = [cell["execution_count"] for cell in notebook.code_cells(tour)]
    types = {output["output_type"] for output in notebook.outputs(tour)}

    assert tour["nbformat"] == 4
    assert counts == list(range(1, len(counts) + 1))
    assert types == {"stream", "display_data"}


def test_the_notebook_shows_pictures_and_stays_small():
    tour = notebook.read(TOUR)

    pictures = [output for output in notebook.outputs(tour) if "image/png" in output.get("data", {})]

    assert len(pictures) == 5
    assert TOUR.stat().st_size < 600_000


def test_the_notebook_holds_no_path_of_a_machine():
    tour = notebook.read(TOUR)
    for output in notebook.outputs(tour):
        output.get("data", {}).pop("image/png", None)

    assert re.findall(ROOTS, str(tour)) == []


def test_the_links_of_the_notebook_lead_to_files():
    links = re.findall(r"\]\((\.\./[^)]+)\)", TOUR.read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (TOUR.parent / link).is_file()] == []


def test_the_executor_stores_text_and_pictures_in_their_order():
    source = ["import matplotlib.pyplot as plt\n", "print('before')\n", "plt.plot([1, 2])\n", "plt.show()\n", "1 + 1"]
    small = {"cells": [{"cell_type": "code", "id": "one", "source": source, "outputs": [], "execution_count": None}]}

    variables = notebook.execute(small)

    text, picture, value = notebook.outputs(small)
    assert text["text"] == ["before\n"]
    assert picture["data"]["image/png"].startswith("iVBORw0KGgo")
    assert value["text"] == ["2\n"]
    assert small["cells"][0]["execution_count"] == 1
    assert "plt" in variables


@pytest.fixture(scope="module")
def tour():
    """The variables that the notebook leaves after it is executed from top to bottom."""
    return notebook.execute(notebook.read(TOUR))


@pytest.mark.slow
def test_the_gradient_is_lost_without_the_trick_and_exact_on_average_with_it(tour):
    lost = tour["lost"]
    kept = tour["kept"]["mean"]

    assert abs(lost["mean"]).max() == 0
    assert abs(lost["log_var"]).max() == 0
    assert abs(kept.mean() + 2) < 4.5 * kept.std() / len(kept) ** 0.5
    assert tour["score"]["mean"].var() > 4 * tour["pathwise"]["mean"].var()


@pytest.mark.slow
def test_the_vae_learns_the_digits(tour):
    assert tour["train_curve"][-1] > -24.5
    assert tour["test_curve"][-1] > -25
    assert tour["test_curve"][-1] > tour["test_curve"][0] + 5


@pytest.mark.slow
def test_reinforce_learns_least_and_the_other_estimators_end_close_together(tour):
    bounds = {name: curve[-1].mean() for name, (_, curve) in tour["runs"].items()}
    reinforce = bounds.pop("reinforce")

    assert min(bounds.values()) > reinforce + 1
    assert max(bounds.values()) - min(bounds.values()) < 0.7


@pytest.mark.slow
def test_the_table_shows_the_bias_of_reinmax_alone_and_its_small_variance(tour):
    results = tour["results"]
    deviation = {name: figures["deviation"] for name, figures in results.items()}
    variance = {name: figures["variance"] for name, figures in results.items()}
    cosine = {name: figures["cosine"] for name, figures in results.items()}

    assert deviation.pop("reinmax") > 4
    assert max(deviation.values()) < 1.5
    assert sorted(variance, key=variance.get) == ["reinmax", "relax", "disarm", "leave_one_out", "reinforce"]
    assert max(cosine, key=cosine.get) == "reinmax"
    assert results["relax"]["Mflop"] > 2 * results["disarm"]["Mflop"]
    assert results["relax"]["Mflop"] * variance["relax"] < results["disarm"]["Mflop"] * variance["disarm"]


@pytest.mark.slow
def test_the_certificate_passes_the_right_control_and_catches_the_wrong_one(tour):
    right = tour["own"]["at_the_mean"]
    wrong = tour["own"]["mean_of_all"]

    assert tour["verdicts"] == {"at_the_mean": True, "mean_of_all": False}
    assert right["scale_stderr"] < 0.02
    assert abs(wrong["scale"] - 0.5) < 4.5 * wrong["scale_stderr"]
