"""The contract over every entry of the table: gradients against oracles, and the structure of every estimate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.helpers.contract_cases import (
    CORE,
    OF_EACH_KIND,
    SCORE,
    WITNESSES,
    assert_same,
    cases,
    is_zero,
    jacobians,
    setting,
    vr_iwae,
    witness,
)
from tests.helpers.problems import (
    LOG_Q_WEIGHT,
    MAX_Z,
    REDUCE,
    assert_unbiased,
    differentiate_exactly,
    gradient_program,
    make_estimator,
    measure,
    oracle,
    problem,
    trained,
)
from vae.distributions import Bernoulli, Categorical, Normal
from vae.estimators import (
    BY_NAME,
    Reduction,
)


@pytest.mark.parametrize(("name", "family", "bound"), cases())
def test_value_and_gradients_are_unbiased(name, family, bound):
    estimator, num_samples = make_estimator(name, bound)
    assert_unbiased(estimator, problem(family), REDUCE[bound], oracle(family, bound, num_samples))


@pytest.mark.parametrize(("name", "family", "bound"), cases(CORE, biased=True))
def test_an_entry_that_says_biased_is_so_on_a_cubic(name, family, bound):
    estimator, num_samples = make_estimator(name, bound)
    exact = oracle(family, bound, num_samples, "cubic")
    report = measure(estimator, problem(family, "cubic"), REDUCE[bound], exact)
    assert report.max_abs_z["phi"] > MAX_Z, f"no bias seen: {report}"


@pytest.mark.parametrize(("name", "family"), [("dreg", "Normal"), ("leave_one_out", "Bernoulli")])
def test_the_vr_iwae_bound_is_unbiased(name, family):
    reduce = vr_iwae(0.3)
    exact = differentiate_exactly(problem(family), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem(family), reduce, exact)


def test_the_compiler_is_right():
    """jaxlib 0.10.2 sums a vmapped product wrongly on CPUs, beyond some length (github.com/jax-ml/jax/issues/39103). No
    Monte Carlo gradient on this page can be trusted where this fails."""
    x = jnp.stack([jnp.arange(32_769.0)] + 2 * [jnp.zeros(32_769)], axis=1)
    total = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3) @ row))))(x)
    np.testing.assert_allclose(total, np.square(np.arange(32_769.0)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_gradients_jitted_are_gradients_op_by_op(name, family, bound):
    s = setting(name, family, bound)
    args = (s.problem.phi, s.problem.theta, jax.random.key(5))
    eager = gradient_program(s.estimator, s.problem, s.reduce, s.params, s.state)(*args)
    assert_same(s.run(*args), eager)


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_key_is_the_only_randomness_and_two_calls_compile_once(name, family, bound):
    s = setting(name, family, bound)
    first, again, other = (s.run(s.problem.phi, s.problem.theta, jax.random.key(seed)) for seed in (5, 5, 6))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (name == "exact") == is_zero(jax.tree.map(jnp.subtract, first, other))
    assert len(s.traces) == 1


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_vmap_over_problems_is_a_loop(name, family, bound):
    s = setting(name, family, bound)
    keys = jax.random.split(jax.random.key(7), 3)
    moved = lambda tree: jax.tree.map(lambda leaf: np.stack([leaf, 0.8 * leaf, 0.9 * leaf - 0.01]), tree)
    phis, thetas = moved(s.problem.phi), moved(s.problem.theta)
    together = jax.jit(jax.vmap(s.run))(phis, thetas, keys)
    alone = [
        s.run(jax.tree.map(lambda leaf: leaf[i], phis), jax.tree.map(lambda leaf: leaf[i], thetas), keys[i])  # noqa: B023
        for i in range(3)
    ]
    assert_same(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_layout_of_the_batch_changes_nothing(name, family, bound):
    """Batches (), (B,), (A, B): the same key gives the same draws, values and gradients."""
    s = setting(name, family, bound)
    toys = {shape: s.problem.with_batch(*shape) for shape in [(), (1,), (1, 2)]}

    @jax.jit  # one program for all three: most of what it takes is its compilation
    def run(args, key):
        programs = [gradient_program(s.estimator, toy, s.reduce, s.params, s.state) for toy in toys.values()]
        return [program(*arg, key) for program, arg in zip(programs, args, strict=True)]

    found = dict(zip(toys, run([(toy.phi, toy.theta) for toy in toys.values()], jax.random.key(5)), strict=True))
    found[2,] = s.run(s.problem.phi, s.problem.theta, jax.random.key(5))
    for shape, ((_, value), _) in found.items():
        assert value.shape == shape
    flat = {shape: [np.ravel(leaf) for leaf in jax.tree.leaves((v, grads))] for shape, ((_, v), grads) in found.items()}
    assert_same(flat[()], flat[1,])
    assert_same(flat[1, 2], flat[2,])


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_no_datum_sees_another(name, family, bound):
    """The Jacobian of value[b] in q and x of datum b' is zero: the gradient of a batch is the sum of its data's."""
    s, (_, (_, in_phi, in_theta)) = setting(name, family, bound), jacobians(name, family, bound)
    jacobian = in_phi, in_theta["x"]
    for leaf in jax.tree.leaves(jacobian):  # [value b, datum b', ...]
        assert is_zero((leaf[0, 1], leaf[1, 0]))
    (_, _), (phi, theta) = s.run(s.problem.phi, s.problem.theta, jax.random.key(5))
    own = jax.tree.map(lambda leaf: jnp.stack([leaf[0, 0], leaf[1, 1]]), jacobian)
    assert_same(own, (phi, theta["x"]))


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_model_and_control_variate_gradients_do_not_mix(name, family, bound):
    """cv_loss reaches the estimator's own params alone, and the value reaches all but these."""
    of_loss, of_value = jacobians(name, family, bound)
    assert is_zero(of_loss[1:])
    assert is_zero(of_value[0])
    assert not is_zero(of_value[1])
    assert not is_zero(of_value[2])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_loss[0])), "a param that cv_loss does not teach"


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_value_op_by_op_is_the_jitted_one_and_the_reduced_f(name, family, bound):
    s = setting(name, family, bound)
    evaluations = []
    q = s.problem.posterior(s.problem.phi)

    def spy(z):
        evaluations.append(s.problem.log_weight(s.problem.theta, z, q))
        return s.problem.log_joint(s.problem.theta, z)

    key, context = jax.random.key(5), s.problem.theta["x"]
    value = s.estimator.estimate(s.params, s.state, key, q, spy, s.reduce, LOG_Q_WEIGHT, context).value
    (_, jitted), _ = s.run(s.problem.phi, s.problem.theta, jax.random.key(5))
    assert_same(value, jitted)
    # Never a surrogate. A weighted sum, or an f inside a transformation, is left to the contract test.
    seen = [values for values in evaluations if not isinstance(values, jax.core.Tracer)]
    candidates = [s.reduce(values) for values in [*seen, jnp.concatenate(seen)]] if seen else []
    if name != "exact" and candidates:
        assert any(np.allclose(value, candidate, rtol=1e-5) for candidate in candidates)


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_state_passes_through_jit(name, family, bound):
    s = setting(name, family, bound)
    q, f = s.problem.posterior(s.problem.phi), s.problem.integrand(s.problem.theta)
    params, state = jax.jit(s.estimator.init)(jax.random.key(2), q, s.problem.theta["x"])
    context = s.problem.theta["x"]
    step = lambda state, key: s.estimator.estimate(params, state, key, q, f, s.reduce, LOG_Q_WEIGHT, context).state
    jitted, eager = state, state
    for key in jax.random.split(jax.random.key(3), 2):
        jitted, eager = jax.jit(step)(jitted, key), step(eager, key)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jitted) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert_same(jitted, eager)
    if name in ("reinforce_ema", "nvil"):
        assert int(jitted["count"]) == 2


