"""The contract over every entry of the table, against oracles, with controls that must fail."""

import functools
import inspect
import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.helpers.problems import (
    FAMILIES,
    GROUPS,
    LOG_Q_WEIGHT,
    MAX_Z,
    REDUCE,
    assert_unbiased,
    differentiate_exactly,
    fits,
    gradient_program,
    make_estimator,
    measure,
    oracle,
    problem,
    quantile_nodes,
    trained,
)
from vae import estimators
from vae.distributions import Bernoulli, Categorical, Normal
from vae.estimators import (
    BY_NAME,
    Estimate,
    Estimator,
    Reduction,
    attach,
    fitting,
    integrand,
    log_mean_exp,
    mean,
    scale_cotangent,
    stateless,
)
from vae.estimators.dreg import dreg
from vae.estimators.parts.learning_signal import learning_signal, score_surrogate
from vae.estimators.reinforce_ema import reinforce_ema
from vae.estimators.stl import stl
from vae.estimators.table import _ENTRIES

CORE = ("Normal", "Bernoulli", "Categorical")
# Outside the core one fast witness each of a full covariance and of an implicit path. The rest of the square is slow,
# and so is Categorical where Bernoulli already speaks for discrete latents.
FAST = {("reparam", "MultivariateNormal", "mean"), ("reparam", "Gamma", "mean")}
SCORE = [name for name, entry in BY_NAME.items() if not entry.differentiates_f]


def _cases(families=tuple(FAMILIES), biased=False):
    """Every (entry, family, bound) that fits, but for the oracle itself."""
    cases = []
    for (name, entry), family, bound in itertools.product(BY_NAME.items(), families, REDUCE):
        if name != "exact" and entry.biased == biased and fits(entry, FAMILIES[family], bound):
            twice = family == "Categorical" and fits(entry, Bernoulli, bound)
            again = biased and bound == "log_mean_exp" and "mean" in entry.reductions  # the elbo has shown the bias
            slow = twice or again or (family not in CORE and (name, family, bound) not in FAST)
            cases.append(pytest.param(name, family, bound, marks=[pytest.mark.slow] if slow else []))
    return cases


def _witness(name):
    """The entry's hardest bound with the first of the core families that fits: for what is not about the family."""
    entry = BY_NAME[name]
    return next(family for family in CORE if fits(entry, FAMILIES[family], entry.reductions[-1])), entry.reductions[-1]


_WITNESSES = [pytest.param(name, *_witness(name), id=name) for name in BY_NAME]
# Those of bits are of classes too: an axis more, which is theirs alone. One of each kind is fast.
_WITNESSES += [
    pytest.param(
        name,
        "Categorical",
        entry.reductions[-1],
        id=f"{name}-Categorical",
        marks=[] if name in ("relax", "rodeo", "reinmax") else [pytest.mark.slow],
    )
    for name, entry in BY_NAME.items()
    if _witness(name)[0] == "Bernoulli" and fits(entry, Categorical, entry.reductions[-1])
]
# One of each kind: a path, a baseline with a state, a network of its own, coupled samples, a straight-through path.
_KINDS = ("reparam", "nvil", "relax", "disarm", "reinmax")
_OF_EACH_KIND = [
    pytest.param(*case.values, id=case.id, marks=[] if case.id in _KINDS else [pytest.mark.slow]) for case in _WITNESSES
]


class Setting(NamedTuple):
    estimator: Estimator
    num_samples: int
    problem: object
    reduce: object
    params: object
    state: object
    run: object  # (phi, theta, key) -> ((sum, value), (d phi, d theta)), jitted
    traces: list


@functools.cache
def _setting(name, family, bound) -> Setting:
    estimator, num_samples = make_estimator(name, bound)
    toy, reduce, traces = problem(family), REDUCE[bound], []
    params, state = trained(estimator, toy, reduce)
    program = gradient_program(estimator, toy, reduce, params, state)

    def run(phi, theta, key):
        traces.append(name)
        return program(phi, theta, key)

    return Setting(estimator, num_samples, toy, reduce, params, state, jax.jit(run), traces)


@functools.cache
def _jacobians(name, family, bound):
    """Of cv_loss `[]` and of value `[B]`, each in (params, phi, theta)."""
    s = _setting(name, family, bound)

    def both(params, phi, theta):
        q, f = s.problem.posterior(phi), s.problem.integrand(theta)
        estimate = s.estimator.estimate(params, s.state, jax.random.key(5), q, f, s.reduce, LOG_Q_WEIGHT, theta["x"])
        return estimate.cv_loss, estimate.value

    return jax.jit(jax.jacrev(both, (0, 1, 2)))(s.params, s.problem.phi, s.problem.theta)


def _assert_same(actual, expected, tolerance=2e-4):
    """Equal up to float32 rounding, relative to the largest entry of each leaf."""

    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1e-3, np.max(np.abs(e), initial=0)))

    jax.tree.map(check, actual, expected)


def _is_zero(tree) -> bool:
    return all(not np.any(leaf) for leaf in jax.tree.leaves(tree))


# 1. Against the oracle.


@pytest.mark.parametrize(("name", "family", "bound"), _cases())
def test_value_and_gradients_are_unbiased(name, family, bound):
    estimator, num_samples = make_estimator(name, bound)
    assert_unbiased(estimator, problem(family), REDUCE[bound], oracle(family, bound, num_samples))


