"""The page explains its words, and names good values only for the same data set and network."""

import re
from pathlib import Path

from experiments.common import results
from experiments.common.settings import Settings
from experiments.report import words
from tests.helpers.report_pages import make_page
from tests.helpers.written_workdirs import write_run

ROOT = Path(__file__).parents[3]
SOURCES = ("README.md", "scripts/README.md", "experiments/train/RESULTS.md", "scripts/reproduce_iwae.sh")


def test_every_figure_of_a_table_is_explained_in_one_line():
    meanings = [figure.meaning for figure in (results.FIGURES | results.COSTS).values()]
    assert 0 < min(map(len, meanings))
    assert max(map(len, [*meanings, *words.LABORATORY.values()])) < 135


def test_the_words_stand_on_the_page(tmp_path, measured):
    write_run(tmp_path, Settings())
    page = make_page(tmp_path)
    assert results.FIGURES["test_rate_nats"].meaning in page.text
    assert results.FIGURES["test_bits_per_dim"].meaning not in page.text  # the table has no such column
    header = [text for text, _ in measured[1].tables["estimators phi"][0]]
    assert set(words.LABORATORY) <= set(header)


def test_good_values_are_those_of_the_same_data_and_network():
    [default] = words.known_values([Settings(), Settings(seed=3, estimator="stl", epochs=5)])
    assert default.startswith("digits, 128-64-8:")
    for other in (Settings(hidden=(128,)), Settings(dataset="mnist"), Settings(binarization="static")):
        assert words.known_values([other]) == []


def test_every_good_value_stands_in_a_document():
    documents = " ".join((ROOT / name).read_text() for name in SOURCES)
    for known in words.KNOWN:
        numbers = re.findall(r"(?<![\d.:])\d+\.\d{2}(?!\d)", known.text)
        assert len(numbers) > 1
        assert [number for number in numbers if number not in documents] == []
