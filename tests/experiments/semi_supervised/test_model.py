"""The bounds of M2, by quadrature and a sum over classes."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.semi_supervised import __main__ as semi_supervised
from experiments.semi_supervised import model
from vae import estimators

VAE = model.M2(latent_dim=1, hidden=(3,), pixels=4)
X = np.float32(np.random.default_rng(0).uniform(size=(2, 2, 2, 1)))


def test_the_bound_without_a_label_is_the_mean_of_those_with_one_plus_the_entropy():
    """Equation 7 of the paper: U(x) = sum_y q(y|x) L(x, y) + H(q(y|x))."""
    exact = estimators.exact(order=16)

    @jax.jit
    def both():
        params = VAE.init(jax.random.key(0), X)
        q = VAE.apply(params, X, method="encode")
        expect = estimators.bind(estimators.blocks([exact, exact]), ({}, {}), ({}, {}), jax.random.key(0))
        unlabelled = model.unlabelled_bound(VAE.apply, params, X, expect).value
        total = 0.0
        for c in range(model.CLASSES):
            y = jnp.broadcast_to(jnp.eye(model.CLASSES)[c], (2, 1, model.CLASSES))
            log_q = model.log_prob_of_labels(VAE.apply, params, X, y)
            f = lambda z, y=y: VAE.apply(params, X, (jnp.broadcast_to(y, (len(z), *y.shape)), z), method="log_joint")
            labelled = exact.estimate({}, {}, None, q.layer(1, y), f, log_q_weight=1.0).value
            total = total + jnp.exp(log_q) * (labelled - log_q)
        return unlabelled, total

    unlabelled, total = both()
    np.testing.assert_allclose(unlabelled, total, rtol=1e-5)


def test_the_style_depends_on_the_class():
    params = VAE.init(jax.random.key(0), X)
    q = VAE.apply(params, X, method="encode")
    first, second = (q.layer(1, jnp.tile(jnp.eye(model.CLASSES)[c], (2, 1, 1))).mean for c in (0, 1))
    assert np.all(np.abs(first - second) > 1e-3)


def test_as_many_images_of_each_class_keep_their_label():
    digits = semi_supervised.load()
    chosen = semi_supervised.choose_labelled(digits.y, 30, seed=1)
    np.testing.assert_array_equal(np.bincount(digits.y[chosen]), np.full(10, 3))
    assert len(set(chosen)) == 30


def test_the_bound_with_a_label_is_the_mean_of_log_p_minus_log_q_of_the_style():
    """Equation 6 of the paper, by quadrature; the bound has one sample of z."""
    exact = estimators.exact(order=16)
    y = jnp.broadcast_to(jnp.eye(model.CLASSES)[3], (2, 1, model.CLASSES))

    @jax.jit
    def both():
        params = VAE.init(jax.random.key(0), X)
        f = lambda z: VAE.apply(params, X, (jnp.broadcast_to(y, (len(z), *y.shape)), z), method="log_joint")
        style = VAE.apply(params, X, method="encode").layer(1, y)
        draw = lambda key: model.labelled_bound(VAE.apply, params, X, y, key)
        draws = jax.vmap(draw)(jax.random.split(jax.random.key(1), 4000))
        return draws, exact.estimate({}, {}, None, style, f, log_q_weight=1.0).value

    draws, expected = both()
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(error < 0.02)
    assert np.all(np.abs(draws.mean(axis=0) - expected) < 4.5 * error)


def test_the_error_is_the_percentage_of_images_whose_most_probable_class_is_another():
    params = VAE.init(jax.random.key(0), X)
    guess = np.argmax(VAE.apply(params, X, method="encode").first.logits[:, 0], axis=-1)
    digits = semi_supervised.Digits(X, guess, X, guess + np.array([0, 1]))
    figures = semi_supervised.measure(VAE, jax.tree.map(lambda leaf: leaf[None], params), digits)
    np.testing.assert_array_equal(figures["error_percent"], [50.0])