@pytest.mark.parametrize(("name", "family", "bound"), OF_EACH_KIND)
def test_sharded_over_two_devices_is_one_device(name, family, bound):
    s = setting(name, family, bound)
    if len(jax.devices()) < 2:
        pytest.skip("one device only; tests/conftest.py makes eight of a CPU")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    theta = {name: jax.device_put(leaf, split if name == "x" else whole) for name, leaf in s.problem.theta.items()}
    phi = jax.device_put(s.problem.phi, split)
    key = jax.random.key(5)
    program = jax.jit(gradient_program(s.estimator, s.problem, s.reduce, s.params, s.state))
    sharded = program(phi, theta, jax.device_put(key, whole))
    assert {shard.data.shape[0] for shard in _shards(phi)} == {1}
    assert_same(jax.device_get(sharded), jax.device_get(s.run(s.problem.phi, s.problem.theta, key)))


def _shards(phi):
    return [shard for leaf in jax.tree.leaves(phi) for shard in leaf.addressable_shards]


_EXTREME = {
    "Normal": Normal(np.float32([[0.5, -1.0], [1.0, 0.3]]), np.float32([[30.0, -30.0], [-30.0, 30.0]])),
    "Bernoulli": Bernoulli(np.float32([[50.0, -50.0], [-50.0, 0.5]])),
    "Categorical": Categorical(np.float32([[[50.0, -50.0, 0.0]] * 2, [[-50.0, 0.0, 0.5]] * 2])),
}


