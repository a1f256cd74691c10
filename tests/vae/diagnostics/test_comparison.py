"""`compare` measures what the other functions measure, and its verdicts are right on models with known answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae
from experiments.common import plots
from tests.helpers.random_models import parameters
from vae import diagnostics, objectives
from vae.estimators import scale_cotangent, stateless

KEY = jax.random.key(5)
X = np.float32(np.random.default_rng(0).uniform(size=(6, 4, 4, 1)) < 0.4)


@functools.cache
def small_model(**choices):
    model = vae.make_vae(image_shape=(4, 4, 1), latent_dim=3, **{"hidden": (5,), **choices})
    return model, parameters(model, X)


@functools.cache
def bits():
    """Discrete latents, whose exact gradient is a sum over eight states; straight_through is biased."""
    model, variables = small_model(posterior="bernoulli")
    return diagnostics.compare(
        model, variables, X, {"disarm": 2, "reinforce": 1, "straight_through": 1}, draws=2000, key=KEY
    )


def column(result, name, group="encoder"):
    columns = result.to_dict()
    return columns[name][columns["group"] == group].tolist()


def test_figures_equal_those_of_gradient_moments_on_a_convolutional_model():
    model, variables = small_model(architecture="conv", hidden=(2,))
    reparam = vae.estimators.make("reparam", num_samples=2)
    result = diagnostics.compare(
        model.apply, variables, X, {"stl": 1}, draws=80, reference=reparam, reference_draws=160, key=KEY
    )
    bound = lambda params, x, expect: vae.elbo(model.apply, {"params": params}, x, expect)
    gradient = lambda estimator: functools.partial(
        diagnostics.make_gradient(bound, estimator), params=variables["params"], data=X
    )
    stl = gradient(vae.estimators.make("stl", num_samples=1))

    @jax.jit
    def program(key):
        key_draws, key_reference, _ = jax.random.split(key, 3)
        truth = diagnostics.reference(diagnostics.gradient_moments(gradient(reparam), key_reference, 160))
        moments = diagnostics.gradient_moments(stl, key_draws, 80)
        return diagnostics.report(moments, truth), diagnostics.figures_by_chunk(moments)

    report, by_chunk = jax.device_get(program(KEY))
    for group in ("encoder", "decoder"):
        for name in ("variance", "snr", "max_abs_z"):
            assert column(result, name, group) == pytest.approx([float(report[group][name])], rel=1e-3)
        assert column(result, "bias", group)[0] == pytest.approx(float(report[group]["scale"]) - 1, abs=1e-4)
        ends = diagnostics.interval(by_chunk[group]["variance"], diagnostics.resampling(20), log=True)
        assert [*column(result, "variance_low", group), *column(result, "variance_high", group)] == pytest.approx(
            ends, rel=1e-3
        )
    assert result.reference == "mean of 160 draws of the given reference"
    assert column(result, "flops") == [pytest.approx(diagnostics.flops(stl, KEY), rel=0.05)]
    assert column(result, "evaluations") == [1]


def test_a_biased_estimator_is_called_biased_and_unbiased_ones_are_not():
    assert bits().reference == "exact (sum over all states)"
    assert column(bits(), "biased") == [False, False, True]
    assert column(bits(), "verdict") == ["best", "worse", "BIASED, lower variance x cost"]
    assert column(bits(), "biased", "decoder") == [False, False, False]  # the decoder's gradient is a plain mean
    assert column(bits(), "to_best")[0] == 1


def test_a_factory_of_objectives_is_no_objective():
    with pytest.raises(TypeError, match="elbo_analytic is a factory of objectives; pass what it returns"):
        diagnostics.compare(*small_model(), X, {"stl": 1}, objective=vae.elbo_analytic, key=KEY)


def test_an_estimator_that_its_paper_calls_biased_is_not_the_best():
    """Also in the decoder, where it has no bias, and by four samples the least variance x cost."""
    model, variables = small_model(posterior="bernoulli")
    estimators = {"reinforce": 1, "straight_through": 4}
    result = diagnostics.compare(model, variables, X, estimators, draws=200, key=KEY, judge_by="flops")
    assert column(result, "declared_biased", "decoder") == [False, True]
    assert column(result, "to_best", "decoder")[1] < 0.9
    assert column(result, "verdict", "decoder")[0] == "best"


def test_an_estimator_that_is_biased_in_one_group_is_not_the_best_in_another():
    model, variables = small_model(posterior="bernoulli")
    estimators = {"reinforce": 1, "unknown": vae.estimators.make("straight_through", num_samples=4)}
    result = diagnostics.compare(model, variables, X, estimators, draws=1000, key=KEY, judge_by="flops")
    assert column(result, "declared_biased") == [False, False]
    assert column(result, "biased") == [False, True]
    assert column(result, "biased", "decoder") == [False, False]
    assert column(result, "to_best", "decoder")[1] < 0.9
    assert column(result, "verdict", "decoder")[0] == "best"


def test_an_estimator_without_variance_is_not_the_best_of_those_that_have_some():
    model, variables = small_model(posterior="bernoulli")
    nothing = stateless(lambda key, q, f, reduce, log_q_weight: jax.lax.stop_gradient(reduce(f(q.sample(key, 1)))))
    estimators = {"nothing": nothing, "exact": 1, "disarm": 2}
    result = diagnostics.compare(model, variables, X, estimators, draws=200, key=KEY)
    assert column(result, "variance")[:2] == [0, 0] < column(result, "variance")[1:]
    assert column(result, "verdict") == ["BIASED, ALWAYS ZERO", "no variance", "best"]
    assert column(result, "biased") == [True, False, False]
    assert np.isnan(column(result, "to_best")[0])  # no rank


def test_a_bias_is_seen_against_a_reference():
    """The pathwise gradient of one estimator is a tenth too long."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = scale_cotangent(q.rsample(key, 1), jnp.full((1, *q.batch_shape), 1.1))
        return reduce(f(z) - log_q_weight * jax.lax.stop_gradient(q).log_prob(z))

    model, variables = small_model()
    estimators = {"too long": stateless(estimate), "stl": 1}
    result = diagnostics.compare(model, variables, X, estimators, draws=1000, key=KEY)
    assert column(result, "biased") == [True, False]
    assert column(result, "verdict")[1] == "best"