@pytest.mark.parametrize(("name", "family", "bound"), _cases(CORE, biased=True))
def test_an_entry_that_says_biased_is_so_on_a_cubic(name, family, bound):
    estimator, num_samples = make_estimator(name, bound)
    exact = oracle(family, bound, num_samples, "cubic")
    report = measure(estimator, problem(family, "cubic"), REDUCE[bound], exact)
    assert report.max_abs_z["phi"] > MAX_Z, f"no bias seen: {report}"


@pytest.mark.parametrize(("name", "family"), [("dreg", "Normal"), ("leave_one_out", "Bernoulli")])
def test_the_vr_iwae_bound_is_unbiased(name, family):
    reduce = _vr_iwae(0.3)
    exact = differentiate_exactly(problem(family), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem(family), reduce, exact)


@pytest.mark.parametrize("bound", REDUCE)
@pytest.mark.parametrize("family", ["Normal", pytest.param("MultivariateNormal", marks=pytest.mark.slow)])
def test_exact_on_gaussians_is_quadrature_by_another_rule(family, bound):
    exact = oracle(family, bound, 2)
    other = differentiate_exactly(problem(family), REDUCE[bound], 2, order=22, by="quadrature")
    for group in GROUPS:
        assert _relative(other[group], exact[group]) < (1e-4 if bound == "mean" else 1e-3)


@pytest.mark.parametrize("bound", REDUCE)
@pytest.mark.parametrize("family", ["Bernoulli", "Categorical"])
def test_exact_on_discrete_latents_is_central_differences_of_the_enumerated_sum(family, bound):
    exact = oracle(family, bound, 2)
    other = _differences_of_enumeration(family, REDUCE[bound], 1 if bound == "mean" else 2)
    for group in GROUPS:
        assert _relative(other[group], exact[group]) < 1e-6


@pytest.mark.parametrize(
    ("family", "bound", "order"),
    [
        ("Normal", "mean", 24),
        ("Normal", "log_mean_exp", 22),
        pytest.param("MultivariateNormal", "log_mean_exp", 22, marks=pytest.mark.slow),
        *[
            pytest.param(family, bound, 22, marks=pytest.mark.slow)
            for family in ("Laplace", "StudentT", "Gamma", "Beta", "Dirichlet")
            for bound in REDUCE
        ],
    ],
)
def test_the_oracle_does_not_move_when_its_order_is_doubled(family, bound, order):
    # log(w_1 + w_2) all but switches between its arguments: the four-dimensional rule on panels converges slowly. It is
    # compared with 30 nodes a panel (13 million pairs), and errs ten times less than `assert_unbiased` can see.
    panels = bound == "log_mean_exp" and not fits(BY_NAME["exact"], FAMILIES[family], bound)
    finer, tolerance = (30, 1e-3) if panels else (2 * order, 1e-4)
    coarse, fine = (differentiate_exactly(problem(family), REDUCE[bound], 2, order=n) for n in (order, finer))
    for group in GROUPS:
        assert _relative(coarse[group], fine[group]) < tolerance


def _relative(actual, expected) -> float:
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def _differences_of_enumeration(family, reduce, tuple_size, step=1e-5):
    """Value and gradients by itertools, numpy's log q, and central differences: nothing of vae.estimators."""
    logits = np.float64(problem(family).phi.logits)
    if family == "Bernoulli":
        states = [np.array(bits) for bits in itertools.product([0.0, 1.0], repeat=2)]
        log_q = lambda l, z: np.sum(z * l - np.log1p(np.exp(l)), -1)
    else:
        states = [np.eye(3)[list(c)] for c in itertools.product(range(3), repeat=2)]
        log_q = lambda l, z: np.sum(z * (l - np.log(np.sum(np.exp(l), -1, keepdims=True))), (-2, -1))

    def value(logits, theta):
        rows = [np.asarray(toy.log_joint(theta, np.broadcast_to(z, (1, *logits.shape))))[0] for z in states]
        log_probs = np.stack([log_q(logits, z) for z in states])
        f = np.stack(rows) - log_probs
        total = 0
        for ks in itertools.product(range(len(states)), repeat=tuple_size):
            chosen = f[list(ks)]
            bound = chosen.mean(0) if reduce is mean else np.log(np.mean(np.exp(chosen), 0))
            total = total + np.exp(log_probs[list(ks)].sum(0)) * bound
        return total

    def differences(tree, at):
        leaves, treedef = jax.tree.flatten(tree)
        for i, leaf in enumerate(leaves):
            for index in np.ndindex(leaf.shape):
                ends = []
                for sign in (1, -1):
                    moved = leaf.copy()
                    moved[index] += sign * step
                    ends.append(at(treedef.unflatten([*leaves[:i], moved, *leaves[i + 1 :]])).sum())
                yield (ends[0] - ends[1]) / (2 * step)

    with jax.enable_x64(True):
        toy = problem(family)
        theta = jax.tree.map(np.float64, toy.theta)
        return {
            "value": value(logits, theta),
            "phi": np.array(list(differences(logits, lambda l: value(l, theta)))),
            "theta": np.array(list(differences(theta, lambda t: value(logits, t)))),
        }


def test_the_compiler_is_right():
    """jaxlib 0.10.2 sums a vmapped product wrongly on CPUs, beyond some length (github.com/jax-ml/jax/issues/39103). No
    Monte Carlo gradient on this page can be trusted where this fails."""
    x = jnp.stack([jnp.arange(32_769.0)] + 2 * [jnp.zeros(32_769)], axis=1)
    total = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3) @ row))))(x)
    np.testing.assert_allclose(total, np.square(np.arange(32_769.0)), rtol=1e-6)


