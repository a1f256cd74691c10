"""Every entry of the table obeys the contract: its gradients agree with oracles, and its estimates have the right
structure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import DynamicJaxprTracer
from jax.lax import stop_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.helpers.contract_cases import (
    CORE,
    ENTRIES,
    KEY,
    OF_EACH_KIND,
    SCORE,
    WITNESSES,
    assert_same,
    cases,
    is_zero,
    make_case,
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
from vae import objectives
from vae.diagnostics import expectations
from vae.distributions import Bernoulli, Categorical, Normal, Poisson
from vae.estimators import (
    BY_NAME,
    Reduction,
)
from vae.testing import slips


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


def _reduction(objective):
    apply = lambda *args, **options: Bernoulli(jnp.zeros((1, 1)))
    return expectations.record(lambda expect: objective(apply, {}, np.zeros(1), expect))[0].reduce


OTHER_BOUNDS = {"vr_iwae": vr_iwae(0.3), "thermodynamic": _reduction(objectives.thermodynamic(3, first=0.1))}


@pytest.mark.parametrize(
    ("name", "family", "bound"),
    [
        ("dreg", "Normal", "vr_iwae"),
        ("dreg", "Normal", "thermodynamic"),
        ("leave_one_out", "Bernoulli", "vr_iwae"),
        pytest.param("leave_one_out", "Bernoulli", "thermodynamic", marks=pytest.mark.slow),
    ],
)
def test_bounds_of_other_reductions_are_unbiased(name, family, bound):
    exact = differentiate_exactly(problem(family), OTHER_BOUNDS[bound], 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem(family), OTHER_BOUNDS[bound], exact)


@pytest.mark.slow
@pytest.mark.parametrize("bound", OTHER_BOUNDS)
def test_control_the_dreg_weights_of_the_importance_weighted_bound_do_not_fit_other_bounds(bound):
    exact = differentiate_exactly(problem("Normal"), OTHER_BOUNDS[bound], 2)
    with pytest.raises(AssertionError, match="^biased"):
        assert_unbiased(slips.dreg_with_weights(2, 1), problem("Normal"), OTHER_BOUNDS[bound], exact, groups=("phi",))


def test_the_compiler_sums_vmapped_products_right():
    """On CPUs, jaxlib 0.10.2 sums long vmapped products wrongly (github.com/jax-ml/jax/issues/39103). If this test
    fails, no Monte Carlo test in this folder can be trusted."""
    x = jnp.stack([jnp.arange(32_769.0)] + 2 * [jnp.zeros(32_769)], axis=1)
    total = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3) @ row))))(x)
    np.testing.assert_allclose(total, np.square(np.arange(32_769.0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "family", "bound"),
    [
        pytest.param(*case.values, id=case.id, marks=[] if case.id == "disarm" else [pytest.mark.slow])
        for case in WITNESSES
    ],
)
def test_jitted_gradients_equal_those_without_jit(name, family, bound):
    case = make_case(name, family, bound)
    args = (case.problem.phi, case.problem.theta, KEY)
    with jax.disable_jit():
        eager = case.run(*args)
    assert_same(case.run(*args), eager)


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_key_is_the_only_randomness_and_two_calls_compile_once(name, family, bound):
    case = make_case(name, family, bound)
    first = case.run(case.problem.phi, case.problem.theta, KEY)
    compiled = len(case.traces)
    again, other = (case.run(case.problem.phi, case.problem.theta, key) for key in (KEY, jax.random.key(6)))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (name in ("exact", "vq_straight_through", "rotation")) == is_zero(jax.tree.map(np.subtract, first, other))
    assert len(case.traces) == compiled


@pytest.mark.parametrize(("name", "family", "bound"), OF_EACH_KIND)
def test_vmap_over_problems_equals_a_loop(name, family, bound):
    case = make_case(name, family, bound)
    keys = jax.random.split(jax.random.key(7), 3)
    moved = lambda tree: jax.tree.map(lambda leaf: np.stack([leaf, 0.8 * leaf, 0.9 * leaf - 0.01]), tree)
    phis, thetas = moved(case.problem.phi), moved(case.problem.theta)
    together = jax.jit(jax.vmap(case.run))(phis, thetas, keys)
    take = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)
    alone = [case.run(take(phis, i), take(thetas, i), keys[i]) for i in range(3)]
    assert_same(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


@pytest.mark.parametrize(("name", "family", "bound"), OF_EACH_KIND)
def test_two_batch_axes_give_the_numbers_of_one(name, family, bound):
    """The same key gives the same draws, values and gradients."""
    case = make_case(name, family, bound)
    assert_same(*(_flat_results(case, shape) for shape in [(1, 2), (2,)]))


@pytest.mark.parametrize(("name", "family", "bound"), OF_EACH_KIND)
def test_a_datum_without_a_batch_axis_gives_the_numbers_of_a_batch_of_one(name, family, bound):
    case = make_case(name, family, bound)
    assert_same(*(_flat_results(case, shape) for shape in [(), (1,)]))


def _flat_results(case, shape):
    toy = case.problem.with_batch(*shape)
    value, grads = case.run(toy.phi, toy.theta, KEY)
    assert value.shape == shape
    return [np.ravel(leaf) for leaf in jax.tree.leaves((value, grads))]


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_every_shape_of_the_batch_works(name, family, bound):
    case = make_case(name, family, bound)
    for shape in [(), (0,), (2, 3)]:
        toy = case.problem.with_batch(*shape)
        value, grads = jax.eval_shape(case.run, toy.phi, toy.theta, KEY)
        assert value.shape == shape
        assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, [toy.phi, toy.theta])


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_gradient_of_a_datum_does_not_depend_on_other_data(name, family, bound):
    """The gradient of value[b] in q and x of another datum is zero, so the gradient of a batch is a sum over data."""
    case = make_case(name, family, bound)
    for b, weights in enumerate([(1, 0), (0, 1)]):
        _, in_phi, in_theta = case.jacobian_row(value=weights)
        for leaf in jax.tree.leaves((in_phi, in_theta["x"])):  # [B, ...]
            assert not np.any(leaf[1 - b])
            assert np.any(leaf[b])


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_model_and_control_variate_gradients_do_not_mix(name, family, bound):
    """cv_loss has derivatives only in the estimator's own params, and the value has none in these params."""
    case = make_case(name, family, bound)
    in_params, *others = case.jacobian_row(cv_loss=1)
    assert is_zero(others)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(in_params)), "cv_loss does not train one of the params"
    in_params, in_phi, in_theta = case.jacobian_row(value=(1, 1))
    assert is_zero(in_params)
    assert not is_zero(in_phi)
    assert not is_zero(in_theta)


