"""Networks: every shape, every posterior, every likelihood, by the numbers that come out of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from vae import distributions as dist
from vae import models, objectives
from vae.estimators import BY_NAME

SHAPES = [(8, 8, 1), (28, 28, 1), (28, 20, 1), (32, 32, 3), (5, 7, 1), (1, 10, 1)]
K, B, D = 3, 2, 4
f64 = lambda array: np.asarray(array, np.float64)


def _images(shape, batch=B, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(batch, *shape)), jnp.float32)


def _params(model, x, seed=0):
    """Parameters of the shapes that `init` gives, drawn by NumPy: nothing to compile, and no leaf is zero."""
    rng = np.random.default_rng(seed)
    fill = lambda leaf: np.asarray(rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]), np.float32)
    return jax.tree.map(fill, jax.eval_shape(lambda key: model.init(key, x, key), jax.random.key(0)))


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_image_shape(shape, architecture):
    model = models.make_vae(shape, latent_dim=D, hidden=(6, 5), architecture=architecture, activation="tanh")
    x = _images(shape)
    z = np.random.default_rng(1).normal(size=(K, B, D)).astype(np.float32)
    z[0, 1] = z[1, 0]

    @jax.jit
    def program(params):
        q = model.apply(params, x, method="encode")  # no rngs: no module calls make_rng
        terms = (model.apply(params, x, z, method=name) for name in ("log_likelihood", "log_joint"))
        prior = model.apply(params, method="prior_distribution")
        return q, model.apply(params, z, method="decode").logits, *terms, prior.log_prob(z)

    q, logits, likelihood, joint, log_prior = jax.device_get(program(_params(model, x)))
    assert q.mean.shape == q.log_var.shape == (B, D)
    assert logits.shape == (K, B, np.prod(shape))
    flat = f64(x).reshape(B, -1)
    truth = np.sum(flat * f64(logits) - np.logaddexp(0, f64(logits)), axis=-1)
    np.testing.assert_allclose(likelihood, truth, rtol=1e-5)
    np.testing.assert_allclose(log_prior, st.norm.logpdf(f64(z)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(joint, likelihood + log_prior, rtol=1e-6)
    # Another image has another posterior, another z another image, and the same z the same one wherever it stands.
    assert np.all(q.mean[0] != q.mean[1])
    assert np.all(np.abs(logits[0, 0] - logits[1:, 0]).max(axis=-1) > 1e-3)
    np.testing.assert_allclose(logits[0, 1], logits[1, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("posterior", "architecture"), [("normal", "conv"), *((name, "mlp") for name in models.POSTERIORS)]
)
def test_layers_compute_in_bfloat16_and_all_else_in_float32(posterior, architecture):
    layers = (3, 2) if posterior in ("normal", "bernoulli", "categorical", "concrete") else 3
    sizes = {"latent_dim": layers, "hidden": (6, 5), "layer_hidden": (4,), "architecture": architecture}
    model = models.make_vae((8, 8, 1), posterior=posterior, compute_dtype="bfloat16", **sizes)
    key, x = jax.random.key(0), _images((8, 8, 1))

    def terms(params):
        q = model.apply(params, x, method="encode")
        z = q.sample(key, K)
        return q, z, q.log_prob(z), model.apply(params, x, z, method="log_joint")

    params = jax.eval_shape(lambda: model.init(key, x, key))
    with jax.numpy_dtype_promotion("strict"):
        program, results = jax.make_jaxpr(terms, return_shape=True)(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, results))} == {jnp.dtype("float32")}
    made = re.findall(r":(\w+)\[[\d,]*\] = (\w+)", str(program))
    products = {dtype for dtype, operation in made if operation in ("dot_general", "conv_general_dilated")}
    assert products == ({"bf16"} if posterior != "full_covariance" else {"bf16", "f32"})  # L eps, of the distribution
    assert not {operation for dtype, operation in made if dtype == "bf16"} & {"log", "exp", "log1p", "reduce_sum"}


def test_bfloat16_moves_outputs_by_its_rounding():
    """Eight bits of mantissa: half a percent of each product, a few of them in a row."""
    x, z = _images((8, 8, 1)), np.random.default_rng(1).normal(size=(K, B, D)).astype(np.float32)
    narrow, wide = (
        models.make_vae((8, 8, 1), latent_dim=D, hidden=(6, 5), compute_dtype=dtype)
        for dtype in ("bfloat16", "float32")
    )
    params = _params(wide, x)
    ours, theirs = (model.apply(params, z, method="decode").logits for model in (narrow, wide))
    scale = np.abs(theirs).max()
    assert 1e-4 < np.abs(ours - theirs).max() / scale < 0.03


def test_conv_decoder_reaches_every_pixel():
    """Every pixel and every colour depends on z, the cropped edges too; no two pixels are one."""
    model = models.make_vae((5, 7, 3), latent_dim=D, hidden=(6, 5), architecture="conv", activation="tanh")
    params = _params(model, _images((5, 7, 3)))
    z = jax.random.normal(jax.random.key(0), (2, 1, D))
    first, second = jax.jit(lambda z: model.apply(params, z, method="decode").logits)(z)[:, 0]
    assert np.all(first != second)
    assert len(np.unique(first)) == 5 * 7 * 3


def test_conv_encoder_sees_every_pixel():
    model = models.make_vae((5, 7, 1), latent_dim=D, hidden=(6, 5), architecture="conv", activation="tanh")
    x = _images((5, 7, 1), batch=1)
    params = _params(model, x)
    seen = jax.jit(jax.grad(lambda x: jnp.sum(model.apply(params, x, method="encode").mean)))(x)
    assert np.all(seen != 0)


def test_the_key_is_the_noise():
    model = models.make_vae((4, 4, 1), latent_dim=D, hidden=(6,))
    x = _images((4, 4, 1))
    params = _params(model, x)

    @jax.jit
    def call(params, key):
        z = model.apply(params, x, method="encode").sample(key, K)
        return model.apply(params, x, key, K).logits, model.apply(params, z, method="decode").logits

    first, by_hand = call(params, jax.random.key(1))
    np.testing.assert_allclose(first, by_hand, rtol=1e-6, atol=1e-6)  # encodes, samples with the key given, decodes
    np.testing.assert_array_equal(first, call(params, jax.random.key(1))[0])
    assert np.abs(first - call(params, jax.random.key(2))[0]).max() > 1e-3
    # Common random numbers: with the same key, a small change of the parameters is a small change of the draw.
    near = jax.tree.map(lambda leaf: leaf * (1 + 1e-5), params)
    assert np.abs(first - call(near, jax.random.key(1))[0]).max() < 1e-3


@pytest.mark.parametrize(
    ("option", "known"),
    [("architecture", "mlp, conv"), ("activation", "relu, "), ("posterior", "normal, "), ("likelihood", "bernoulli, ")],
)
def test_unknown_names_are_refused(option, known):
    with pytest.raises(ValueError, match=f"--{option} must be one of {known}.*'resnet'"):
        models.make_vae((4, 4, 1), **{option: "resnet"})


@pytest.mark.parametrize("activation", sorted(models.ACTIVATIONS))
def test_the_mlp_is_its_formula(activation):
    network = models.MLP((5, 3), models.ACTIVATIONS[activation], outputs=2, event_ndim=3)
    x = _images((2, 3, 1)) - 0.5
    params = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(network.init, jax.random.key(0), x),
    )
    act = {
        "relu": lambda h: np.maximum(h, 0),
        "tanh": np.tanh,
        "leaky_relu": lambda h: np.where(h > 0, h, 0.01 * h),
        "gelu": lambda h: 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))),
    }[activation]
    h = f64(x).reshape(B, -1)
    for name in ("hidden_0", "hidden_1"):
        h = act(h @ f64(params["params"][name]["kernel"]) + f64(params["params"][name]["bias"]))
    h = h @ f64(params["params"]["outputs"]["kernel"]) + f64(params["params"]["outputs"]["bias"])
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), h, rtol=1e-5, atol=1e-5)


# The implicit gradients compile for long; Dirichlet and Student t stay to represent them.
_slow = lambda family: pytest.param(family, marks=[pytest.mark.slow] if family in ("beta", "gamma") else [])


@pytest.mark.parametrize("family", [_slow(each) for each in sorted(models.POSTERIORS)])
def test_every_posterior_trains(family):
    """One step up the gradient, which is finite and reaches all parameters, raises the bound at the same noise."""
    model = models.make_vae((4, 4, 1), latent_dim=3, hidden=(6,), activation="tanh", posterior=family, categories=3)
    estimator = BY_NAME["leave_one_out" if family in ("bernoulli", "categorical") else "reparam"].make(num_samples=4)
    x = _images((4, 4, 1), batch=5)

    def bound(params, key):
        expect = lambda q, f, reduce: estimator.estimate({}, {}, key, q, f, reduce)
        return jnp.mean(objectives.elbo(model.apply, params, x, expect).value)

    with jax.numpy_dtype_promotion("strict"):
        params = _params(model, x)
        step = jax.jit(jax.value_and_grad(bound))
        value, grads = step(params, jax.random.key(1))
        moved = jax.tree.map(lambda leaf, slope: leaf + 1e-2 * slope, params, grads)
        higher, _ = step(moved, jax.random.key(1))
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path
    if family not in ("bernoulli", "categorical"):  # whose gradient is not that of the value at fixed noise
        assert float(higher) > float(value)


@pytest.mark.parametrize("family", sorted(models.POSTERIORS))
def test_a_posterior_of_zeros_is_the_prior(family):
    """But for Student's t, which has no prior of its own family."""
    outputs, build, *_ = models.POSTERIORS[family]
    q = build(np.zeros((B, outputs(3, 4)), np.float32), 3)
    prior = jax.jit(models.Prior(3, family, categories=4).apply)({})
    assert (q.batch_shape, prior.batch_shape) == ((B,), ())
    if family == "student_t":
        np.testing.assert_allclose(np.exp(q.log_df), np.exp(2.0), rtol=1e-6)
        return
    learned = models.Prior(3, family, categories=4, learned=True)
    params = learned.init(jax.random.key(0))
    if models.POSTERIORS[family].hard:  # no closed form
        z = q.sample(jax.random.key(1), 5)
        np.testing.assert_array_equal(q.log_prob(z), np.broadcast_to(prior.log_prob(z), (5, B)))
    else:
        np.testing.assert_allclose(jax.jit(dist.kl)(q, prior), np.zeros(B), atol=1e-5)
        if family != "full_covariance":  # no closed form between two of them
            np.testing.assert_allclose(jax.jit(dist.kl)(q, learned.apply(params)), np.zeros(B), atol=1e-5)
    moved = jax.jit(learned.apply)(jax.tree.map(lambda leaf: leaf + 0.3 * np.arange(leaf.size), params))
    assert any(np.any(leaf != like) for leaf, like in zip(*map(jax.tree.leaves, (moved, prior)), strict=True))