# 2. Structure.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_gradients_jitted_are_gradients_op_by_op(name, family, bound):
    s = _setting(name, family, bound)
    args = (s.problem.phi, s.problem.theta, jax.random.key(5))
    eager = gradient_program(s.estimator, s.problem, s.reduce, s.params, s.state)(*args)
    _assert_same(s.run(*args), eager)


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_the_key_is_the_only_randomness_and_two_calls_compile_once(name, family, bound):
    s = _setting(name, family, bound)
    first, again, other = (s.run(s.problem.phi, s.problem.theta, jax.random.key(seed)) for seed in (5, 5, 6))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (name == "exact") == _is_zero(jax.tree.map(jnp.subtract, first, other))
    assert len(s.traces) == 1


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_vmap_over_problems_is_a_loop(name, family, bound):
    s = _setting(name, family, bound)
    keys = jax.random.split(jax.random.key(7), 3)
    moved = lambda tree: jax.tree.map(lambda leaf: np.stack([leaf, 0.8 * leaf, 0.9 * leaf - 0.01]), tree)
    phis, thetas = moved(s.problem.phi), moved(s.problem.theta)
    together = jax.jit(jax.vmap(s.run))(phis, thetas, keys)
    alone = [
        s.run(jax.tree.map(lambda leaf: leaf[i], phis), jax.tree.map(lambda leaf: leaf[i], thetas), keys[i])  # noqa: B023
        for i in range(3)
    ]
    _assert_same(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_the_layout_of_the_batch_changes_nothing(name, family, bound):
    """Batches (), (B,), (A, B): the same key gives the same draws, values and gradients."""
    s = _setting(name, family, bound)
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
    _assert_same(flat[()], flat[1,])
    _assert_same(flat[1, 2], flat[2,])


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_no_datum_sees_another(name, family, bound):
    """The Jacobian of value[b] in q and x of datum b' is zero: the gradient of a batch is the sum of its data's."""
    s, (_, (_, in_phi, in_theta)) = _setting(name, family, bound), _jacobians(name, family, bound)
    jacobian = in_phi, in_theta["x"]
    for leaf in jax.tree.leaves(jacobian):  # [value b, datum b', ...]
        assert _is_zero((leaf[0, 1], leaf[1, 0]))
    (_, _), (phi, theta) = s.run(s.problem.phi, s.problem.theta, jax.random.key(5))
    own = jax.tree.map(lambda leaf: jnp.stack([leaf[0, 0], leaf[1, 1]]), jacobian)
    _assert_same(own, (phi, theta["x"]))


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_model_and_control_variate_gradients_do_not_mix(name, family, bound):
    """cv_loss reaches the estimator's own params alone, and the value reaches all but these."""
    of_loss, of_value = _jacobians(name, family, bound)
    assert _is_zero(of_loss[1:])
    assert _is_zero(of_value[0])
    assert not _is_zero(of_value[1])
    assert not _is_zero(of_value[2])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_loss[0])), "a param that cv_loss does not teach"


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_value_op_by_op_is_the_jitted_one_and_the_reduced_f(name, family, bound):
    s = _setting(name, family, bound)
    evaluations = []
    q = s.problem.posterior(s.problem.phi)

    def spy(z):
        evaluations.append(s.problem.log_weight(s.problem.theta, z, q))
        return s.problem.log_joint(s.problem.theta, z)

    key, context = jax.random.key(5), s.problem.theta["x"]
    value = s.estimator.estimate(s.params, s.state, key, q, spy, s.reduce, LOG_Q_WEIGHT, context).value
    (_, jitted), _ = s.run(s.problem.phi, s.problem.theta, jax.random.key(5))
    _assert_same(value, jitted)
    # Never a surrogate. A weighted sum, or an f inside a transformation, is left to the contract test.
    seen = [values for values in evaluations if not isinstance(values, jax.core.Tracer)]
    candidates = [s.reduce(values) for values in [*seen, jnp.concatenate(seen)]] if seen else []
    if name != "exact" and candidates:
        assert any(np.allclose(value, candidate, rtol=1e-5) for candidate in candidates)


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_state_passes_through_jit(name, family, bound):
    s = _setting(name, family, bound)
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
    _assert_same(jitted, eager)
    if name in ("reinforce_ema", "nvil"):
        assert int(jitted["count"]) == 2


@pytest.mark.parametrize(("name", "family", "bound"), _OF_EACH_KIND)
def test_sharded_over_two_devices_is_one_device(name, family, bound):
    s = _setting(name, family, bound)
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
    _assert_same(jax.device_get(sharded), jax.device_get(s.run(s.problem.phi, s.problem.theta, key)))


def _shards(phi):
    return [shard for leaf in jax.tree.leaves(phi) for shard in leaf.addressable_shards]


_EXTREME = {
    "Normal": Normal(np.float32([[0.5, -1.0], [1.0, 0.3]]), np.float32([[30.0, -30.0], [-30.0, 30.0]])),
    "Bernoulli": Bernoulli(np.float32([[50.0, -50.0], [-50.0, 0.5]])),
    "Categorical": Categorical(np.float32([[[50.0, -50.0, 0.0]] * 2, [[-50.0, 0.0, 0.5]] * 2])),
}


