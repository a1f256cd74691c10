"""Moments against stored draws, figures against numbers worked out by hand, and the laboratory's sight: it finds no
bias where there is none, and finds the bias of estimators that have one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from vae.estimators.base import stateless

from experiments.common import problems
from vae import diagnostics, distributions
from vae.estimators import BY_NAME, Estimator, doubly_reparam, log_mean_exp, mean, scale_cotangent

SHAPE = {"encoder": {"first": {"kernel": (3, 2), "bias": (2,)}, "last": {"bias": ()}}, "decoder": {"w": (2,)}}
IS_SHAPE = lambda node: isinstance(node, tuple)


def noisy_gradient(key):
    """Skewed draws around a mean that is far from zero."""
    shapes, structure = jax.tree.flatten(SHAPE, is_leaf=IS_SHAPE)
    keys = jax.random.split(key, len(shapes))
    draws = [3.0 + jnp.exp(jax.random.normal(k, shape, jnp.float32)) for k, shape in zip(keys, shapes, strict=True)]
    return structure.unflatten(draws)


def some_truth():
    shapes, structure = jax.tree.flatten(SHAPE, is_leaf=IS_SHAPE)
    rng = np.random.default_rng(0)
    return diagnostics.exactly(structure.unflatten([4 + rng.normal(size=shape) for shape in shapes]))


def flat(tree):
    """[draws, coordinates] of a tree of stacked draws."""
    return np.concatenate([np.float64(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def stored(draws, key):
    return jax.vmap(lambda i: noisy_gradient(jax.random.fold_in(key, i)))(jnp.arange(draws))


@pytest.mark.parametrize("block", [1, 5])
def test_moments_equal_numpy_on_stored_draws(block):
    key = jax.random.key(3)
    moments = jax.jit(lambda key: diagnostics.gradient_moments(noisy_gradient, key, 200, 10, block, some_truth()))(key)
    draws = flat(stored(200, key))
    truth = diagnostics.reference(moments)
    mean_found, error_found = (
        flat(jax.tree.map(lambda x: x[None], tree))[0] for tree in (truth.gradient, truth.stderr)
    )
    np.testing.assert_allclose(mean_found, draws.mean(0), rtol=2e-6)
    np.testing.assert_allclose(error_found, draws.std(0, ddof=1) / np.sqrt(200), rtol=2e-5)
    chunk = draws.reshape(10, 20, -1)
    np.testing.assert_allclose(flat(moments.mean), chunk.mean(1), rtol=2e-6)
    np.testing.assert_allclose(flat(moments.square), chunk.var(1) * 20, rtol=2e-4)


def figures(key, block=1):
    """All that is made of the moments."""
    moments = diagnostics.gradient_moments(noisy_gradient, key, 200, 10, block, some_truth())
    truth = diagnostics.reference(moments)
    return moments, truth, diagnostics.report(moments, truth), diagnostics.bootstrap(moments, key, 3)


@pytest.mark.parametrize("block", [1, 5])
def test_figures_stay_in_float32_where_float64_is_on(block):
    with jax.enable_x64(True):
        found = jax.eval_shape(functools.partial(figures, block=block), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_products_of_figures_are_not_rounded():
    program = str(jax.make_jaxpr(figures)(jax.random.key(0)))
    assert program.count("dot_general[") == program.count("HIGHEST,") > 10


def test_report_against_hand_computation():
    key, truth = jax.random.key(1), some_truth()
    moments = diagnostics.gradient_moments(noisy_gradient, key, 300, 10, truth=truth)
    report = jax.jit(diagnostics.report)(moments, truth)
    assert set(report) == {"encoder", "encoder.first", "encoder.last", "decoder"}
    draws = stored(300, key)
    for name, pick in {
        "encoder": lambda tree: tree["encoder"],
        "encoder.first": lambda tree: tree["encoder"]["first"],
        "decoder": lambda tree: tree["decoder"],
    }.items():
        g, t = flat(pick(draws)), flat(jax.tree.map(lambda x: x[None], pick(truth.gradient)))[0]
        average, deviation = g.mean(0), g.std(0, ddof=1)
        cosine = g @ t / np.linalg.norm(t) / np.linalg.norm(g, axis=1)
        along = (g @ t / np.linalg.norm(t))[:, None] * t / np.linalg.norm(t)
        scales = (g @ t / (t @ t)).reshape(10, 30).mean(1)
        expected = {
            "variance": np.sum(deviation**2),
            "snr": np.mean(np.abs(average) / deviation),
            "cosine": cosine.mean(),
            "scale": average @ t / (t @ t),
            "scale_stderr": scales.std(ddof=1) / np.sqrt(10),
            "max_abs_z": np.max(np.abs(average - t) / deviation) * np.sqrt(300),
            "relative_bias": np.linalg.norm(average - t) / np.linalg.norm(t),
            "relative_stderr": np.linalg.norm(deviation) / np.sqrt(300) / np.linalg.norm(t),
            "deviation": np.linalg.norm(average - t) / np.linalg.norm(deviation) * np.sqrt(300),
            "truth_stderr": 0.0,
            "norm": np.linalg.norm(t),
            "size": g.shape[1],
        }
        if g.shape[1] > 2:
            expected["dsnr"] = np.mean(np.linalg.norm(along, axis=1) / np.linalg.norm(g - along, axis=1))
        else:
            assert np.isnan(report[name]["dsnr"])
        for figure, value in expected.items():
            np.testing.assert_allclose(report[name][figure], value, rtol=2e-3, err_msg=f"{name} {figure}")


def test_resampled_figures_are_those_of_the_draws_picked():
    key, truth = jax.random.key(1), some_truth()
    moments = diagnostics.gradient_moments(noisy_gradient, key, 4000, 10, 40, truth)
    picks = np.array([[0, 0, 3, 3, 4, 5, 6, 7, 8, 9], np.arange(10)])
    weights = np.stack([np.bincount(row, minlength=10) for row in picks]).astype(np.float32)
    found = diagnostics.resample(moments, weights)["encoder"]
    report = diagnostics.report(moments, truth)["encoder"]
    draws = flat(stored(4000, key)["encoder"]).reshape(10, 400, -1)
    for b, row in enumerate(picks):
        g = draws[row].reshape(4000, -1)
        np.testing.assert_allclose(found["variance"][b], g.var(0, ddof=1).sum(), rtol=1e-4)
        # Linearized: right to second order in what the resampling changes.
        np.testing.assert_allclose(
            found["snr"][b], np.mean(g.mean(0) / g.std(0, ddof=1)), rtol=0.02 if b == 0 else 1e-4
        )
    for figure in diagnostics.FIGURES:
        np.testing.assert_allclose(found[figure][1], report[figure], rtol=1e-4)


def test_bootstrap_knows_its_spread():
    """The bootstrap's standard error of the variance agrees with that over repetitions of the whole experiment."""
    gradient = lambda key: {"a": jax.random.normal(key, (4,))}
    truth = diagnostics.exactly({"a": np.ones(4)})

    def once(key):
        moments = diagnostics.gradient_moments(gradient, key, 500, 50, 10, truth)
        spread = jnp.std(diagnostics.bootstrap(moments, key, 200)["a"]["variance"])
        return diagnostics.report(moments, truth)["a"]["variance"], spread

    variances, spreads = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(0), 200))
    assert float(np.mean(spreads)) == pytest.approx(float(np.std(variances)), rel=0.15)
    assert float(np.mean(variances)) == pytest.approx(4.0, rel=0.02)