def test_full_covariance_is_built_of_all_its_outputs():
    outputs, build, *_ = models.POSTERIORS["full_covariance"]
    flat = jnp.asarray(np.random.default_rng(0).normal(size=(B, outputs(3, 1))), jnp.float32)
    q = build(flat, 3)
    np.testing.assert_array_equal(q.mean, flat[:, :3])
    sigma = np.exp(0.5 * f64(flat[:, 3:6]))
    np.testing.assert_allclose(np.diagonal(q.cholesky, axis1=-2, axis2=-1), sigma, rtol=1e-6)
    rows, columns = np.tril_indices(3, -1)
    np.testing.assert_allclose(q.cholesky[:, rows, columns], sigma[:, rows] * f64(flat[:, 6:]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(np.triu(q.cholesky, 1), 0)


def _likelihood(name, shape=(2, 3, 1)):
    model = models.make_vae(shape, latent_dim=D, hidden=(6,), activation="tanh", likelihood=name)
    x = jnp.round(_images(shape, batch=5) * 255) / 255
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))
    z = jax.random.normal(jax.random.key(3), (K, 5, D))
    return model, params, x, z


def test_gaussian_likelihood_learns_its_scale():
    model, params, x, z = _likelihood("gaussian")
    pixels = model.apply(params, z, method="decode")
    flat = f64(x).reshape(5, -1)
    total = lambda params: jnp.sum(model.apply(params, x, z, method="log_likelihood"))
    slope = lambda params: jax.grad(total)(params)["params"]["decoder"]["log_scale"]
    np.testing.assert_allclose(pixels.scale, np.exp(-1.0), rtol=1e-6)
    assert np.all((pixels.mean > 0) & (pixels.mean < 1))
    squares = (flat - f64(pixels.mean)) ** 2  # [K, B, pixels]
    # d/d log s of sum log N(x; m, s^2) = sum ((x - m)^2 / s^2 - 1), one scale a pixel
    np.testing.assert_allclose(slope(params), np.sum(squares / np.exp(-2.0) - 1, axis=(0, 1)), rtol=1e-4)
    # At the maximum-likelihood scale the slope is zero, and the likelihood what scipy says.
    best = 0.5 * np.log(squares.mean(axis=(0, 1)))
    params["params"]["decoder"]["log_scale"] = jnp.asarray(best, jnp.float32)
    np.testing.assert_allclose(slope(params), 0, atol=1e-3)
    truth = st.norm(f64(pixels.mean), np.exp(best)).logpdf(flat).sum(-1)
    np.testing.assert_allclose(model.apply(params, x, z, method="log_likelihood"), truth, rtol=1e-5)