def _extreme_cases():
    for case in [*_cases(CORE), *_cases(CORE, biased=True)]:
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


def _rarely_not_finite(num_samples=2):
    """The mistake: a gradient that is NaN once in some thousand draws, as of a log(0) or of 0 / 0 where samples tie."""
    inner = BY_NAME["leave_one_out"].make(num_samples=num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        value = inner.estimate(params, state, key, q, f, reduce, log_q_weight, context).value
        rare = jnp.where(jax.random.uniform(key) < 1e-3, jnp.nan, 0.0)
        return Estimate(attach(value, value + rare * jnp.sum(q.logits, axis=-1)), jnp.zeros(()), state)

    return Estimator(inner.init, estimate)


def test_a_gradient_that_is_rarely_not_finite_is_caught():
    with pytest.raises(AssertionError, match="phi"):
        assert_unbiased(_rarely_not_finite(), problem("Bernoulli"), mean, oracle("Bernoulli", "mean", 2), max_chunks=4)


# 3. Controls that must fail: each is a mistake that was published, or is easily made.


def _vimco_without_direct_term(num_samples=2):
    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, stop_gradient(q), log_q_weight)(z)
        return score_surrogate(q, z, values, values[::-1], reduce)

    return stateless(estimate)


def _dreg_with_weights(encoder_power, decoder_power, num_samples=2):
    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)
        frozen = integrand(f, stop_gradient(q), log_q_weight)
        w = jax.nn.softmax(stop_gradient(frozen(z)), axis=0)
        scaled = scale_cotangent(z, w ** (encoder_power - 1))
        return reduce(scale_cotangent(frozen(scaled), w ** (decoder_power - 1)))

    return stateless(estimate)


def _reinforce_ema_with_its_own_sample(num_samples=1, decay=0.5):
    honest = reinforce_ema(num_samples, decay)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        seen = honest.estimate(params, state, key, q, f, reduce, log_q_weight, context).state
        return honest.estimate(params, seen, key, q, f, reduce, log_q_weight, context)._replace(state=seen)

    return Estimator(honest.init, estimate)


def _leave_one_out_shrunk(num_samples=2):
    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, q, log_q_weight)(z)
        own_mean = jnp.broadcast_to(mean(values), values.shape)
        return score_surrogate(q, z, values, own_mean, reduce)

    return stateless(estimate)


class _Detached(NamedTuple):
    """A posterior whose path is cut: rsample is sample."""

    q: object

    @property
    def batch_shape(self):
        return self.q.batch_shape

    def rsample(self, key, num_samples):
        return self.q.sample(key, num_samples)

    def log_prob(self, z):
        return self.q.log_prob(z)


def _detached(make, num_samples):
    inner = make(num_samples)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        return inner.estimate(params, state, key, _Detached(q), f, reduce, log_q_weight, context)

    return Estimator(inner.init, estimate)


_CONTROLS = {
    "vimco without the direct term, Bernoulli": (_vimco_without_direct_term(), "Bernoulli", "log_mean_exp", "phi"),
    "vimco without the direct term, Normal": (_vimco_without_direct_term(), "Normal", "log_mean_exp", "phi"),
    "stl on the importance-weighted bound": (stl(2), "Normal", "log_mean_exp", "phi"),
    "dreg with w for the encoder": (_dreg_with_weights(1, 1), "Normal", "log_mean_exp", "phi"),
    "dreg with w^2 for the decoder": (_dreg_with_weights(1, 2), "Normal", "log_mean_exp", "theta"),
    "moving average with its own sample": (_reinforce_ema_with_its_own_sample(), "Bernoulli", "mean", "phi"),
    "leave-one-out divided by K": (_leave_one_out_shrunk(), "Bernoulli", "mean", "phi"),
    "stl with sampling detached": (_detached(stl, 1), "Normal", "mean", "phi"),
    "dreg with sampling detached": (_detached(dreg, 2), "Normal", "log_mean_exp", "phi"),
}


@pytest.mark.parametrize("control", _CONTROLS)
def test_negative_control_fails(control):
    estimator, family, bound, group = _CONTROLS[control]
    exact = oracle(family, bound, 2)
    with pytest.raises(AssertionError, match="^biased"):
        assert_unbiased(estimator, problem(family), REDUCE[bound], exact, groups=(group,), max_chunks=64)


def test_dreg_as_the_controls_write_it_is_right():
    """The right powers in the same lines: what the controls fail by is the powers alone."""
    assert_unbiased(_dreg_with_weights(2, 1), problem("Normal"), log_mean_exp, oracle("Normal", "log_mean_exp", 2))


# 4. Known facts.


def _gradients(name, p, f, draws, *, num_samples=None, posterior=lambda q: q, log_q_weight=0.0, seed=0):
    """`draws` gradients of the mean's value in the parameters p, with q = posterior(p); each leaf `[draws, ...]`."""
    num_samples = num_samples or BY_NAME[name].min_samples
    estimator = BY_NAME[name].make(num_samples=num_samples)
    value = lambda p, key: jnp.sum(estimator.estimate({}, {}, key, posterior(p), f, mean, log_q_weight).value)
    run = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))
    return run(p, jax.random.split(jax.random.key(seed), draws))