def test_interval_is_students():
    """For a mean of normal draws, the expanded percentiles are Student's interval."""
    rng = np.random.default_rng(0)
    replicates = rng.normal(2.0, np.sqrt(9 / 10) / np.sqrt(10), 400_000)  # bootstrap of 10 draws of variance 1
    low, high = diagnostics.interval(replicates, 10)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 9) / np.sqrt(10), rel=0.02)
    assert (low + high) / 2 == pytest.approx(2.0, abs=0.01)


def test_critical_z_covers():
    assert diagnostics.critical_z(1, 0.05) == pytest.approx(1.96, abs=0.001)
    assert 1 - (1 - 2 * stats.norm.sf(diagnostics.critical_z(1000, 0.01))) ** 1000 == pytest.approx(0.01, rel=0.01)


def test_a_noisy_reference_shrinks_nobody():
    """A reference as noisy as the estimator: scale stays 1 within its standard error; |t|^2 alone would shrink it."""
    truth_of = lambda key: {"a": jnp.full(400, 0.1) + jax.random.normal(key, (400,))}
    moments = functools.partial(diagnostics.gradient_moments, truth_of, draws=400, chunks=20, block=20)
    reference = diagnostics.reference(moments(jax.random.key(0)))
    report = diagnostics.report(moments(jax.random.key(1), truth=reference), reference)["a"]
    assert float(report["norm"]) == pytest.approx(2.0, rel=0.15)
    assert abs(report["scale"] - 1) < 4 * report["scale_stderr"] < 0.6
    assert report["max_abs_z"] < diagnostics.critical_z(400)


