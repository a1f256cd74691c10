"""Networks against their formulas, and the formats in which they compute."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.random_models import ARCHITECTURES, float64, images, parameters
from vae import models, objectives

K, B, D = 3, 2, 4
KEY = jax.random.key(0)


@pytest.mark.parametrize("activation", sorted(models.ACTIVATIONS))
def test_the_mlp_is_its_formula(activation):
    network = models.MLP((5, 3), models.ACTIVATIONS[activation](), outputs=2, event_ndim=3)
    x = np.asarray(images((2, 3, 1))) - np.float32(0.5)
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
    h = float64(x).reshape(B, -1)
    for name in ("hidden_0", "hidden_1"):
        h = act(h @ float64(params["params"][name]["kernel"]) + float64(params["params"][name]["bias"]))
    h = h @ float64(params["params"]["outputs"]["kernel"]) + float64(params["params"]["outputs"]["bias"])
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), h, rtol=1e-5, atol=1e-5)


def test_without_hidden_layers_both_maps_are_linear():
    model = models.make_vae((2, 3, 1), latent_dim=D, hidden=())
    x = images((2, 3, 1))
    params = parameters(model, x)
    encode = jax.jit(lambda x: model.apply(params, x, method="encode").mean)
    np.testing.assert_allclose(encode(3 * x) - encode(2 * x), encode(x) - encode(0 * x), atol=1e-5)
    assert set(params["params"]["decoder"]["network"]) == {"outputs"}


def test_conv_decoder_reaches_every_pixel():
    """Every pixel and every colour depends on z, the cropped edges too; no two pixels are one."""
    model = models.make_vae((5, 7, 3), latent_dim=D, hidden=(6, 5), architecture="conv", activation="tanh")
    params = parameters(model, images((5, 7, 3)))
    z = np.float32(np.random.default_rng(0).normal(size=(2, 1, D)))
    first, second = np.asarray(jax.jit(lambda z: model.apply(params, z, method="decode").logits)(z))[:, 0]
    assert np.all(first != second)
    assert len(np.unique(first)) == 5 * 7 * 3


def test_conv_encoder_sees_every_pixel():
    model = models.make_vae((5, 7, 1), latent_dim=D, hidden=(6, 5), architecture="conv", activation="tanh")
    x = images((5, 7, 1), batch=1)
    params = parameters(model, x)
    seen = jax.jit(jax.grad(lambda x: jnp.sum(model.apply(params, x, method="encode").mean)))(x)
    assert np.all(np.asarray(seen) != 0)


def _kernels(architecture):
    """The shapes of the kernels of the decoder's network for images of 5 x 7 pixels, by their names."""
    chosen = models.ARCHITECTURES.make("resnet", width=4) if architecture == "resnet" else architecture
    model = models.make_vae((5, 7, 1), latent_dim=D, hidden=(9, 6), architecture=chosen)
    network = jax.eval_shape(model.init, KEY, images((5, 7, 1)), KEY)["params"]["decoder"]["network"]
    leaves = jax.tree_util.tree_leaves_with_path(network)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
    return {name.removesuffix(".kernel"): shape for name, shape in named.items() if name.endswith("kernel")}


def test_a_decoder_has_the_layers_of_the_encoder_in_the_reverse_order():
    assert _kernels("mlp") == {"hidden_0": (D, 6), "hidden_1": (6, 9), "outputs": (9, 5 * 7)}
    assert _kernels("conv") == {"project": (D, 2 * 2 * 6), "deconv_0": (3, 3, 6, 9), "deconv_1": (3, 3, 9, 1)}
    convolution = {f"blocks_0.{name}_{block}.conv": (3, 3, 4, 4) for name in ("first", "second") for block in (0, 1)}
    dense = {"dense.hidden_0": (D, 6), "dense.hidden_1": (6, 9), "dense.outputs": (9, 5 * 7 * 4)}
    assert _kernels("resnet") == dense | convolution | {"pixels.conv": (3, 3, 4, 1)}


@pytest.mark.parametrize("layer", ["encoder.conv_0", "encoder.conv_1", "decoder.project", "decoder.deconv_0"])
def test_relus_follow_every_hidden_convolution(layer):
    """Where all units of a layer are far below zero, the result does not depend on the input."""
    model = models.make_vae((5, 7, 1), latent_dim=D, hidden=(6, 5), architecture="conv")
    x, z = images((5, 7, 1)), np.float32(np.random.default_rng(0).normal(size=(K, B, D)))
    params = parameters(model, x)
    results = jax.jit(
        lambda params, scale: {
            "encoder": model.apply(params, scale * x, method="encode").mean,
            "decoder": model.apply(params, scale * z, method="decode").logits,
        }
    )
    part, name = layer.split(".")
    moves = lambda: np.any(results(params, 1.0)[part] != results(params, 0.5)[part])
    assert moves()
    params["params"][part]["network"][name]["bias"] -= 1e3
    assert not moves()