@pytest.mark.parametrize(("t", "p"), [(0.45, 0.5), (0.45, 0.1), (0.49, 0.5), (0.499, 0.1)])
def test_variances_on_one_bernoulli(t, p):
    """f = (b - t)^2, in the logit (ESTIMATORS.md C1)."""
    q = Bernoulli(jnp.log(jnp.array([p])) - jnp.log1p(-jnp.array([p])))
    f = lambda z: jnp.sum(jnp.square(z - t), axis=-1)
    slope = (1 - 2 * t) * p * (1 - p)
    expected = {
        "reinforce": p * (1 - t) ** 4 * (1 - p) ** 2 + (1 - p) * t**4 * p**2 - slope**2,
        "leave_one_out": (1 - 2 * t) ** 2 * (p * (1 - p) / 2 - (p * (1 - p)) ** 2),
    }
    for name, variance in expected.items():
        grads = np.float64(_gradients(name, q, f, 2**19).logits)
        np.testing.assert_allclose(grads.var(), variance, rtol=0.03)
        assert abs(grads.mean() - slope) < MAX_Z * np.sqrt(variance / len(grads))


@pytest.mark.parametrize(("mu", "sigma", "k"), [(1.0, 1.0, -1.5), (0.5, 0.7, 1.0)])
def test_variances_on_a_gaussian_quadratic(mu, sigma, k):
    """f = (z - k)^2, in the mean and the scale (ESTIMATORS.md C4)."""
    m, s = mu - k, sigma
    expected = {
        "reinforce": (m**4 / s**2 + 14 * m**2 + 15 * s**2, 2 * m**4 / s**2 + 60 * m**2 + 74 * s**2),
        "reparam": (4 * s**2, 4 * m**2 + 8 * s**2),
    }
    f = lambda z: jnp.sum(jnp.square(z - k), axis=-1)
    posterior = lambda p: Normal(p[0], 2 * jnp.log(p[1]))
    for name, variances in expected.items():
        grads = _gradients(name, (jnp.array([mu]), jnp.array([sigma])), f, 2**21, posterior=posterior)
        np.testing.assert_allclose([np.float64(g).var() for g in grads], variances, rtol=0.03)
        for grad, variance, slope in zip(grads, variances, (2 * m, 2 * s), strict=True):
            assert abs(np.float64(grad).mean() - slope) < MAX_Z * np.sqrt(variance / len(grad))


def test_antithetic_mean_gradient_of_a_quadratic_is_exact():
    q = Normal(jnp.array([0.5, -0.3]), jnp.array([-0.7, 0.4]))
    f = lambda z: jnp.sum(jnp.square(z - jnp.array([1.0, 0.2])), axis=-1)
    grads = _gradients("reparam_antithetic", q, f, 1000, num_samples=2)
    np.testing.assert_allclose(grads.mean, np.broadcast_to([-1.0, -1.0], (1000, 2)), atol=1e-5)
    assert np.all(np.var(grads.log_var, axis=0) > 0.01)


def test_stl_has_no_variance_at_the_posterior():
    """Linear-Gaussian model whose posterior is diagonal: the columns of W are orthogonal (ESTIMATORS.md C6)."""
    weight, noise, x = np.array([[1.0, 1.0], [0.5, -2.0], [-1.0, 0.0]]), 0.6, np.array([0.3, -1.1, 0.8])
    assert np.isclose(weight[:, 0] @ weight[:, 1], 0)
    variance = 1 / (1 + np.square(weight).sum(0) / noise)
    posterior = Normal(jnp.float32(variance * (x @ weight) / noise), jnp.float32(np.log(variance)))

    def log_joint(z):
        residual = jnp.float32(x) - z @ jnp.float32(weight.T)
        return -0.5 * jnp.sum(jnp.square(residual), -1) / noise - 0.5 * jnp.sum(jnp.square(z), -1)

    frozen, plain = (_gradients(name, posterior, log_joint, 1000, log_q_weight=1.0) for name in ("stl", "reparam"))
    for leaf in jax.tree.leaves(frozen):
        np.testing.assert_allclose(leaf, 0, atol=1e-4)
    assert all(np.all(np.std(leaf, axis=0) > 0.1) for leaf in jax.tree.leaves(plain))


def test_dreg_of_one_sample_is_stl():
    toy = problem("Normal")
    run = lambda name, reduce: jax.jit(gradient_program(BY_NAME[name].make(num_samples=1), toy, reduce, {}, {}))(
        toy.phi, toy.theta, jax.random.key(4)
    )
    _assert_same(run("dreg", log_mean_exp), run("stl", mean), tolerance=1e-5)


@pytest.mark.parametrize("family", ["Normal", "Bernoulli"])
def test_leave_one_out_of_the_weighted_bound_is_vimco_as_published(family):
    """Mnih & Rezende (2016), eqs. 5 to 10, written out for K = 4 (ESTIMATORS.md S5), with the direct term."""
    toy, key, K = problem(family), jax.random.key(4), 4

    @jax.jit
    def published(q):
        z = q.sample(key, K)
        log_w = toy.log_weight(toy.theta, z, q)  # [K, B]
        rows = []
        for k in range(K):
            geometric = sum(log_w[j] for j in range(K) if j != k) / (K - 1)
            rows.append(log_mean_exp(jnp.stack([geometric if j == k else log_w[j] for j in range(K)])))
        signal = log_mean_exp(log_w) - jnp.stack(rows)  # [K, B]
        score = lambda weight: jax.grad(lambda q: jnp.sum(weight * q.log_prob(z)))(q)
        return log_mean_exp(log_w), score(signal - jax.nn.softmax(log_w, axis=0))

    expected = published(toy.posterior(toy.phi))
    for name in ("leave_one_out", "vimco"):
        estimator = BY_NAME[name].make(num_samples=K)
        run = jax.jit(gradient_program(estimator, toy, log_mean_exp, {}, {}))
        (_, value), (phi, _) = run(toy.phi, toy.theta, key)
        _assert_same((value, phi), expected)