def _extreme_cases():
    for case in [*cases(CORE), *cases(CORE, biased=True)]:
        name, _, bound = case.values
        slow = bool(case.marks) or bound != BY_NAME[name].reductions[-1]
        yield pytest.param(*case.values, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("name", "family", "bound"),
    [*_extreme_cases(), ("exact", "Normal", "log_mean_exp"), ("exact", "Bernoulli", "log_mean_exp")],
)
def test_extremes_of_float32_stay_finite(name, family, bound):
    """Log-variances of +-30, logits of +-50, f from -1e4 to 1e4."""
    estimator, num_samples = make_estimator(name, bound)
    toy = problem(family)._replace(phi=_EXTREME[family])
    steep = lambda theta, z: 1e4 * jnp.sin(_sum_event(z, theta["x"]) + theta["bias"][0]) + jnp.sum(theta["x"], -1)
    toy = toy._replace(log_joint=steep)
    params, state = trained(estimator, toy, REDUCE[bound])
    program = gradient_program(estimator, toy, REDUCE[bound], params, state)
    keys = jax.random.split(jax.random.key(1), 1 if name == "exact" else 64)
    everything = jax.jit(jax.vmap(functools.partial(program, toy.phi, toy.theta)))(keys)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((everything, state)))


def _sum_event(z, x):
    return jnp.sum(z.reshape(z.shape[0], *x.shape[:-1], -1), axis=-1)


@pytest.mark.parametrize("name", SCORE)
def test_a_score_gradient_does_not_look_inside_f(name):
    """An f without any derivative in z gives the same gradient."""
    s = setting(name, *witness(name))
    f = s.problem.integrand(s.problem.theta)
    opaque = lambda z: stop_gradient(f(stop_gradient(z)))

    def value(phi, f):
        q, key, context = s.problem.posterior(phi), jax.random.key(5), s.problem.theta["x"]
        return jnp.sum(s.estimator.estimate(s.params, s.state, key, q, f, s.reduce, LOG_Q_WEIGHT, context).value)

    seen, unseen = jax.jit(lambda phi: [jax.grad(value)(phi, each) for each in (f, opaque)])(s.problem.phi)
    assert_same(unseen, seen, tolerance=1e-6)
    assert not is_zero(seen)


@pytest.mark.parametrize("name", ["leave_one_out", "disarm"])
def test_any_reduce_is_unbiased_also_one_that_no_shift_passes(name):
    """Like a chi-square bound: the mean of a convex function of f."""
    reduce = Reduction(lambda values: jnp.mean(jnp.square(values), axis=0), name="mean_square")
    exact = differentiate_exactly(problem("Bernoulli"), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem("Bernoulli"), reduce, exact)
