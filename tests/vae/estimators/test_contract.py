"""Every entry of the table obeys the contract: its gradients agree with oracles, and its estimates have the right
structure."""

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
from tests.helpers.oracle import (
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
def test_an_entry_marked_biased_is_biased_on_a_cubic(name, family, bound):
    estimator, num_samples = make_estimator(name, bound)
    exact = oracle(family, bound, num_samples, "cubic")
    report = measure(estimator, problem(family, "cubic"), REDUCE[bound], exact)
    assert report.max_abs_z["phi"] > MAX_Z, f"found no bias: {report}"


@pytest.mark.parametrize(("name", "family"), [("dreg", "Normal"), ("leave_one_out", "Bernoulli")])
def test_the_vr_iwae_bound_is_unbiased(name, family):
    reduce = vr_iwae(0.3)
    exact = differentiate_exactly(problem(family), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem(family), reduce, exact)


def test_the_compiler_sums_vmapped_products_right():
    """On CPUs, jaxlib 0.10.2 sums long vmapped products wrongly (github.com/jax-ml/jax/issues/39103). If this test
    fails, no Monte Carlo test in this folder can be trusted."""
    x = jnp.stack([jnp.arange(32_769.0)] + 2 * [jnp.zeros(32_769)], axis=1)
    total = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3) @ row))))(x)
    np.testing.assert_allclose(total, np.square(np.arange(32_769.0)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_jitted_gradients_equal_eager_gradients(name, family, bound):
    case = setting(name, family, bound)
    args = (case.problem.phi, case.problem.theta, jax.random.key(5))
    eager = gradient_program(case.estimator, case.problem, case.reduce, case.params, case.state)(*args)
    assert_same(case.run(*args), eager)


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_key_is_the_only_randomness_and_two_calls_compile_once(name, family, bound):
    case = setting(name, family, bound)
    first, again, other = (case.run(case.problem.phi, case.problem.theta, jax.random.key(seed)) for seed in (5, 5, 6))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (name == "exact") == is_zero(jax.tree.map(jnp.subtract, first, other))
    assert len(case.traces) == 1


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_vmap_over_problems_equals_a_loop(name, family, bound):
    case = setting(name, family, bound)
    keys = jax.random.split(jax.random.key(7), 3)
    moved = lambda tree: jax.tree.map(lambda leaf: np.stack([leaf, 0.8 * leaf, 0.9 * leaf - 0.01]), tree)
    phis, thetas = moved(case.problem.phi), moved(case.problem.theta)
    together = jax.jit(jax.vmap(case.run))(phis, thetas, keys)
    alone = [
        case.run(jax.tree.map(lambda leaf: leaf[i], phis), jax.tree.map(lambda leaf: leaf[i], thetas), keys[i])  # noqa: B023
        for i in range(3)
    ]
    assert_same(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_layout_of_the_batch_changes_nothing(name, family, bound):
    """For batch shapes (), (B,) and (A, B), the same key gives the same draws, values and gradients."""
    case = setting(name, family, bound)
    toys = {shape: case.problem.with_batch(*shape) for shape in [(), (1,), (1, 2)]}

    @jax.jit  # one program for all three shapes, because compilation takes most of the time
    def run(args, key):
        programs = [
            gradient_program(case.estimator, toy, case.reduce, case.params, case.state) for toy in toys.values()
        ]
        return [program(*arg, key) for program, arg in zip(programs, args, strict=True)]

    results = dict(zip(toys, run([(toy.phi, toy.theta) for toy in toys.values()], jax.random.key(5)), strict=True))
    results[2,] = case.run(case.problem.phi, case.problem.theta, jax.random.key(5))
    for shape, ((_, value), _) in results.items():
        assert value.shape == shape
    flat = {
        shape: [np.ravel(leaf) for leaf in jax.tree.leaves((v, grads))] for shape, ((_, v), grads) in results.items()
    }
    assert_same(flat[()], flat[1,])
    assert_same(flat[1, 2], flat[2,])


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_gradient_of_a_datum_does_not_depend_on_other_data(name, family, bound):
    """The Jacobian of value[b] in q and x of another datum is zero, so the gradient of a batch is a sum over data."""
    case, (_, (_, in_phi, in_theta)) = setting(name, family, bound), jacobians(name, family, bound)
    jacobian = in_phi, in_theta["x"]
    for leaf in jax.tree.leaves(jacobian):  # [value b, datum b', ...]
        assert is_zero((leaf[0, 1], leaf[1, 0]))
    (_, _), (phi, theta) = case.run(case.problem.phi, case.problem.theta, jax.random.key(5))
    own = jax.tree.map(lambda leaf: jnp.stack([leaf[0, 0], leaf[1, 1]]), jacobian)
    assert_same(own, (phi, theta["x"]))


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_model_and_control_variate_gradients_do_not_mix(name, family, bound):
    """cv_loss has derivatives only in the estimator's own params, and the value has none in these params."""
    loss_jacobian, value_jacobian = jacobians(name, family, bound)
    assert is_zero(loss_jacobian[1:])
    assert is_zero(value_jacobian[0])
    assert not is_zero(value_jacobian[1])
    assert not is_zero(value_jacobian[2])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(loss_jacobian[0])), "cv_loss does not train one of the params"


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_value_is_the_reduced_f_with_and_without_jit(name, family, bound):
    case = setting(name, family, bound)
    evaluations = []
    q = case.problem.posterior(case.problem.phi)

    def spy(z):
        evaluations.append(case.problem.log_weight(case.problem.theta, z, q))
        return case.problem.log_joint(case.problem.theta, z)

    key, context = jax.random.key(5), case.problem.theta["x"]
    value = case.estimator.estimate(case.params, case.state, key, q, spy, case.reduce, LOG_Q_WEIGHT, context).value
    (_, jitted), _ = case.run(case.problem.phi, case.problem.theta, jax.random.key(5))
    assert_same(value, jitted)
    # The value must be reduced values of f, never a surrogate. This check covers estimators that call f outside of jax
    # transformations; `test_value_and_gradients_are_unbiased` covers the others.
    seen = [values for values in evaluations if not isinstance(values, jax.core.Tracer)]
    candidates = [case.reduce(values) for values in [*seen, jnp.concatenate(seen)]] if seen else []
    if name != "exact" and candidates:
        assert any(np.allclose(value, candidate, rtol=1e-5) for candidate in candidates)


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_state_passes_through_jit(name, family, bound):
    case = setting(name, family, bound)
    q, f = case.problem.posterior(case.problem.phi), case.problem.integrand(case.problem.theta)
    params, state = jax.jit(case.estimator.init)(jax.random.key(2), q, case.problem.theta["x"])
    context = case.problem.theta["x"]
    step = lambda state, key: (
        case.estimator.estimate(params, state, key, q, f, case.reduce, LOG_Q_WEIGHT, context).state
    )
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
def test_two_devices_give_the_result_of_one_device(name, family, bound):
    case = setting(name, family, bound)
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices; tests/conftest.py makes eight out of a CPU")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    theta = {name: jax.device_put(leaf, split if name == "x" else whole) for name, leaf in case.problem.theta.items()}
    phi = jax.device_put(case.problem.phi, split)
    key = jax.random.key(5)
    program = jax.jit(gradient_program(case.estimator, case.problem, case.reduce, case.params, case.state))
    sharded = program(phi, theta, jax.device_put(key, whole))
    assert {shard.data.shape[0] for shard in _shards(phi)} == {1}
    assert_same(jax.device_get(sharded), jax.device_get(case.run(case.problem.phi, case.problem.theta, key)))


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
    """The log-variances are +-30, the logits are +-50, and f ranges from -1e4 to 1e4."""
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
def test_a_score_gradient_needs_no_derivative_of_f(name):
    """The gradient stays the same if f has no derivative in z."""
    case = setting(name, *witness(name))
    f = case.problem.integrand(case.problem.theta)
    opaque = lambda z: stop_gradient(f(stop_gradient(z)))

    def value(phi, f):
        q, key, context = case.problem.posterior(phi), jax.random.key(5), case.problem.theta["x"]
        return jnp.sum(
            case.estimator.estimate(case.params, case.state, key, q, f, case.reduce, LOG_Q_WEIGHT, context).value
        )

    expected, actual = jax.jit(lambda phi: [jax.grad(value)(phi, integrand) for integrand in (f, opaque)])(
        case.problem.phi
    )
    assert_same(actual, expected, tolerance=1e-6)
    assert not is_zero(expected)


@pytest.mark.parametrize("name", ["leave_one_out", "disarm"])
def test_gradients_are_unbiased_for_a_reduction_that_is_not_shift_equivariant(name):
    """The reduction is the mean of a convex function of f, as in a chi-square bound."""
    reduce = Reduction(lambda values: jnp.mean(jnp.square(values), axis=0), name="mean_square")
    exact = differentiate_exactly(problem("Bernoulli"), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem("Bernoulli"), reduce, exact)