@pytest.mark.parametrize("name", SCORE)
def test_a_score_gradient_does_not_look_inside_f(name):
    """An f without any derivative in z gives the same gradient."""
    s = _setting(name, *_witness(name))
    f = s.problem.integrand(s.problem.theta)
    opaque = lambda z: stop_gradient(f(stop_gradient(z)))

    def value(phi, f):
        q, key, context = s.problem.posterior(phi), jax.random.key(5), s.problem.theta["x"]
        return jnp.sum(s.estimator.estimate(s.params, s.state, key, q, f, s.reduce, LOG_Q_WEIGHT, context).value)

    seen, unseen = jax.jit(lambda phi: [jax.grad(value)(phi, each) for each in (f, opaque)])(s.problem.phi)
    _assert_same(unseen, seen, tolerance=1e-6)
    assert not _is_zero(seen)


def test_a_signal_is_not_rounded_away_by_the_size_of_f():
    """Of 512 values near -20,000, which float32 tells apart to 2e-3, a signal is a difference over 512."""
    values = np.float32(np.random.default_rng(0).normal(size=(512, 3)) * 20 - 2e4)
    control = (np.sum(values, axis=0) - values) / 511
    for reduce in (mean, log_mean_exp):
        with jax.enable_x64(True):
            exact = learning_signal(jnp.float64(values), jnp.float64(control), reduce)
        found = jax.jit(functools.partial(learning_signal, reduce=reduce))(values, control)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-5 * np.max(np.abs(exact)))


def test_reinforce_of_the_weighted_bound_weighs_every_score_with_the_whole_bound():
    """sum_k (L_K - w_k) s_k: its variance is large where log p(x) is (ESTIMATORS.md O3)."""
    toy, key = problem("Bernoulli"), jax.random.key(4)

    @jax.jit
    def published(q):
        z = q.sample(key, 3)
        log_w = toy.log_weight(toy.theta, z, q)
        weight = log_mean_exp(log_w) - jax.nn.softmax(log_w, axis=0)
        return log_mean_exp(log_w), jax.grad(lambda q: jnp.sum(weight * q.log_prob(z)))(q)

    run = jax.jit(gradient_program(BY_NAME["reinforce"].make(num_samples=3), toy, log_mean_exp, {}, {}))
    (_, value), (phi, _) = run(toy.phi, toy.theta, key)
    _assert_same((value, phi), published(toy.phi))


@functools.cache
def _wake_phase():
    """Value and theta of the bound of two samples, and E[sum_k w_k grad log q(z_k)] by quadrature, in float64."""
    toy = problem("Normal")
    with jax.enable_x64(True):
        toy = toy.astype(jnp.float64)
        q = toy.phi
        z, log_weight = quantile_nodes(q, 14)
        log_w = toy.log_weight(toy.theta, z, q)  # [N, B]
        share = jax.nn.sigmoid(log_w[:, None] - log_w)  # [N, N, B]: of the first of two, its normalized weight
        weight = 2 * jnp.exp(log_weight) * jnp.einsum("ijb,j->ib", share, jnp.exp(log_weight[:, 0]))
        phi = jax.grad(lambda q: jnp.sum(weight * q.log_prob(z)))(q)
    return oracle("Normal", "log_mean_exp", 2) | {
        "phi": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(phi)])
    }


