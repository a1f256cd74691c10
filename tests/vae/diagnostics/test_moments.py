"""Moments against stored draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.noisy_gradients import flat, flat_one, noisy_gradient, some_truth, stored
from vae import diagnostics

KEY, TRUTH = jax.random.key(3), some_truth()


@functools.cache
def draws():
    """The 200 gradients of `KEY`, `[200, coordinates]`."""
    return flat(jax.jit(lambda key: stored(200, key))(KEY))


@pytest.mark.parametrize("block", [1, 5, 20])
def test_moments_equal_numpy_on_stored_draws(block):

    @jax.jit
    def program(key):
        moments = diagnostics.gradient_moments(noisy_gradient, key, 200, 10, block, TRUTH)
        return moments, diagnostics.reference(moments)

    moments, truth = jax.device_get(program(KEY))
    np.testing.assert_allclose(flat_one(truth.gradient), draws().mean(0), rtol=2e-6)
    np.testing.assert_allclose(flat_one(truth.stderr), draws().std(0, ddof=1) / np.sqrt(200), rtol=2e-5)
    chunk = draws().reshape(10, 20, -1)
    np.testing.assert_allclose(flat(moments.mean), chunk.mean(1), rtol=2e-6)
    np.testing.assert_array_equal(flat(truth.chunks), flat(moments.mean))
    np.testing.assert_allclose(flat(moments.square), chunk.var(1) * 20, rtol=2e-4)


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize("every", [1, 3, 7])
def test_directed_every_takes_the_mean_over_every_nth_draw(every, block):
    moments = diagnostics.gradient_moments(noisy_gradient, KEY, 200, 10, block, TRUTH, directed_every=every)
    assert set(moments.cosine) == set(diagnostics.parts(TRUTH.gradient))
    decoder = slice(0, 2)  # the leaves of a dict are in alphabetic order
    g, t = draws()[:, decoder], flat_one(TRUTH.gradient)[decoder]
    cosine = (g @ t / np.linalg.norm(t) / np.linalg.norm(g, axis=1)).reshape(10, 20)[:, ::every].mean(1)
    np.testing.assert_allclose(moments.cosine["decoder"], cosine, rtol=1e-5)


def figures(key, block=1):
    """Returns the moments and everything that is computed from them."""
    moments = diagnostics.gradient_moments(noisy_gradient, key, 200, 10, block, some_truth())
    truth = jax.jit(diagnostics.reference)(moments)
    return moments, truth, jax.jit(diagnostics.report)(moments, truth), jax.jit(diagnostics.figures_by_chunk)(moments)


@pytest.mark.parametrize("block", [1, 5])
def test_figures_stay_in_float32_where_float64_is_on(block):
    with jax.enable_x64(True):
        shapes = jax.eval_shape(functools.partial(figures, block=block), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_products_of_figures_are_not_rounded():
    program = str(jax.make_jaxpr(figures)(jax.random.key(0)))
    assert program.count("dot_general[") == program.count("HIGHEST,") > 10


def test_draws_that_do_not_divide_into_chunks_are_refused():
    with pytest.raises(ValueError, match="draws=100 must be a multiple of chunks=7"):
        diagnostics.gradient_moments(noisy_gradient, jax.random.key(0), 100, 7)


def test_zero_draws_leave_the_directional_figures_finite():
    truth = diagnostics.exactly({"w": jnp.ones(4)})
    gradient = lambda key: {"w": jnp.where(jax.random.bernoulli(key), 1.0, 0.0) * jax.random.normal(key, (4,))}
    report = jax.jit(diagnostics.report)(
        diagnostics.gradient_moments(gradient, jax.random.key(0), 400, 10, truth=truth), truth
    )
    assert all(np.isfinite(figures["cosine"]) and np.isfinite(figures["dsnr"]) for figures in report.values())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_directional_figures_do_not_depend_on_the_length_of_the_gradients(scale):
    """The product of two squared lengths would leave the range of float32."""
    scaled = lambda tree: jax.tree.map(lambda leaf: scale * leaf, tree)
    figures = []
    for change in (lambda tree: tree, scaled):
        truth = diagnostics.exactly(change({"w": jnp.ones(200)}))
        gradient = lambda key, change=change: change({"w": 1 + jax.random.normal(key, (200,))})
        moments = jax.jit(lambda key: diagnostics.gradient_moments(gradient, key, 40, 20, truth=truth))  # noqa: B023
        figures.append(diagnostics.report(moments(jax.random.key(0)), truth)["w"])
    assert 0.6 < figures[0]["cosine"] < 0.8
    for name in ("cosine", "dsnr", "snr", "relative_bias"):
        np.testing.assert_allclose(figures[1][name], figures[0][name], rtol=1e-4)


@pytest.mark.parametrize("name", ["draws", "chunks", "block", "directed_every"])
@pytest.mark.parametrize("number", [0, -4])
def test_numbers_below_one_are_refused(name, number):
    numbers = {"draws": 100, "chunks": 20, "block": 1, "directed_every": 1, name: number}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {number}"):
        diagnostics.gradient_moments(noisy_gradient, jax.random.key(0), **numbers)