def test_discretized_logistic_likelihood_is_a_mass():
    model, params, x, z = _likelihood("discretized_logistic")
    pixels = model.apply(params, z, method="decode")
    cdf = st.logistic(f64(pixels.mean), np.exp(-2.0)).cdf
    flat, half = f64(x).reshape(5, -1), 0.5 / 255
    upper, lower = np.where(flat > 1 - half, 1, cdf(flat + half)), np.where(flat < half, 0, cdf(flat - half))
    np.testing.assert_allclose(
        model.apply(params, x, z, method="log_likelihood"), np.log(upper - lower).sum(-1), rtol=1e-5
    )
    slope = jax.grad(lambda params: jnp.sum(model.apply(params, x, z, method="log_likelihood")))(params)
    assert np.all(slope["params"]["decoder"]["log_scale"] != 0)


def test_the_data_mean_centres_both_ends():
    """The encoder sees x - mean; the decoder's output begins at the logits of the mean."""
    shape, mean = (2, 3, 1), (0.1, 0.5, 0.9, 0.3, 0.2, 0.7)
    options = dict(latent_dim=D, hidden=(6,), activation="tanh")
    plain, centred = models.make_vae(shape, **options), models.make_vae(shape, **options, data_mean=mean)
    x, z = _images(shape), np.zeros((1, B, D), np.float32)
    params = _params(plain, x)
    shifted = x - np.float32(mean).reshape(shape)
    np.testing.assert_allclose(
        centred.apply(params, x, method="encode").mean, plain.apply(params, shifted, method="encode").mean, rtol=1e-5
    )
    difference = centred.apply(params, z, method="decode").logits - plain.apply(params, z, method="decode").logits
    np.testing.assert_allclose(jax.nn.sigmoid(difference), np.broadcast_to(mean, (1, B, 6)), rtol=1e-5)