def test_rare_events_are_no_bias_and_constants_are():
    """Right on the average, but moved in one draw of 500; right but for a constant."""

    def draw(key, constant=1.0):
        key_event, key_noise = jax.random.split(key)
        rare = jnp.where(jax.random.uniform(key_event, (400,)) < 0.002, 500.0, 0.0)
        return {
            "a": {"rare": rare, "steady": 1 + jax.random.normal(key_noise, (10,)), "constant": jnp.array([constant])}
        }

    truth = diagnostics.exactly({"a": {"rare": np.ones(400), "steady": np.ones(10), "constant": np.ones(1)}})
    measure = lambda gradient: diagnostics.report(
        diagnostics.gradient_moments(gradient, jax.random.key(0), 1000, 10, 100, truth), truth
    )["a"]
    assert measure(draw)["max_abs_z"] < diagnostics.critical_z(411)
    assert measure(functools.partial(draw, constant=1.01))["max_abs_z"] > diagnostics.critical_z(411)
    lost = lambda key: {"a": {name: leaf * (name != "steady") for name, leaf in draw(key)["a"].items()}}
    assert measure(lost)["max_abs_z"] > diagnostics.critical_z(411)


def test_chunks_must_fit():
    with pytest.raises(ValueError, match="draws=100 must be 7 chunks"):
        diagnostics.gradient_moments(noisy_gradient, jax.random.key(0), 100, 7)


# Estimators


