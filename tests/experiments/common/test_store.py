"""A measurement that was cut off goes on with what it had found, and never with what no longer holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import candidates, problems
from experiments.common import store as kept
from experiments.compare_estimators import laboratory

PROTOCOL = laboratory.Protocol(100, 200, "reparam", 10, 20, 5, 0, 0.95, 3)
CASES = [candidates.Case(name, 1, 0, 1, 1e3) for name in ("reparam", "nvil")]
PROBLEM = problems.quadratic()._replace(oracle=lambda objective, num_samples: None)  # so that there is a reference


@pytest.fixture
def laboratory_of(monkeypatch, tmp_path):
    """`measure(problem, protocol, until)`: what is found, and the names of what was measured for that."""
    original, names, limit, stores = laboratory._moments, [], [], []

    def moments(problem, objective, case, protocol, draws, truth, *rest, stream=0):
        names.append("reference" if stream else case.name)
        if case.name in limit:
            raise MemoryError
        return original(problem, objective, case, protocol, draws, truth, *rest, stream=stream)

    def measure(problem=PROBLEM, protocol=PROTOCOL, cases=CASES, until=None):
        names.clear()
        limit[:] = [until]
        stores.append(kept.Store(tmp_path / "kept"))
        found = laboratory.measure_all([problem], "elbo", cases, protocol, stores[-1])
        return [one.figures for one in found], list(names)

    monkeypatch.setattr(laboratory, "summed", lambda *args: None)
    monkeypatch.setattr(laboratory, "_moments", moments)
    measure.stores = stores
    return measure


def test_goes_on_where_it_was_cut_off(laboratory_of, tmp_path):
    with pytest.raises(MemoryError):
        laboratory_of(until="nvil")
    figures, names = laboratory_of()
    assert names == ["nvil"]
    again, names = laboratory_of()
    assert names == []
    np.testing.assert_equal(again, figures)
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")  # a damaged file is not there
    again, names = laboratory_of()
    assert names == ["reference", "reparam", "nvil"]
    np.testing.assert_equal(again, figures)
    _, second, third, fourth = [store.earlier_seconds for store in laboratory_of.stores]
    assert third > second > fourth == 0  # seconds of all that was found, whenever it was


def test_what_no_longer_holds_is_measured_again(laboratory_of):
    measure = lambda *args, **options: len(laboratory_of(*args, cases=CASES[:1], **options)[1])
    assert measure() == 2  # the reference and one estimator
    params = {"phi": PROBLEM.params["phi"] | {"mean": jnp.array([1.5])}}
    steeper = lambda params, data, expect: PROBLEM.bounds["elbo"](params, 2 * data, expect)
    assert measure(PROBLEM._replace(params=params)) == 2
    assert measure(PROBLEM._replace(data=jnp.array(-2.0))) == 2
    assert measure(PROBLEM._replace(bounds={"elbo": steeper})) == 2
    assert measure(protocol=PROTOCOL._replace(draws=200)) == 2
    assert measure(protocol=PROTOCOL._replace(rounds=9, confidence=0.9)) == 0


def test_digest_sees_code_values_and_constants():
    held = np.float32([1.0, 2.0])
    digest = lambda function, *args: kept.digest_of(function, *args)
    known = digest(lambda x: jnp.sum(x * held), jnp.ones(2))
    assert digest(lambda x: jnp.sum(x * held), jnp.ones(2)) == known
    others = [
        digest(lambda x: jnp.sum(x + held), jnp.ones(2)),
        digest(lambda x: jnp.sum(x * held), jnp.zeros(2)),
        digest(lambda x: jnp.sum(x * (held + 1)), jnp.ones(2)),
        digest(lambda x, key: jnp.sum(x * held), jnp.ones(2), jax.random.key(0)),
        kept.digest_of(lambda x: jnp.sum(x * held), jnp.ones(2), of=(1,)),
    ]
    assert len({known, *others}) == 6
