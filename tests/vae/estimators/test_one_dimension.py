"""Estimators that change one latent dimension at a time, against enumerations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import MAX_Z
from vae.distributions import Bernoulli, Categorical
from vae.estimators import BY_NAME, mean
from vae.estimators.rao_blackwell_top_k import rao_blackwell_top_k
from vae.estimators.unordered_set import set_weights, unordered_set


@pytest.mark.parametrize(
    ("name", "family"), [("local_expectation", Bernoulli), ("local_expectation", Categorical), ("bitflip", Bernoulli)]
)
def test_local_expectation_of_one_dimension_is_exact(name, family):
    logits = jnp.array([0.8]) if family is Bernoulli else jnp.array([[0.5, -0.7, 0.1, 1.2]])
    table = jnp.array([1.7, -0.4, 2.2, 0.3])
    f = lambda z: jnp.sum(jnp.sin(z @ table[: logits.shape[-1]][:, None] + 0.3).reshape(len(z), -1), axis=-1)
    exact = jax.jit(jax.grad(lambda q: BY_NAME["exact"].make().estimate({}, {}, None, q, f, mean, 1.0).value))
    exact = exact(family(logits)).logits
    grads = draw_gradients(BY_NAME[name].make(), family(logits), f, 64, log_q_weight=1.0).logits
    np.testing.assert_allclose(grads, np.broadcast_to(exact, grads.shape), atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_weights_of_unordered_sets_give_exact_expectations(k):
    """The expectations are sums over all orders in which k of 4 classes can be drawn.

    The expected weighted sum of f is E[f], and the expected gradient of one dimension is exact. For k = 2 and k = 4 the
    weights agree with closed forms.
    """
    p, f = np.array([0.5, 0.2, 0.25, 0.05]), np.array([1.3, -0.6, 0.2, 2.0])
    orders = np.array(list(itertools.permutations(range(4), k))).T  # [k, orders]
    left = 1 - np.cumsum(p[orders], axis=0) + p[orders]
    probability = np.prod(p[orders] / left, axis=0)
    with jax.enable_x64(True):
        weight, control = map(np.asarray, jax.jit(set_weights)(jnp.log(p), jnp.eye(4)[orders]))
    np.testing.assert_allclose(np.sum(probability * weight * f[orders]), p @ f, rtol=1e-9)
    np.testing.assert_allclose(np.sum(control, axis=1), 1, rtol=1e-9)
    signal = probability * weight * (f[orders] - np.einsum("stn,tn->sn", control, f[orders]))
    gradient = np.einsum("sn,snc->c", signal, np.eye(4)[orders] - p)
    np.testing.assert_allclose(gradient, p * (f - p @ f), atol=1e-9)
    if k == 2:
        complement = 1 - p[orders]
        np.testing.assert_allclose(weight, complement[::-1] / np.sum(complement, axis=0), rtol=1e-9)
    if k == 4:
        np.testing.assert_allclose(weight, p[orders], rtol=1e-9)


def test_an_unordered_set_of_all_classes_is_exact_in_one_dimension():
    q, table = Categorical(jnp.array([[0.5, -0.7, 0.1, 1.2]])), jnp.array([1.7, -0.4, 2.2, 0.3])
    f = lambda z: z[:, 0] @ table
    grads = draw_gradients(unordered_set(k=4), q, f, 64).logits
    np.testing.assert_allclose(
        grads[:, 0], np.broadcast_to(q.mean[0] * (table - q.mean[0] @ table), (64, 4)), atol=1e-6
    )


@pytest.mark.parametrize("impossible", [-np.inf, -1e30, -1e4])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_an_unordered_set_of_all_possible_classes_is_exact(k, impossible):
    """Two classes of the first dimension are possible, and one of the second, so a set has impossible classes too."""
    q = Categorical(jnp.array([[0.0, 1.0, impossible, impossible], [0.5, impossible, impossible, impossible]]))
    f = lambda z: jnp.sum(jnp.sin(3 * z @ jnp.arange(4.0)), axis=-1)
    exact = jax.grad(lambda q: BY_NAME["exact"].make().estimate({}, {}, None, q, f, mean, 1.0).value)(q).logits
    grads = draw_gradients(unordered_set(k=k), q, f, 64, log_q_weight=1.0).logits
    assert np.max(np.abs(exact)) > 0.1
    np.testing.assert_allclose(grads, np.broadcast_to(exact, grads.shape), atol=1e-6)


def test_the_gradient_of_unordered_sets_is_unbiased_if_a_class_is_impossible():
    q = Categorical(jnp.array([[0.3, -0.7, -jnp.inf, 1.0, -1.5]]))
    f = lambda z: jnp.sum(jnp.sin(3 * z @ jnp.arange(5.0)), axis=-1)
    exact = jax.grad(lambda q: BY_NAME["exact"].make().estimate({}, {}, None, q, f, mean, 1.0).value)(q).logits
    grads = draw_gradients(unordered_set(k=2), q, f, 2**12, log_q_weight=1.0).logits
    stderr = np.std(grads, axis=0) / np.sqrt(len(grads))
    assert not np.any(grads[:, 0, 2])
    assert np.max(stderr) < 0.02 * np.linalg.norm(exact)
    assert np.max(np.abs(np.mean(grads, axis=0) - exact) / (stderr + 1e-7)) < MAX_Z


def test_the_second_moment_of_rao_blackwell_top_k_has_its_closed_form():
    """With the best class 0 and one of the others, c, the gradient is s (f_c - f_0) (e_c - p), where s is 1 - p_0. A
    constant in f changes nothing. The control is the least probable class in place of the best."""
    logits, f = np.array([2.0, 0.3, -0.5, -1.0]), np.array([1.3, -0.6, 0.2, 2.0])
    p = np.exp(logits) / np.exp(logits).sum()
    second_moment = lambda best: (1 - p[best]) * (p * (f - f[best]) ** 2) @ np.sum((np.eye(4) - p) ** 2, axis=-1)
    table = jnp.float32(f + 100)
    grads = draw_gradients(rao_blackwell_top_k(), Categorical(jnp.array([logits])), lambda z: z[:, 0] @ table, 2**14)
    squares = np.sum(np.square(grads.logits), axis=(-2, -1))
    assert abs(squares.mean() - second_moment(0)) < MAX_Z * squares.std() / np.sqrt(len(squares))
    assert second_moment(3) > 2 * second_moment(0)


@pytest.mark.parametrize("make", [rao_blackwell_top_k, unordered_set])
def test_a_k_above_the_number_of_classes_is_refused(make):
    q = Categorical(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="classes"):
        make(k=4).estimate({}, {}, jax.random.key(0), q, lambda z: jnp.sum(z, axis=(-1, -2)))


@pytest.mark.parametrize("proportional", [False, True])
def test_the_variance_of_bitflip_has_its_closed_form(proportional):
    """For f = c'z, the bit d changes f by c_d. With the weight w_d = p_d (1 - p_d) and the probability r_d of the
    choice, the squared length of the gradient of one sample has the mean sum_d (w_d c_d)^2 / r_d. The gradient of two
    samples is the mean of two independent ones."""
    logits, c = np.array([0.3, -4.0, 5.0, 1.0]), np.array([1.0, -2.0, 0.5, 0.7])
    weight = 1 / (2 + 2 * np.cosh(logits))
    chance = weight / weight.sum() if proportional else np.full(4, 1 / 4)
    estimator = BY_NAME["bitflip"].make(num_samples=2, proportional=proportional)
    grads = draw_gradients(estimator, Bernoulli(jnp.array(logits)), lambda z: z @ jnp.float32(c), 2**14).logits
    squares = np.sum(np.square(grads), axis=-1)
    stderr = np.append(grads.std(0), squares.std()) / np.sqrt(len(grads))
    exact = weight * c
    expected = np.append(exact, 0.5 * np.sum(exact**2 / chance) + 0.5 * np.sum(exact**2))
    assert np.all(np.abs(np.append(grads.mean(0), squares.mean()) - expected) < MAX_Z * stderr)


def test_bitflip_in_proportion_has_less_variance_if_most_bits_are_nearly_certain():
    """Every gradient has the exact mean, and the control is the uniform choice."""
    q, f = Bernoulli(jnp.array([0.2, 8.0, -8.0, 9.0])), lambda z: jnp.sum(jnp.sin(jnp.cumsum(z, axis=-1)), axis=-1)
    exact = jax.grad(lambda q: BY_NAME["exact"].make().estimate({}, {}, None, q, f).value)(q).logits
    grads = [draw_gradients(BY_NAME["bitflip"].make(proportional=p), q, f, 2**14).logits for p in (True, False)]
    for draws in grads:
        assert np.all(np.abs(draws.mean(0) - exact) < MAX_Z * draws.std(0) / np.sqrt(len(draws)) + 1e-4)
    assert grads[0].var(0).sum() < 0.1 * grads[1].var(0).sum()


def test_bitflip_in_proportion_is_finite_if_all_bits_are_certain():
    q, f = Bernoulli(jnp.array([200.0, -200.0, jnp.inf])), lambda z: jnp.sum(z, axis=-1)
    assert np.all(draw_gradients(BY_NAME["bitflip"].make(proportional=True), q, f, 64).logits == 0)
