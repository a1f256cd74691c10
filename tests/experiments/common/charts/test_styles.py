"""The look of an estimator is the same in all figures."""

from experiments.common.charts.styles import FAMILIES, NUMBER_OF_COLOURS, styles
from experiments.common.plots.style import COLOURS, look
from vae import estimators


def test_every_estimator_of_the_table_has_a_family_and_a_look_of_its_own():
    assert sorted(name for family in FAMILIES for name in family) == sorted(estimators.BY_NAME)
    looks = [look(style) for style in styles(estimators.BY_NAME).values()]
    assert len({(one.colour, one.marker) for one in looks}) == len(looks)
    assert len(COLOURS) == NUMBER_OF_COLOURS


def test_an_estimator_looks_alike_beside_any_others():
    first = styles(["stl", "disarm, learning_rate=0.1"])
    second = styles(["disarm:by_layer=true", "mine", "stl (not finite)"])
    assert first["stl"] == second["stl (not finite)"]
    assert first["disarm, learning_rate=0.1"] == second["disarm:by_layer=true"]
    assert look(second["mine"]).colour == COLOURS[-1]


def test_labels_with_the_same_estimator_or_with_none_are_told_apart_by_their_order():
    assert styles(["stl, K=1", "stl, K=2", "dreg"]) == {"stl, K=1": 0, "stl, K=2": 1, "dreg": 2}
    assert styles(["learning_rate=0.1", "learning_rate=0.2"]) == {"learning_rate=0.1": 0, "learning_rate=0.2": 1}
    assert list(styles(["mine", "stl", "yours"]).values()) == [6, 7, 13]
