"""The residual networks: their sizes, their norms, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build
from experiments.common.settings import Settings
from tests.helpers.random_models import ARCHITECTURES, images, parameters
from vae import models, objectives
from vae.models import resnet

MODEL = models.make_vae((9, 10, 3), latent_dim=2, hidden=(5,), architecture=ARCHITECTURES["resnet"], activation="tanh")
X = np.asarray(images((9, 10, 3), batch=2))
PARAMS = parameters(MODEL, X)


def test_an_image_is_halved_down_to_eight_pixels():
    sizes = [resnet.resolutions(side, side) for side in (28, 32, 64)]
    assert [[height for height, _ in size] for size in sizes] == [[28, 14, 7], [32, 16, 8], [64, 32, 16, 8]]
    assert resnet.resolutions(28, 20) == [(28, 20), (14, 10), (7, 5)]
    assert resnet.resolutions(8, 3) == [(8, 3)]


def test_the_gradient_reaches_every_parameter_and_every_image_is_treated_alone():
    def bound(params, x):
        z = MODEL.apply(params, x, method="encode").mean[None]
        return objectives.log_joint(MODEL.apply, params, x)(z)[0]

    compute = jax.jit(lambda params, x: (bound(params, x), jax.grad(lambda params: bound(params, x).sum())(params)))
    values, gradients = jax.device_get(compute(PARAMS, X))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["params"]):
        in_use = leaf[..., :2] if "parameters" in jax.tree_util.keystr(path) else leaf  # the variances are not read
        assert np.all(np.any(in_use != 0, axis=tuple(range(in_use.ndim - 1)))), path
    others, _ = compute(PARAMS, np.stack([X[0], 0 * X[1]]))
    np.testing.assert_allclose(others[0], values[0], rtol=1e-6)
    assert abs(others[1] - values[1]) > 1e-3  # the control


def test_a_norm_takes_the_mean_and_the_scale_of_each_group_of_each_image():
    h = images((3, 4, 16))
    norm = resnet.Activated(lambda h: h)
    out, _ = jax.jit(norm.init_with_output)(jax.random.key(0), h)
    out = np.asarray(out)
    groups = np.asarray(h, np.float64).reshape(2, 12, 2, 8)
    expected = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out.reshape(groups.shape), expected, atol=1e-4)


def test_without_the_two_convolutions_a_block_is_the_identity():
    h = np.asarray(images((4, 4, 8)))
    blocks = resnet.ResidualBlocks(2, jax.nn.relu)
    params = jax.jit(blocks.init)(jax.random.key(0), h)
    apply = jax.jit(blocks.apply)
    assert np.abs(apply(params, h) - h).max() > 0.1
    for i in range(2):
        conv = params["params"][f"second_{i}"]["conv"]
        conv |= {"kernel": np.zeros_like(conv["kernel"])}
    np.testing.assert_array_equal(apply(params, h), h)


@pytest.mark.parametrize("option", ["blocks", "width"])
def test_a_network_without_blocks_or_channels_is_refused(option):
    with pytest.raises(ValueError, match=f"architecture=resnet needs {option} of at least 1, got 0"):
        models.ARCHITECTURES.make("resnet", **{option: 0})


@pytest.mark.parametrize("side", [28, 32, 64])
def test_the_networks_fit_colour_images(side):
    model = models.make_vae((side, side, 3), latent_dim=2, hidden=(), architecture=ARCHITECTURES["resnet"])
    x, key = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32), jax.eval_shape(jax.random.key, 0)
    pixels, _ = jax.eval_shape(lambda x, key: model.init_with_output(key, x, key), x, key)
    assert pixels.logits.shape == (1, 2, side * side * 3)


@pytest.mark.slow
def test_colour_images_train(tmp_path):
    """Images of one random colour each, with noise: the network learns to tell the colours apart."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, size=(36, 1, 1, 3))
    noisy = colours + rng.integers(-20, 21, size=(36, 32, 32, 3))
    np.savez(tmp_path / "colours.npz", images=noisy.astype(np.uint8))
    run = Settings(
        dataset=f"npz:{tmp_path}/colours.npz",
        binarization="none",
        likelihood="discretized_logistic",
        architecture="resnet:blocks=1:width=8",
        hidden=(),
        latent_dim=(4,),
        batch_size=4,
    )
    data = build.load_data(run, None)
    functions = build.functions(run, data)
    values = build.arrays(run)
    state = functions.init(values)
    bits = []
    for _ in range(12):
        state, metrics = functions.epoch(state, values, data.train)
        bits.append(build.bits_per_dim(-float(metrics["bound"]), data, models.LIKELIHOODS.make(run.likelihood)))
    assert np.mean(bits[-3:]) < bits[0] - 0.2