@pytest.mark.parametrize(("name", "family", "bound"), [case for case in OF_EACH_KIND if case.id != "exact"])
def test_the_value_is_the_reduced_f(name, family, bound):
    """The value must be reduced values of f, never a surrogate. This test covers estimators that call f outside of jax
    transformations; `test_value_and_gradients_are_unbiased` covers the others. The value of `exact` is a weighted sum.
    """
    case = make_case(name, family, bound)
    q, context = case.problem.posterior(case.problem.phi), case.problem.theta["x"]

    @jax.jit
    def value_and_evaluations(key):
        seen = []

        def spy(z):
            seen.append(case.problem.log_weight(case.problem.theta, z, q))
            return case.problem.log_joint(case.problem.theta, z)

        estimate = case.estimator.estimate(case.params, case.state, key, q, spy, case.reduce, LOG_Q_WEIGHT, context)
        return estimate.value, [values for values in seen if isinstance(values, DynamicJaxprTracer)]

    value, seen = value_and_evaluations(KEY)
    candidates = [case.reduce(values) for values in [*seen, jnp.concatenate(seen)]]
    assert any(np.allclose(value, candidate, rtol=1e-5) for candidate in candidates)


@pytest.mark.parametrize("name", ["reinforce_ema", "nvil", "reparam_linear_cv"])
def test_state_passes_through_jit(name):
    case = make_case(name, *witness(name))
    q, f = case.problem.posterior(case.problem.phi), case.problem.integrand(case.problem.theta)
    context = case.problem.theta["x"]
    params, state = jax.jit(case.estimator.init)(jax.random.key(2), q, context)
    step = lambda state, key: (
        case.estimator.estimate(params, state, key, q, f, case.reduce, LOG_Q_WEIGHT, context).state
    )
    once = jax.jit(step)(state, jax.random.key(3))
    assert jax.tree.map(jax.typeof, once) == jax.tree.map(jax.typeof, state)
    assert not is_zero(once)
    if name == "reinforce_ema":
        assert_same(once, step(state, jax.random.key(3)))
        assert int(jax.jit(step)(once, jax.random.key(4))["count"]) == 2


def test_only_the_estimators_above_have_a_state():
    stateful = [name for name in ENTRIES if jax.tree.leaves(make_case(name, *witness(name)).state)]
    assert stateful == ["reparam_linear_cv", "reinforce_ema", "nvil"]


@pytest.mark.parametrize(("name", "family", "bound"), OF_EACH_KIND)
def test_two_devices_give_the_result_of_one_device(name, family, bound):
    case = make_case(name, family, bound)
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices; tests/conftest.py makes eight out of a CPU")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    theta = {name: jax.device_put(leaf, split if name == "x" else whole) for name, leaf in case.problem.theta.items()}
    phi = jax.device_put(case.problem.phi, split)
    sharded = case.run(phi, theta, jax.device_put(KEY, whole))
    assert {shard.data.shape[0] for shard in _shards(phi)} == {1}
    assert_same(jax.device_get(sharded), jax.device_get(case.run(case.problem.phi, case.problem.theta, KEY)))


def _shards(phi):
    return [shard for leaf in jax.tree.leaves(phi) for shard in leaf.addressable_shards]


_EXTREME = {
    "Normal": Normal(np.float32([[0.5, -1.0], [1.0, 0.3]]), np.float32([[30.0, -30.0], [-30.0, 30.0]])),
    "Bernoulli": Bernoulli(np.float32([[50.0, -50.0], [-50.0, 0.5]])),
    "Poisson": Poisson(np.float32([[-30.0, 3.0], [2.0, 0.5]])),
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
    case = make_case(name, *witness(name))
    f = case.problem.integrand(case.problem.theta)
    opaque = lambda z: stop_gradient(f(stop_gradient(z)))

    def value(phi):
        q, context = case.problem.posterior(phi), case.problem.theta["x"]
        estimate = case.estimator.estimate(case.params, case.state, KEY, q, opaque, case.reduce, LOG_Q_WEIGHT, context)
        return jnp.sum(estimate.value)

    _, (expected, _) = case.run(case.problem.phi, case.problem.theta, KEY)
    assert_same(jax.jit(jax.grad(value))(case.problem.phi), expected, tolerance=1e-6)
    assert not is_zero(expected)


@pytest.mark.parametrize("name", ["leave_one_out", "disarm"])
def test_gradients_are_unbiased_for_a_reduction_that_is_not_shift_equivariant(name):
    """The reduction is the mean of a convex function of f, as in a chi-square bound."""
    reduce = Reduction(lambda values: jnp.mean(jnp.square(values), axis=0), name="mean_square")
    exact = differentiate_exactly(problem("Bernoulli"), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem("Bernoulli"), reduce, exact)
