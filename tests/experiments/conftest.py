"""Set-up of the tests of the commands."""

import pytest

from experiments.common import optimizers, packages, plots


@pytest.fixture(autouse=True)
def _forgets_functions_of_flags(monkeypatch):
    """Takes back what flags such as --optimizer=module:function add to this process."""
    monkeypatch.setattr(packages, "_modules_of_flags", {})
    yield
    for name in [name for name in optimizers.OPTIMIZERS if ":" in name]:
        del optimizers.OPTIMIZERS[name]


@pytest.fixture
def undrawn(monkeypatch):
    """No picture is written: other tests of the command look at its pictures."""
    monkeypatch.setattr(plots, "save", lambda figure, path: [])