def test_estimators_of_an_importance_weighted_bound_are_compared_at_one_k():
    model, variables = small_model()
    compare = functools.partial(diagnostics.compare, model, variables, X, objective=vae.iwae, draws=200, key=KEY)
    result = compare({"dreg": 4, "reparam": np.int64(4)})
    assert result.reference == "mean of 800 draws of reparam, K=4"
    assert column(result, "biased") == [False, False]
    with pytest.raises(ValueError, match=r"a different one for each K.*K=\[2, 4\]"):
        compare({"dreg": 4, "reparam": 2})


def test_an_estimator_is_measured_with_its_params_after_training():
    model, variables = small_model()
    estimator = vae.estimators.make("reinforce_ema", num_samples=1)

    @jax.jit
    def after_50_calls(variables):
        q = model.apply(variables, X, method="encode")
        f = lambda z: objectives.log_joint(model.apply, variables, X)(z)
        learned, counted = estimator.init(KEY, q, X)
        call = lambda counted, key: estimator.estimate(learned, counted, key, q, f, log_q_weight=1.0, context=X).state
        counted, _ = jax.lax.scan(lambda *args: (call(*args), None), counted, jax.random.split(KEY, 50))
        return learned, counted

    both = {"fresh": estimator, "trained": estimator}
    fitted = {"trained": after_50_calls(variables)}
    fresh, trained = column(
        diagnostics.compare(model, variables, X, both, draws=200, fitted=fitted, key=KEY), "variance"
    )
    assert trained < 0.3 * fresh


def test_the_table_prints_aligned_and_as_markdown():
    lines = str(bits()).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["decoder", "disarm"],
        ["decoder", "reinforce"],
        ["decoder", "straight_through"],
    ]
    verdicts = [*column(bits(), "verdict", "decoder"), *column(bits(), "verdict")]
    start = lines[0].index("verdict")
    assert [line[start:] for line in lines[1:7]] == verdicts
    assert lines[-1].startswith("2,000 draws each; truth: exact (sum over all states)")
    assert bits()._repr_markdown_().splitlines()[0].startswith("| group | estimator | evaluations | FLOP |")


def test_columns_are_arrays_of_one_length():
    columns = bits().to_dict()
    assert {len(array) for array in columns.values()} == {6}
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in columns.values())
    assert columns["variance"].dtype == np.float64


