"""An interrupted measurement continues with what was measured, and never with a result that is out of date."""

import jax
import numpy as np
import pytest

from experiments.common import problems, store
from experiments.common.candidates import Case
from experiments.common.measuring import Protocol
from experiments.common.task import Task
from experiments.compare_estimators import measure_all, truth

PROTOCOL = Protocol(100, 200, "reparam", 10, 20, 5, 0, 0.95, 3)
CASES = [Case(name, 1, 0, 1, 1e3) for name in ("reparam", "nvil")]
# Without an oracle, so that there is a reference.
PROBLEM = problems.make("quadratic")._replace(oracle=lambda objective, num_samples: None)


@pytest.fixture
def laboratory(monkeypatch, tmp_path):
    return Laboratory(monkeypatch, tmp_path / "store")


class Laboratory:
    """Measures with stores in one folder, and notes the names of what was measured anew."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.measured, self.fails_at, self.stores = folder, [], None, []
        monkeypatch.setattr(truth, "sum_or_quadrature", lambda *args: None)
        monkeypatch.setattr(truth, "draw_moments", self._noted("reference", truth.draw_moments))
        monkeypatch.setattr(measure_all, "measure", self._noted(None, measure_all.measure))

    def _noted(self, name, original):
        def call(task, case, *rest):
            self.measured.append(name or case.estimator)
            if case.estimator == self.fails_at:
                raise MemoryError
            return original(task, case, *rest)

        return call

    def measure(self, problem=PROBLEM, protocol=PROTOCOL, cases=CASES):
        self.measured.clear()
        self.stores.append(store.Store(self.folder))
        results = measure_all.measure_all([Task(problem, "elbo")], cases, protocol, self.stores[-1])
        return [result.figures for result in results]


def test_an_interrupted_measurement_continues(laboratory):
    laboratory.fails_at = "nvil"
    with pytest.raises(MemoryError):
        laboratory.measure()
    laboratory.fails_at = None
    figures = laboratory.measure()
    assert laboratory.measured == ["nvil"]
    np.testing.assert_equal(laboratory.measure(), figures)
    assert laboratory.measured == []


def test_a_damaged_file_counts_as_missing(laboratory):
    figures = laboratory.measure()
    for path in laboratory.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    np.testing.assert_equal(laboratory.measure(), figures)
    assert laboratory.measured == ["reference", "reparam", "nvil"]


def test_earlier_seconds_are_of_results_that_were_read(laboratory):
    laboratory.measure(cases=CASES[:1])
    laboratory.measure()
    laboratory.measure()
    first, second, third = [one.earlier_seconds for one in laboratory.stores]
    assert third > second > first == 0


def test_a_result_that_is_out_of_date_is_measured_again(laboratory):
    def count(problem=PROBLEM, protocol=PROTOCOL):
        laboratory.measure(problem, protocol, CASES[:1])
        return len(laboratory.measured)

    assert count() == 2  # the reference and one estimator
    assert count() == 0
    assert count(PROBLEM._replace(identity="quadratic:cost_parameter=1.5")) == 2
    assert count(protocol=PROTOCOL._replace(draws=200)) == 2
    assert count(protocol=PROTOCOL._replace(seed=1)) == 2
    assert count(protocol=PROTOCOL._replace(rounds=9, confidence=0.9)) == 0


def test_a_problem_without_an_identity_is_always_measured_again(laboratory):
    for _ in range(2):
        laboratory.measure(PROBLEM._replace(identity=None), cases=CASES[:1])
        assert laboratory.measured == ["reference", "reparam"]


def test_the_digest_changes_with_every_dependency(monkeypatch):
    digests = [store.digest(draws=1), store.digest(draws=2), store.digest(draws=1, seed=0)]
    monkeypatch.setattr(store, "code_digest", lambda: "other code")
    digests.append(store.digest(draws=1))
    monkeypatch.setenv("XLA_FLAGS", "")
    digests.append(store.digest(draws=1))
    settings = (
        jax.default_matmul_precision("float32"),
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(not jax.config.jax_threefry_partitionable),
    )
    for setting in settings:
        with setting:
            digests.append(store.digest(draws=1))
    assert len(set(digests)) == 5 + len(settings)


def test_the_seconds_of_all_results_that_are_read_add_up(monkeypatch, tmp_path):
    times = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(store.time, "perf_counter", lambda: next(times))
    for _ in range(2):
        folder = store.Store(tmp_path)
        assert [folder.recall(name, lambda: {"figure": 1.5}) for name in "ab"] == [{"figure": 1.5}] * 2
    assert folder.earlier_seconds == 5.0
