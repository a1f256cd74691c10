"""Set-up of the tests of the commands."""

import pytest

from experiments.common import optimizers, plots


@pytest.fixture(autouse=True)
def _forgets_functions_of_flags():
    """Takes back what flags such as --optimizer=module:function add to the table."""
    yield
    for name in [name for name in optimizers.OPTIMIZERS if ":" in name]:
        del optimizers.OPTIMIZERS[name]


@pytest.fixture
def undrawn(monkeypatch):
    """No picture is written: other tests of the command look at its pictures."""
    monkeypatch.setattr(plots, "save", lambda figure, path: [])