@pytest.mark.parametrize("name", ["wake_sleep", "wake_sleep_dreg"])
def test_wake_sleep_descends_the_inclusive_divergence(name):
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem("Normal"), log_mean_exp, _wake_phase())


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_wake_sleep_with_other_weights_is_caught(exponent):
    """Equal weights, whose expectation is zero, and squared ones."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, 2)
        log_weights = integrand(f, stop_gradient(q), log_q_weight)(z)
        weights = jax.nn.softmax(stop_gradient(log_weights), axis=0) ** exponent
        bound = reduce(log_weights)
        return attach(bound, bound + jnp.sum(weights * q.log_prob(z), axis=0))

    report = measure(stateless(estimate), problem("Normal"), log_mean_exp, _wake_phase(), max_chunks=4)
    assert report.biased() == ["phi"]


@pytest.mark.parametrize("name", ["leave_one_out", "disarm"])
def test_any_reduce_is_unbiased_also_one_that_no_shift_passes(name):
    """Like a chi-square bound: the mean of a convex function of f."""
    reduce = Reduction(lambda values: jnp.mean(jnp.square(values), axis=0), name="mean_square")
    exact = differentiate_exactly(problem("Bernoulli"), reduce, 2)
    assert_unbiased(BY_NAME[name].make(num_samples=2), problem("Bernoulli"), reduce, exact)


def _vr_iwae(alpha):
    return Reduction(
        lambda values: log_mean_exp((1 - alpha) * values) / (1 - alpha), name="vr_iwae", shift_equivariant=True
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_dreg_weights_of_the_vr_iwae_bound(alpha):
    """The path of sample k weighs alpha w_k + (1 - alpha) w_k^2 (Daudel et al. 2023, arXiv:2210.06226)."""
    q = Normal(jnp.array([0.4]), jnp.array([-0.2]))
    tilt = jnp.array([1.0, -0.5, 2.0, 0.3])
    # v_k = f_k - log q(z_k) = tilt_k z_k: the gradient in the mean is the sum of tilt_k times the weight of path k.
    log_weights = lambda z: tilt * z[:, 0]
    f = lambda z: log_weights(z) + stop_gradient(q).log_prob(z)
    estimator = BY_NAME["dreg"].make(num_samples=4)
    key = jax.random.key(9)
    value = lambda q: estimator.estimate({}, {}, key, q, f, _vr_iwae(alpha), LOG_Q_WEIGHT).value
    w = jax.nn.softmax((1 - alpha) * log_weights(q.rsample(key, 4)))
    np.testing.assert_allclose(
        jax.jit(jax.grad(value))(q).mean, [jnp.sum(tilt * (alpha * w + (1 - alpha) * w**2))], rtol=1e-5
    )


@pytest.mark.slow
def test_signal_to_noise_follows_rainforth():
    """log-log slopes of the signal-to-noise ratio in K (Rainforth et al. 2018, arXiv:1802.04537; ESTIMATORS.md C8)."""
    snr = {"decoder": [], "encoder": [], "dreg": []}
    counts = [4, 16, 64, 256]
    for num_samples in counts:
        plain, doubly = (_rainforth_gradients(name, num_samples) for name in ("reparam", "dreg"))
        snr["decoder"].append(_norm_ratio(plain[1].mean(0), plain[1].std(0)))
        # DReG has the same mean, and little enough noise to tell it.
        snr["encoder"].append(_norm_ratio(doubly[0].mean(0), plain[0].std(0)))
        snr["dreg"].append(_norm_ratio(doubly[0].mean(0), doubly[0].std(0)))
    slope = {name: np.polyfit(np.log(counts), np.log(ratios), 1)[0] for name, ratios in snr.items()}
    assert abs(slope["decoder"] - 0.5) < 0.1, slope
    assert abs(slope["encoder"] + 0.5) < 0.1, slope
    assert slope["dreg"] > 0.3, slope


def _norm_ratio(signal, noise) -> float:
    return np.linalg.norm(signal) / np.linalg.norm(noise)


def _rainforth_gradients(name, num_samples, data=16, width=20, draws=512):
    """`[draws, width]` gradients in the encoder's b and the prior's mean, near the optimum of these data."""
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=width) + np.sqrt(2) * rng.normal(size=(data, width)))
    off = lambda scale, *shape: scale * jnp.float32(rng.normal(size=shape))
    # The decoder is off by more than the encoder, which follows it: so the decoder's signal does not depend on K.
    prior_mean = jnp.mean(x, 0) + off(0.3, width)
    b, a = prior_mean / 2 + off(0.03, width), jnp.eye(width) / 2 + off(0.01, width, width)
    estimator = BY_NAME[name].make(num_samples=num_samples)

    def bound(b, prior_mean, key):
        q = Normal(x @ a + b, jnp.full(x.shape, np.float32(np.log(2 / 3))))
        log_normal = lambda d: -0.5 * jnp.sum(jnp.square(d), -1)
        f = lambda z: log_normal(z - prior_mean) + log_normal(x - z)
        return jnp.mean(estimator.estimate({}, {}, key, q, f, log_mean_exp, LOG_Q_WEIGHT).value)

    run = jax.jit(
        lambda keys: jax.lax.map(lambda key: jax.grad(bound, (0, 1))(b, prior_mean, key), keys, batch_size=16)
    )
    return [np.float64(g) for g in run(jax.random.split(jax.random.key(num_samples), draws))]


# 5. The table and what it refuses.

_MISFITS = [
    pytest.param(name, family, bound, id=f"{name}-{family}-{bound}")
    for (name, entry), family, bound in itertools.product(BY_NAME.items(), FAMILIES, REDUCE)
    if not fits(entry, FAMILIES[family], bound)
]


@pytest.mark.parametrize(("name", "family", "bound"), _MISFITS)
def test_a_wrong_pair_is_refused_with_what_would_work(name, family, bound):
    estimator, _ = make_estimator(name, bound)
    toy = problem(family)
    q = toy.posterior(toy.phi)
    with pytest.raises(ValueError, match=rf"^{name} cannot .*; these estimators can: ") as refusal:
        estimator.estimate({}, {}, jax.random.key(0), q, toy.integrand(toy.theta), REDUCE[bound], LOG_Q_WEIGHT)
    assert str(refusal.value) == BY_NAME[name].refusal(q, REDUCE[bound], LOG_Q_WEIGHT)
    named = str(refusal.value).split("these estimators can: ")[1].split(", ")
    assert named == fitting(q, REDUCE[bound], LOG_Q_WEIGHT)
    assert name not in named
    # `init` refuses latents that fit no bound.
    if not any(fits(BY_NAME[name], q, other) for other in BY_NAME[name].reductions):
        with pytest.raises(ValueError, match=rf"{name} cannot .* with {family} latents; these estimators can: "):
            estimator.init(jax.random.key(0), q, None)


def test_an_estimator_that_needs_a_density_refuses_a_plain_cost():
    q = Normal(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    f = lambda z: jnp.sum(z, axis=-1)
    for name, reduce in (("stl", mean), ("wake_sleep", log_mean_exp)):
        estimator = BY_NAME[name].make()
        with pytest.raises(ValueError, match=rf"{name} needs log q\(z\) in the integrand"):
            estimator.estimate({}, {}, jax.random.key(0), q, f, reduce, log_q_weight=0.0)
    with pytest.raises(ValueError, match="wake_sleep needs importance weights"):
        BY_NAME["wake_sleep"].make().estimate({}, {}, jax.random.key(0), q, f, _vr_iwae(0.5), log_q_weight=1.0)


@pytest.mark.parametrize(
    ("f", "returned"),
    [
        (lambda z: jnp.sum(z, axis=-1, keepdims=True), r"shape \[3, 2, 1\]"),
        (lambda z: jnp.sum(z, axis=(0, -1)), r"shape \[2\]"),
        (lambda z: jnp.sum(z), r"shape \[\]"),
        (lambda z: [z], "list"),
    ],
)
def test_an_integrand_of_another_shape_is_refused(f, returned):
    q = Normal(jnp.zeros((2, 4)), jnp.zeros((2, 4)))
    estimator = BY_NAME["reparam"].make(num_samples=3)
    with pytest.raises(ValueError, match=rf"f\(z\) must return \[K, \*batch\] = \[3, 2\], and returned .*{returned}"):
        estimator.estimate({}, {}, jax.random.key(0), q, f)


def test_a_factory_is_importable_and_guarded_under_its_own_name():
    for name, entry in BY_NAME.items():
        assert getattr(estimators, name) is entry.make
    with pytest.raises(ValueError, match="stl cannot estimate gradients with Bernoulli latents"):
        estimators.stl().init(jax.random.key(0), Bernoulli(jnp.zeros((1, 2))))


def test_make_names_what_is_close_to_an_unknown_name():
    with pytest.raises(ValueError, match="there is no estimator 'rebr'; did you mean rebar; the estimators are"):
        estimators.make("rebr")
    with pytest.raises(ValueError, match="reparam cannot work layer by layer"):
        estimators.make("reparam", by_layer=True)


@pytest.mark.parametrize("name", BY_NAME)
def test_too_few_samples_are_refused(name):
    least = BY_NAME[name].min_samples
    with pytest.raises(ValueError, match=rf"{name} needs num_samples of at least {least}, got {least - 1}"):
        BY_NAME[name].make(num_samples=least - 1)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_guard_keeps_the_signature_of_the_factory(name):
    signature = inspect.signature(BY_NAME[name].make)
    defaults = {option: parameter.default for option, parameter in signature.parameters.items()}
    assert signature == inspect.signature(_ENTRIES[name].make)
    assert defaults["num_samples"] == max(1, BY_NAME[name].min_samples)
    BY_NAME[name].make(*defaults.values())  # also by position
    with pytest.raises(TypeError):
        BY_NAME[name].make(no_such_option=1)


@pytest.mark.parametrize(("name", "family", "bound"), _WITNESSES)
def test_no_buffer_is_two_leaves_of_an_init(name, family, bound):
    """A step to which the state is given away would give such a buffer away twice."""
    estimator, _ = make_estimator(name, bound)
    toy = problem(family)
    leaves = jax.tree.leaves(estimator.init(jax.random.key(0), toy.posterior(toy.phi), toy.theta["x"]))
    assert len({id(leaf) for leaf in leaves}) == len(leaves)


def test_an_odd_number_of_antithetic_samples_is_refused():
    with pytest.raises(ValueError, match=re.escape("must be even, got 3")):
        BY_NAME["reparam_antithetic"].make(num_samples=3)


def test_an_oracle_too_large_is_refused():
    q = Bernoulli(jnp.zeros((1, 23)))
    with pytest.raises(ValueError, match="use fewer latent dimensions"):
        BY_NAME["exact"].make().estimate({}, {}, None, q, lambda z: q.log_prob(z), mean)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_table_is_sane(name):
    entry = BY_NAME[name]
    assert set(entry.latents) <= {"any", "reparameterizable", *FAMILIES}
    assert entry.latents
    assert entry.reductions in (("mean",), ("log_mean_exp",), ("mean", "log_mean_exp"))
    assert name == "exact" or re.fullmatch(r".+ \(\d{4}\), arXiv:\d{4}\.\d{4,5}", entry.paper)
    estimator = entry.make()
    family = next(family for family in CORE if fits(entry, FAMILIES[family], entry.reductions[0]))
    toy = problem(family)
    q = toy.posterior(toy.phi)

    def run(key):
        params, state = estimator.init(key, q, None)
        return estimator.estimate(params, state, key, q, toy.integrand(toy.theta), REDUCE[entry.reductions[0]], 1.0)

    estimate = jax.jit(run)(jax.random.key(0))
    assert isinstance(estimate, Estimate)
    assert estimate.value.shape == q.batch_shape
    assert np.all(np.isfinite(estimate.value))
    assert estimate.cv_loss.shape == ()


@pytest.mark.parametrize("bound", REDUCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_fitting_names_what_fits(family, bound):
    names = fitting(FAMILIES[family], REDUCE[bound], LOG_Q_WEIGHT)
    assert {"reinforce", "leave_one_out"} <= set(names)
    assert ("reparam" in names) == (family not in ("Bernoulli", "Categorical"))
    assert ("stl" in names) == ("reparam" in names and bound == "mean")
    assert ("dreg" in names) == ("reparam" in names and bound == "log_mean_exp")
    assert ("exact" in names) == (family in ("Normal", "MultivariateNormal", "Bernoulli", "Categorical"))