def test_the_plot_has_a_panel_for_each_group_and_a_point_for_each_estimator():
    figure = plots.comparison(bits())
    assert [ax.get_ylabel() for ax in figure.axes] == ["decoder: variance", "encoder: variance"]
    points = {float(y) for line in figure.axes[1].lines for y in np.ravel(line.get_ydata())}
    assert set(column(bits(), "variance")) <= points


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"draws": 110}, "draws=110 must be a multiple of chunks=20"),
        ({"estimators": {"disarm": 2}}, "disarm cannot estimate gradients with Normal latents"),
        ({"estimators": {"disamr": 2}}, "did you mean disarm"),
    ],
)
def test_what_cannot_be_compared_is_refused(choice, message):
    model, variables = small_model()
    with pytest.raises(ValueError, match=message):
        diagnostics.compare(**{"model": model, "params": variables, "x": X, "estimators": {}, "key": KEY, **choice})


def test_params_without_their_collection_are_refused():
    model, variables = small_model()
    with pytest.raises(ValueError, match="the variables that model.init returns"):
        diagnostics.compare(model, variables["params"], X, {"stl": 1}, key=KEY)


def test_parameters_that_are_no_float_arrays_are_refused_with_their_place():
    with pytest.raises(ValueError, match=r"\['decoder'\]\[0\] is a function and not a float array; in Equinox, eqx"):
        diagnostics.compare(small_model()[0], {"params": {"decoder": [lambda: None]}}, X, {"stl": 1}, key=KEY)


def test_groups_are_the_children_of_any_pytree():
    """Of a class too, such as a module of Equinox."""
    q = vae.distributions.Normal(mean=jnp.array([[0.3, -0.2]]), log_var=jnp.array([[0.1, 0.2]]))
    objective = lambda apply, variables, x, expect: expect(variables["params"], lambda z: jnp.sum(z, axis=-1))
    arguments = {"params": q}, X[:1], {"reparam": 1, "leave_one_out": 4}, objective
    result = diagnostics.compare(lambda: None, *arguments, draws=40, reference_draws=60, key=KEY)
    assert column(result, "variance", "mean")[0] == 0  # the pathwise gradient is 1
    assert column(result, "variance", "log_var")[0] > 0.1
    assert min(column(result, "variance", "mean")[1:] + column(result, "variance", "log_var")[1:]) > 0.1
    assert diagnostics.parts(q) == {"mean": [0], "log_var": [1]}
    assert diagnostics.parts(q.mean) == {"params": [0]}


def test_a_bound_that_calls_the_host_is_judged_by_evaluations():
    """An objective may use any function of the model's variables, here NumPy's maximum of three bits."""

    def best_bit(apply, variables, x, expect):
        shape = lambda z: jax.ShapeDtypeStruct(z.shape[:-1], jnp.float32)
        f = lambda z: jax.pure_callback(lambda z: np.max(z, axis=-1), shape(z), z, vmap_method="broadcast_all")
        logits = jnp.broadcast_to(variables["params"]["phi"]["logits"] + variables["constants"], (len(x), 3))
        return expect(vae.distributions.Bernoulli(logits), f)

    variables = {"params": {"phi": {"logits": np.float32([0.3, -1.0, 0.1])}}, "constants": np.float32(0.0)}
    compare = functools.partial(diagnostics.compare, lambda: None, variables, X[:2], objective=best_bit, draws=200)
    result = compare({"local_expectation": 1, "leave_one_out": 2}, key=KEY)
    assert result.judge_by == "evaluations"
    assert result.reference == "exact (sum over all states)"
    assert column(result, "biased", "phi") == [False, False]
    costs = np.array(column(result, "variance", "phi")) * column(result, "evaluations", "phi")
    best = int(np.argmin(costs))
    assert column(result, "to_best", "phi") == pytest.approx(costs / costs[best], rel=1e-4)
    assert column(result, "verdict", "phi")[best] == "best"
    assert "variance x evaluations" in str(result)
    assert "variance x FLOP" not in str(result)
    with pytest.raises(ValueError, match=r"^judge_by=flops must be evaluations, because .* host \(pure_callback\)$"):
        compare({"leave_one_out": 2}, judge_by="flops", key=KEY)
    with pytest.raises(ValueError, match="^gumbel_softmax differentiates f in z, and f is a black box on the host"):
        compare({"gumbel_softmax": 1}, key=KEY)
    model, others = small_model()
    with pytest.raises(ValueError, match="^judge_by=seconds must be flops or evaluations$"):
        diagnostics.compare(model, others, X, {"stl": 1}, draws=200, key=KEY, judge_by="seconds")
