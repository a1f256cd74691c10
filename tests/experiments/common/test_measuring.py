"""How draws are cut into chunks."""

import pytest

from experiments.common import measuring


def test_the_number_of_chunks_is_the_largest_that_divides_the_draws():
    assert measuring.number_of_chunks(1000, 20) == 20
    assert measuring.number_of_chunks(990, 20) == 18
    assert measuring.number_of_chunks(20, 50) == 10


def test_draws_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 10 equal chunks; take 110"):
        measuring.number_of_chunks(101, 10)