def test_the_negative_slope_is_that_of_leaky_relu():
    """Where every hidden unit is negative, networks of twice the slope give twice the change."""
    options = dict(latent_dim=D, hidden=(6,), activation="leaky_relu")
    steep, flat = (models.make_vae((2, 3, 1), **options, negative_slope=slope) for slope in (0.3, 0.15))
    assert steep == models.make_vae((2, 3, 1), **options, negative_slope=0.3)  # equal networks are compiled once
    x = _images((2, 3, 1))
    params = _params(steep, x)
    params["params"]["encoder"]["network"]["hidden_0"]["bias"] -= 100
    mean = lambda model, x: f64(model.apply(params, x, method="encode").mean)
    change = mean(flat, x) - mean(flat, 0 * x)
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(mean(steep, x) - mean(steep, 0 * x), 2 * change, atol=1e-4)


@pytest.mark.parametrize("family", ["bernoulli", "binary_concrete"])
def test_signed_bits_are_seen_as_minus_one_and_one(family):
    """By the decoder, and by the encoder of the layer above: with half the weights on what they see and its mean in the
    bias, the networks that see 0 and 1 are the same."""
    options = dict(latent_dim=(D, 2), hidden=(6,), layer_hidden=(5,), posterior=family)
    plain, signed = (models.make_vae((2, 3, 1), **options, signed_bits=each) for each in (False, True))
    x, key = _images((2, 3, 1)), jax.random.key(3)
    params = _params(plain, x)
    other = jax.tree.map(lambda leaf: leaf, params)
    for part in ("encoder/rest_0", "prior/rest_0", "decoder"):
        first, second = part.split("/") if "/" in part else (part, None)
        network = other["params"][first][second]["network"] if second else other["params"][first]["network"]
        layer = network["hidden_0"]
        network["hidden_0"] = {"kernel": layer["kernel"] / 2, "bias": layer["bias"] + layer["kernel"].sum(0) / 2}
    z = plain.apply(params, x, method="encode").sample(key, 2)
    joint = [m.apply(p, x, z, method="log_joint") for m, p in ((plain, params), (signed, other), (signed, params))]
    posterior = [m.apply(p, x, method="encode").log_prob(z) for m, p in ((plain, params), (signed, other))]
    np.testing.assert_allclose(joint[0], joint[1], rtol=1e-5)
    np.testing.assert_allclose(posterior[0], posterior[1], rtol=1e-5)
    assert np.abs(f64(joint[0]) - f64(joint[2])).min() > 1e-3  # the same weights see something else