def examine(problem, objective, estimator, num_samples=1, draws=20_000, truth=None):
    gradient = diagnostics.make_gradient(problem.bounds[objective], estimator)
    if truth is None:
        truth = diagnostics.exactly(problem.oracle(objective, num_samples))
    run = functools.partial(gradient, problem.params, problem.data, {}, {}, problem.context)
    moments = jax.jit(lambda key: diagnostics.gradient_moments(run, key, draws, 50, draws // 50, truth))
    return jax.jit(diagnostics.report)(moments(jax.random.key(0)), truth)


def biased(figures):
    return figures["max_abs_z"] > diagnostics.critical_z(figures["size"])


@pytest.mark.parametrize("name", ["reparam", "stl", "leave_one_out"])
def test_no_bias_is_found_where_there_is_none(name):
    num_samples = BY_NAME[name].min_samples
    found = examine(problems.linear_gaussian(), "elbo", BY_NAME[name].make(num_samples=num_samples), num_samples)
    for part, figures in found.items():
        assert not biased(figures), (part, figures)
        assert figures["relative_stderr"] < 0.05


def test_a_scaled_gradient_is_caught():
    """Two percent too long on its way through z, as no estimator should be."""

    def estimate(key, q, f, reduce):
        z = q.rsample(key, 1)
        return reduce(f(scale_cotangent(z, jnp.full(z.shape[:-1], 1.02)), q))

    found = examine(problems.linear_gaussian(), "elbo", stateless(estimate), draws=100_000)
    assert biased(found["encoder"])
    assert not biased(found["decoder"])


def test_sticking_the_landing_of_an_importance_weighted_bound_is_caught():
    """Against quadrature: K = 2 samples of a Gaussian in two dimensions."""
    problem = problems.from_integrand(
        "toy",
        {"phi": {"mean": jnp.array([0.3, -0.2]), "log_var": jnp.array([-0.4, 0.2])}},
        posterior=lambda params: distributions.Normal(**params["phi"]),
        f=lambda params, z: -jnp.sum(jnp.square(1.5 * jnp.sin(z) - 1), axis=-1),
    )
    gradient = diagnostics.make_gradient(problem.bounds["iwae"], BY_NAME["exact"].make(num_samples=2, order=40))
    truth = diagnostics.exactly(jax.jit(gradient)(problem.params, None, {}, {}, None, None))
    bare = doubly_reparam.stl(2)
    for estimator, caught in ((bare, True), (BY_NAME["dreg"].make(num_samples=2), False)):
        found = examine(problem, "iwae", estimator, 2, 50_000, truth)
        assert biased(found["phi"]) == caught, found


@pytest.mark.parametrize("m", [1.0, 2.0])
def test_variances_of_the_quadratic_cost(m):
    """ESTIMATORS.md C4 with sigma = 1: pathwise 4 and 4 m^2 + 8, score function m^4 + 14 m^2 + 15 and so on."""
    problem = problems.quadratic(1 - m)
    pathwise = examine(problem, "elbo", BY_NAME["reparam"].make(num_samples=1), draws=400_000)
    assert pathwise["phi.mean"]["variance"] == pytest.approx(4, rel=0.02)
    assert pathwise["phi.scale"]["variance"] == pytest.approx(4 * m**2 + 8, rel=0.03)
    score = examine(problem, "elbo", BY_NAME["reinforce"].make(num_samples=1), draws=400_000)
    assert score["phi.mean"]["variance"] == pytest.approx(m**4 + 14 * m**2 + 15, rel=0.05)
    assert score["phi.scale"]["variance"] == pytest.approx(2 * m**4 + 60 * m**2 + 74, rel=0.08)


@pytest.mark.parametrize("name", ["quadratic", "exponential", "cosine", "logistic_regression", "rainforth"])
def test_oracles_agree_with_the_pathwise_gradient(name):
    problem = getattr(problems, name)()
    for objective in set(problem.bounds) - {"iwae"}:
        found = examine(problem, objective, BY_NAME["reparam"].make(num_samples=1))
        for part, figures in found.items():
            assert not biased(figures), (objective, part, figures)


# Cost


def test_evaluations_count_samples_not_calls():
    q = distributions.Normal(jnp.zeros((3, 2)), jnp.zeros((3, 2)))

    def count(estimator: Estimator, reduce):
        def value(watch, key):
            f = watch(lambda z, q: -jnp.sum(z**2, axis=-1) - q.log_prob(z))
            return estimator.estimate({}, {}, key, q, f, reduce).value

        return diagnostics.evaluations(value, jax.random.key(0))

    assert count(BY_NAME["reparam"].make(num_samples=5), mean) == 5
    assert count(BY_NAME["dreg"].make(num_samples=5), log_mean_exp) == 5  # a second call at the same z
    assert count(BY_NAME["exact"].make(order=7), mean) == 49

    def twice(key, q, f, reduce):
        first, second = jax.random.split(key)
        return reduce(f(q.sample(first, 2), q)) - reduce(f(q.sample(second, 3), q))

    assert count(stateless(twice), mean) == 5


def test_coinciding_discrete_samples_count():
    q = distributions.Bernoulli(jnp.full((1,), 8.0))
    f = lambda z, q: jnp.sum(z, axis=-1)
    estimator = BY_NAME["leave_one_out"].make(num_samples=6)
    value = lambda watch, key: estimator.estimate({}, {}, key, q, watch(f), mean).value
    assert diagnostics.evaluations(value, jax.random.key(0)) == 6


def test_a_draw_of_zero_has_no_direction_and_spoils_no_mean():
    truth = diagnostics.Truth({"w": jnp.ones(4)}, {"w": jnp.zeros(4)}, {"w": jnp.zeros(())})
    gradient = lambda key: {"w": jnp.where(jax.random.bernoulli(key), 1.0, 0.0) * jax.random.normal(key, (4,))}
    report = diagnostics.report(diagnostics.gradient_moments(gradient, jax.random.key(0), 400, 10, truth=truth), truth)
    assert all(np.isfinite(each["cosine"]) and np.isfinite(each["dsnr"]) for each in report.values())


def test_flops_of_a_loop_are_those_of_all_its_rounds():
    weight = jnp.ones((32, 32))

    def looped(x):
        return jax.lax.map(lambda row: jax.lax.scan(lambda c, _: (c @ weight, None), row, None, 5)[0], x)

    assert diagnostics.flops(looped, jnp.ones((7, 3, 32))) == pytest.approx(7 * 5 * 2 * 3 * 32 * 32, rel=0.05)


def test_flops_of_a_matrix_product():
    assert diagnostics.flops(jnp.dot, jnp.ones((64, 32)), jnp.ones((32, 16))) == pytest.approx(
        2 * 64 * 32 * 16, rel=0.01
    )


def test_repeated_sums_the_same_draws():
    key = jax.random.key(0)
    for block in (1, 4):
        total = jax.jit(lambda key, steps, b=block: diagnostics.repeated(noisy_gradient, key, steps, b))(
            key, 8 // block
        )
        np.testing.assert_allclose(
            flat(jax.tree.map(lambda x: x[None], total))[0], flat(stored(8, key)).sum(0), rtol=1e-5
        )


def test_interleaved_times_every_program_in_every_round():
    calls = []
    seconds = diagnostics.interleaved_seconds([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert seconds.shape == (2, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