def test_the_negative_slope_is_that_of_leaky_relu():
    """Where every hidden unit is negative, networks of twice the slope give twice the change."""
    make = lambda slope: models.make_vae(
        (2, 3, 1), latent_dim=D, hidden=(6,), activation=models.ACTIVATIONS["leaky_relu"](negative_slope=slope)
    )
    steep = make(0.3)
    flat = make(0.15)
    x = images((2, 3, 1))
    params = parameters(steep, x)
    params["params"]["encoder"]["network"]["hidden_0"]["bias"] -= 100
    encode = jax.jit(lambda model, x: model.apply(params, x, method="encode").mean, static_argnums=0)
    mean = lambda model, x: float64(encode(model, x))
    change = mean(flat, x) - mean(flat, 0 * x)
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(mean(steep, x) - mean(steep, 0 * x), 2 * change, atol=1e-4)


@pytest.mark.parametrize(
    ("posterior", "architecture"),
    [("normal", "conv"), ("normal", "resnet"), *((name, "mlp") for name in models.POSTERIORS)],
)
def test_layers_compute_in_bfloat16_and_all_else_in_float32(posterior, architecture):
    layers = (3, 2) if posterior in ("normal", "bernoulli", "categorical", "concrete") else 3
    sizes = {"latent_dim": layers, "hidden": (6, 5), "layer_hidden": (4,)} | {
        "architecture": ARCHITECTURES[architecture]
    }
    model = models.make_vae((8, 8, 1), posterior=posterior, compute_dtype="bfloat16", **sizes)
    key, x = jax.random.key(0), images((8, 8, 1))

    def terms(params):
        q = model.apply(params, x, method="encode")
        z = q.sample(key, K)
        density = () if posterior == "planar" else q.log_prob(z)  # which has no inverse
        return q, z, density, objectives.log_joint(model.apply, params, x)(z)

    params = jax.eval_shape(lambda: model.init(key, x, key))
    with jax.numpy_dtype_promotion("strict"):
        program, results = jax.make_jaxpr(terms, return_shape=True)(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, results))} == {jnp.dtype("float32")}
    made = re.findall(r":(\w+)\[[\d,]*\] = (\w+)", str(program))
    products = {dtype for dtype, operation in made if operation in ("dot_general", "conv_general_dilated")}
    # The products of these distributions stay in float32: L eps, the networks of flows, distances to codes.
    with_products = ("full_covariance", "low_rank", "coupling", "spline_coupling", "iaf", "vq", "stochastic_vq")
    in_float32 = posterior in with_products
    assert products == ({"bf16", "f32"} if in_float32 else {"bf16"})
    assert not {operation for dtype, operation in made if dtype == "bf16"} & {"log", "exp", "log1p", "reduce_sum"}


def test_bfloat16_moves_outputs_by_its_rounding():
    """Eight bits of mantissa: half a percent of each product, a few of them in a row."""
    x, z = images((8, 8, 1)), np.random.default_rng(1).normal(size=(K, B, D)).astype(np.float32)
    narrow, wide = (
        models.make_vae((8, 8, 1), latent_dim=D, hidden=(6, 5), compute_dtype=dtype)
        for dtype in ("bfloat16", "float32")
    )
    params = parameters(wide, x)
    decode = lambda model: jax.jit(lambda z: model.apply(params, z, method="decode").logits)
    ours, theirs = (np.asarray(decode(model)(z)) for model in (narrow, wide))
    scale = np.abs(theirs).max()
    assert 1e-4 < np.abs(ours - theirs).max() / scale < 0.03


def test_the_mean_image_keeps_its_digits_where_networks_compute_in_bfloat16():
    mean = np.float32([0.123456, 0.5, 0.876543, 0.3333])
    model = models.make_vae((2, 2, 1), latent_dim=D, hidden=(), data_mean=mean.tolist(), compute_dtype="bfloat16")
    params = jax.tree.map(np.zeros_like, parameters(model, images((2, 2, 1))))
    decode = jax.jit(lambda z: model.apply(params, z, method="decode").mean)
    np.testing.assert_allclose(decode(np.zeros((1, 1, D), np.float32))[0, 0], mean, rtol=1e-6)