def test_signed_bits_of_what_has_none_are_refused():
    with pytest.raises(ValueError, match="--posterior=bernoulli or binary_concrete"):
        models.make_vae((4, 4, 1), posterior="categorical", signed_bits=True)


def test_without_hidden_layers_both_maps_are_linear():
    model = models.make_vae((2, 3, 1), latent_dim=D, hidden=())
    x = _images((2, 3, 1))
    params = _params(model, x)
    encode = lambda x: model.apply(params, x, method="encode").mean
    np.testing.assert_allclose(encode(3 * x) - encode(2 * x), encode(x) - encode(0 * x), atol=1e-5)
    assert set(params["params"]["decoder"]["network"]) == {"outputs"}


def test_relaxed_bits_have_a_bound_on_log_p_and_harden():
    """One latent, so that log p(x) is an integral: the relaxed bound is below it, by a KL that vanishes with K. Read as
    bits, the same parameters are a Bernoulli model."""
    sizes = {"latent_dim": 1, "hidden": (), "learn_prior": True}
    relaxed = models.make_vae((2, 2, 1), posterior="binary_concrete", temperature=0.4, **sizes)
    x = _images((2, 2, 1), batch=3)
    params = jax.tree.map(lambda leaf: leaf + 0.7, _params(relaxed, x))
    q = relaxed.apply(params, x, method="encode")
    assert (q.temperature, relaxed.apply(params, method="prior_distribution").temperature) == (0.4, 0.4)

    z = jnp.linspace(-80, 80, 40_001)[:, None, None]  # [K, B=1, D=1]
    terms = relaxed.apply(params, x, jnp.broadcast_to(z, (len(z), 3, 1)), method="log_joint")
    log_p = jax.nn.logsumexp(terms, axis=0) + np.log(160 / 40_000)
    z = q.sample(jax.random.key(0), 200_000)
    weights = relaxed.apply(params, x, z, method="log_joint") - q.log_prob(z)
    gap, error = jnp.mean(weights, axis=0) - log_p, jnp.std(weights, axis=0) / np.sqrt(len(weights))
    assert np.all(gap < -10 * error)
    ratio = jnp.exp(weights - log_p)
    assert np.all(np.abs(jnp.mean(ratio, axis=0) - 1) < 4.5 * jnp.std(ratio, axis=0) / np.sqrt(len(ratio)))

    hard = models.make_vae((2, 2, 1), posterior="bernoulli", **sizes)
    bits = hard.apply(params, x, method="encode")
    np.testing.assert_array_equal(bits.logits, q.logits)
    far = np.float32([[[-1e4]] * 3, [[1e4]] * 3])  # the logits of a relaxed bit that is one
    np.testing.assert_allclose(
        relaxed.apply(params, x, far, method="log_likelihood"),
        hard.apply(params, x, far > 0, method="log_likelihood"),
        rtol=1e-6,
    )
