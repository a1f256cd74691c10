"""The look of an estimator is the same in all figures."""

from experiments.common.charts.styles import FAMILIES, NUMBER_OF_COLOURS, paper_label, styles
from experiments.common.plots.style import COLOURS, look
from vae import estimators


def test_every_estimator_of_the_table_has_a_family_and_a_look_of_its_own():
    assert sorted(name for family in FAMILIES for name in family) == sorted(estimators.BY_NAME)
    looks = [look(style) for style in styles(estimators.BY_NAME).values()]
    assert len({(one.colour, one.marker) for one in looks}) == len(looks)
    assert len(COLOURS) == NUMBER_OF_COLOURS


def test_an_estimator_looks_alike_beside_any_others():
    first = styles(["stl", "disarm, learning_rate=0.1"])
    second = styles(["elbo, disarm:by_layer=true", "mine", "stl"])
    assert first["stl"] == second["stl"]
    assert first["disarm, learning_rate=0.1"] == second["elbo, disarm:by_layer=true"]
    assert look(second["mine"]).colour == COLOURS[-1]


def test_estimators_in_no_family_have_colours_that_are_free():
    looks = styles(["mine", "stl", "yours", "theirs"])
    assert looks == {"mine": 6, "stl": 7, "yours": 1, "theirs": 2}
    many = styles(["stl", *(f"mine{number}" for number in range(12))])
    assert len(set(many.values())) == 13


def test_the_labels_of_an_estimator_share_a_colour_whatever_their_order():
    labels = [
        f"{name}, learning_rate={rate}" for rate in (0.1, 0.01) for name in ("rebar", "disarm", "reinmax", "relax")
    ]
    looks = styles(labels)
    assert looks == styles(reversed(labels))
    colours = {label: look(style).colour for label, style in looks.items()}
    dashes = {label: look(style).dash for label, style in looks.items()}
    assert len(set(looks.values())) == 8
    assert len(set(colours.values())) == 4  # also where two estimators are of one family
    for name in ("rebar", "disarm", "reinmax", "relax"):
        assert colours[f"{name}, learning_rate=0.1"] == colours[f"{name}, learning_rate=0.01"]
        assert dashes[f"{name}, learning_rate=0.1"] == "--"


def test_equal_settings_have_equal_dashes_and_markers_in_all_colours():
    rates = (0.001, 0.003, 0.01)
    names = ("reinmax", "disarm", "leave_one_out")
    looks = styles(f"{name}, learning_rate={rate}" for name in names for rate in rates)
    for rate, marker, dash in zip(rates, "os^", ("-", "--", ":"), strict=True):
        for name in names:
            assert look(looks[f"{name}, learning_rate={rate}"])[1:] == (dash, marker)
    alone = [look(style).marker for style in styles(names, own_colours=True).values()]
    assert len(set(alone)) == 3  # without other settings, markers help to tell the estimators apart


def test_an_estimator_has_the_same_colour_beside_the_same_others_with_one_label_and_with_several():
    names = ["stl", "leave_one_out", "reparam"]
    several = styles(f"{name}, K={samples}" for name in names for samples in (1, 2))
    for name, style in styles(names, own_colours=True).items():
        assert look(style).colour == look(several[f"{name}, K=1"]).colour == look(several[f"{name}, K=2"]).colour
    assert look(styles(names)["stl"]).colour == look(styles(names)["reparam"]).colour  # the colour of the family


def test_every_label_has_a_look_of_its_own_where_colours_are_few():
    labels = [f"{name}, K={samples}" for name in list(estimators.BY_NAME)[:12] for samples in (1, 2)]
    assert len(set(styles(labels).values())) == 24


def test_labels_without_an_estimator_are_told_apart_by_their_order():
    assert styles(["learning_rate=0.1", "learning_rate=0.2"]) == {"learning_rate=0.1": 0, "learning_rate=0.2": 1}
    assert styles(["", "-1"]) == {"": 0, "-1": 1}


def test_labels_in_figures_have_the_names_of_papers():
    assert paper_label("elbo, leave_one_out, learning_rate=0.01") == "elbo, RLOO, learning_rate=0.01"
    assert paper_label("gumbel_softmax:temperature=0.3, K=4") == "Gumbel-Softmax, temperature 0.3, K=4"
    assert paper_label("reinmax, learning_rate=0.01", star=True) == "ReinMax *, learning_rate=0.01"
    assert paper_label("elbo, disarm, K=4", star=True) == "elbo, DisARM, K=4"
    assert paper_label("mine:a=1:a=2, learning_rate=0.1") == "mine:a=1:a=2, learning_rate=0.1"
