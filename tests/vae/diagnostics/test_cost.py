"""The cost of a gradient estimate: evaluations of f, FLOP and time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from vae import diagnostics, distributions
from vae.estimators import BY_NAME, Estimator, LogJoint, log_mean_exp, mean, stateless
from vae.estimators.parts import counting


def test_evaluations_count_samples_not_calls():
    q = distributions.Normal(jnp.zeros((3, 2)), jnp.zeros((3, 2)))

    def count(estimator: Estimator, reduce):
        bound = lambda params, data, expect: expect(q, lambda z: -jnp.sum(z**2, axis=-1), reduce, log_q_weight=1.0)
        return diagnostics.evaluations(bound, estimator, jax.random.key(0), params={})

    assert count(BY_NAME["reparam"].make(num_samples=5), mean) == 5
    assert count(BY_NAME["dreg"].make(num_samples=5), log_mean_exp) == 5  # a second call at the same z
    assert count(BY_NAME["exact"].make(order=7), mean) == 49

    def twice(key, q, f, reduce, log_q_weight):
        first, second = jax.random.split(key)
        return reduce(f(q.sample(first, 2))) - reduce(f(q.sample(second, 3)))

    assert count(stateless(twice), mean) == 5


def test_the_prior_stays_apart_while_evaluations_are_counted():
    """gdreg is another estimator where it cannot see the prior."""
    q = distributions.Normal(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    f = LogJoint(lambda z: -jnp.sum(z**2, axis=-1), q)
    seen = []

    def estimate(watch, key):
        seen.append(watch(f))
        return seen[-1](q.sample(key, 5))

    assert counting.count_evaluations(estimate, jax.random.key(0)) == 5
    assert all(isinstance(one, LogJoint) and one.prior is q for one in seen)


def test_coinciding_discrete_samples_count():
    q = distributions.Bernoulli(jnp.full((1,), 8.0))
    f = lambda z: jnp.sum(z, axis=-1)
    estimator = BY_NAME["leave_one_out"].make(num_samples=6)
    bound = lambda params, data, expect: expect(q, f)
    assert diagnostics.evaluations(bound, estimator, jax.random.key(0), params={}) == 6


def test_no_sample_leaves_the_program_that_counts(monkeypatch):
    """On one CPU core, jax waits forever for a large argument of a callback while another program runs
    (github.com/jax-ml/jax/issues/24255)."""
    sizes = []
    callback = jax.debug.callback

    def recording(function, *args):
        sizes.extend(leaf.size for leaf in jax.tree.leaves(args))
        callback(function, *args)

    monkeypatch.setattr(jax.debug, "callback", recording)
    q = distributions.Bernoulli(jnp.zeros((50, 200)))
    bound = lambda params, data, expect: expect(q, lambda z: jnp.sum(z, axis=-1))
    assert diagnostics.evaluations(bound, BY_NAME["bitflip"].make(), jax.random.key(0), params={}) == 2
    assert sizes
    assert max(sizes) <= 2


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int8, bool])
def test_samples_with_one_fingerprint_are_equal(dtype):
    bits = np.random.default_rng(0).integers(0, 2, (3, 40)).astype(dtype)
    other, moved = bits.copy(), np.roll(bits, 1, axis=1)
    other[1, 7] = 1 - other[1, 7].astype(int)
    first, again, *others = jax.jit(jax.vmap(counting._fingerprint))(np.stack([bits, bits, other, moved, 0 * bits]))
    np.testing.assert_array_equal(first, again)
    assert len({tuple(each.tolist()) for each in (first, *others)}) == 4


def test_flops_of_a_loop_count_all_its_rounds():
    weight = jnp.ones((32, 32))

    def looped(x):
        return jax.lax.map(lambda row: jax.lax.scan(lambda c, _: (c @ weight, None), row, None, 5)[0], x)

    assert diagnostics.flops(looped, jnp.ones((7, 3, 32))) == pytest.approx(7 * 5 * 2 * 3 * 32 * 32, rel=0.05)


def test_flops_of_a_matrix_product():
    assert diagnostics.flops(jnp.dot, jnp.ones((64, 32)), jnp.ones((32, 16))) == pytest.approx(
        2 * 64 * 32 * 16, rel=0.01
    )


def test_interleaved_seconds_times_every_program_in_every_round():
    calls = []
    seconds = diagnostics.interleaved_seconds([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert seconds.shape == (2, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"


def test_a_program_without_flop_counts_zero(monkeypatch):
    """Some versions of XLA leave the key out, others say -1."""
    assert diagnostics.flops(lambda x: x[::-1], jnp.ones(3)) == 0
    monkeypatch.setattr(jax.stages.Compiled, "cost_analysis", lambda self: {"bytes accessed": 24.0})
    assert diagnostics.flops(jnp.dot, jnp.ones(3), jnp.ones(3)) == 0


def test_calls_of_the_host_are_found_wherever_they_are():
    z = jnp.ones((4, 3))
    row = jax.ShapeDtypeStruct((4,), jnp.float32)
    pure = lambda z: jax.pure_callback(lambda z: np.sum(z, axis=-1), row, z)
    effect = lambda z: io_callback(lambda z: np.sum(z, axis=-1), row, z)
    looped = lambda z: jax.lax.scan(lambda total, _: (total + jax.jit(pure)(z), None), jnp.zeros(4), None, 3)[0]

    assert diagnostics.host_calls(pure, z) == (("pure_callback",), False)
    assert diagnostics.host_calls(looped, z) == (("pure_callback",), False)
    assert diagnostics.host_calls(lambda z: (effect(z), pure(z)), z).names == ("io_callback", "pure_callback")
    assert diagnostics.host_calls(jnp.sum, z) == ((), True)
    assert diagnostics.host_calls(lambda z: jax.debug.print("{}", z), z) == ((), True)


def test_a_call_of_the_host_with_a_derivative_of_its_own_can_be_differentiated():
    half = jnp.asarray(0.5)
    outside = lambda z: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(z.shape, z.dtype), z)
    sine = jax.custom_jvp(outside)
    sine.defjvp(lambda primals, tangents: (sine(*primals), jnp.cos(primals[0]) * tangents[0]))

    assert diagnostics.host_calls(sine, half) == (("pure_callback",), True)
    assert jax.grad(sine)(half) == jnp.cos(half)
    assert diagnostics.host_calls(lambda z: sine(z) + outside(z), half) == (("pure_callback",), False)
