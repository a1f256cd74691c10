"""A table of factories: names that are taken, names that do not exist, and entries that are no factories."""

import pytest

from vae import data, estimators, models, objectives
from vae.table import Table


def boat(length, /, sails: int = 2, name: str = "", crew: tuple = (), *, keel: bool = True, **others):
    return length, sails, name, crew, keel, others


@pytest.fixture
def boats():
    return Table("boat", {"sloop": boat, "raft": lambda length: "a raft"}, leading=1, reserved=("name",))


def test_make_calls_the_factory_of_the_name_with_the_options(boats):
    boats.add("canoe", lambda length, seats=1: (length, seats))
    assert (boats.make("raft", 9), boats.make("canoe", 5), boats.make("canoe", 5, seats=3)) == (
        "a raft",
        (5, 1),
        (5, 3),
    )


def test_the_options_are_the_arguments_that_can_be_written_as_text(boats):
    assert boats.options("sloop") == {"sails": 2, "keel": True}
    assert boats.options("raft") == {}


def test_a_name_that_does_not_exist_is_refused_with_a_similar_one_and_all_others(boats):
    for call in (boats.find, boats.make, boats.options):
        with pytest.raises(
            ValueError,
            match=r"there is no boat 'slop' \(did you mean sloop\?\); choose one of sloop, raft, or import the",
        ):
            call("slop")
    with pytest.raises(ValueError, match=r"no boat 'sloop:sails=3' \(in Python, the options of a name are keyword"):
        boats.make("sloop:sails=3")


def test_an_option_that_does_not_exist_is_refused_with_those_that_do(boats):
    boats.add("canoe", lambda length, seats=1, colour="red": (length, seats))
    with pytest.raises(TypeError, match="the boat canoe has no option 'seat'; its options are: seats, colour"):
        boats.make("canoe", 5, seat=3)
    with pytest.raises(TypeError, match="the boat raft has no option 'seat'; its options are: none"):
        boats.make("raft", 5, seat=3)
    assert boats.make("sloop", 5, mast=3)[-1] == {"mast": 3}


def test_a_name_that_is_taken_is_refused(boats):
    with pytest.raises(ValueError, match="the boat raft exists already; choose another name"):
        boats.add("raft", boat)
    assert boats.make("raft", 9) == "a raft"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (lambda length, cars: None, "missing a required argument: 'cars'"),
        (lambda: None, "too many positional arguments"),
        (3, "3 is not a callable object"),
    ],
)
def test_an_entry_is_a_factory_that_works_without_options(entry, reason, boats):
    with pytest.raises(ValueError, match=rf"the boat ferry needs a factory that works without options \({reason}\)"):
        boats.add("ferry", entry)
    assert "ferry" not in boats


@pytest.mark.parametrize(
    ("add", "entry", "sentence"),
    [
        (
            objectives.add,
            objectives.elbo,
            "required argument: 'apply'.*; if this is the objective itself, add a function that returns it",
        ),
        (
            models.add_posterior,
            models.POSTERIORS.make("normal"),
            "not a callable object.*; if this is the posterior itself",
        ),
        (models.add_architecture, models.MLP, "required argument: 'hidden'"),
        (data.add, lambda: None, "the data set mine needs a factory .*too many positional arguments"),
        (
            estimators.add,
            estimators.Entry(lambda samples=1: None),
            "estimator mine needs a factory with the argument num_samples",
        ),
        (estimators.add, estimators.reparam, "estimator mine needs an Entry, such as Entry\\(factory\\), got function"),
        (
            estimators.add,
            estimators.Entry(estimators.reparam, latents=("normal",)),
            r"classes of vae.distributions such as Bernoulli, got \('normal',\)",
        ),
    ],
)
@pytest.mark.usefixtures("restored_tables")
def test_what_is_easily_confused_with_a_factory_is_refused(add, entry, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        add("mine", entry)
