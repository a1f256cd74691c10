"""Double control variates and RODEO: their learned coefficients, RODEO's network, and the Stein operator."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.draws import draw_gradients
from tests.helpers.oracle import LOG_Q_WEIGHT, MAX_Z, assert_unbiased, oracle, problem
from vae.distributions import Bernoulli, Categorical, Normal
from vae.estimators import BY_NAME, Estimator, mean
from vae.estimators.double_cv import double_cv
from vae.estimators.parts.one_dimension import other_values
from vae.estimators.parts.stein import stein, stein_of_score
from vae.estimators.parts.surrogate_network import SurrogateNetwork
from vae.estimators.rodeo import rodeo


def _with_params(estimator, **changed):
    """Returns the estimator with some of its params replaced."""

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None):
        return estimator.estimate(params | changed, state, key, q, f, reduce, log_q_weight, context)

    return Estimator(estimator.init, estimate)


def test_double_cv_of_a_linear_function_is_exact_at_minus_one():
    q = Bernoulli(jnp.array([0.8, -1.3, 0.1]))
    slope = jnp.array([1.0, -2.0, 0.7])
    f = lambda z: z @ slope + 4.0
    grads = draw_gradients(double_cv(2), q, f, 64, params={"alpha": jnp.float32(-1)}).logits
    np.testing.assert_allclose(grads, np.broadcast_to(slope * q.mean * (1 - q.mean), grads.shape), atol=1e-5)


def test_the_linear_control_of_a_quadratic_is_exact_and_its_coefficients_are_a_regression():
    """Of f(z) = z' A z + b' z, with one coefficient for the means and one for the log-variances."""
    q = Normal(np.float32([0.3, -0.8]), np.float32([-0.4, 0.2]))
    A, b = np.float32([[1.0, 0.4], [0.4, -0.6]]), np.float32([0.5, -1.0])
    f = lambda z: jnp.einsum("...i,ij,...j", z, A, z) + z @ b
    estimator = BY_NAME["reparam_linear_cv"].make(num_samples=2)

    @jax.jit
    def gradients(key, c):
        """With the coefficients c, and the state after the call."""

        def value(q, estimator, state):
            estimate = estimator.estimate({}, state, key, q, f)
            return estimate.value, estimate.state

        state = {"covariance": c, "variance": jnp.ones(2)}
        plain, _ = jax.grad(value, has_aux=True)(q, BY_NAME["reparam"].make(num_samples=2), {})
        return plain, *jax.grad(value, has_aux=True)(q, estimator, state)

    exact = np.stack([2 * A @ q.mean + b, np.diag(A) * np.exp(q.log_var)])
    for c in ([1, 1], [0, 1], [0.25, -1]):
        plain, found, state = jax.tree.map(np.asarray, gradients(jax.random.key(3), jnp.float32(c)))
        plain, found = (np.stack([q.mean, q.log_var]) for q in (plain, found))
        noise = plain - exact
        np.testing.assert_allclose(found, plain - np.float32(c)[:, None] * noise, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            state["covariance"], 0.99 * np.float32(c) + 0.01 * (plain * noise).mean(1), rtol=1e-4
        )
        np.testing.assert_allclose(state["variance"], 0.99 + 0.01 * (noise**2).mean(1), rtol=1e-4)
    assert np.abs(noise).min() > 0.01
    first = jax.grad(lambda q: estimator.estimate(*estimator.init(None, q), jax.random.key(3), q, f).value)(q)
    np.testing.assert_allclose(np.stack([first.mean, first.log_var]), exact, rtol=1e-4, atol=1e-5)  # both are 1


def test_double_cv_has_its_formula_on_a_function_that_is_not_linear():
    """Every control of a sample is made of the other two; the known gradient is that of the mean slope of all three."""
    p, alpha, key = np.array([0.3, 0.6]), -0.7, jax.random.key(3)
    q, f = Bernoulli(np.float32(np.log(p / (1 - p)))), lambda z: jnp.sin(z @ np.float32([2.0, -1.0]) + 0.4)
    value = lambda q: double_cv(3).estimate({"alpha": np.float32(alpha)}, {}, key, q, f).value
    gradient = jax.jit(jax.grad(value))(q).logits
    z = np.float64(q.sample(key, 3))
    values, slopes = np.sin(z @ [2, -1] + 0.4), np.cos(z @ [2, -1] + 0.4)[:, None] * [2, -1]
    others = lambda x: (x.sum(axis=0) - x) / 2
    v = values + alpha * np.sum(others(slopes) * (z - p), axis=-1)
    expected = np.mean((v - others(v))[:, None] * (z - p), axis=0) - alpha * slopes.mean(axis=0) * p * (1 - p)
    assert np.ptp(slopes[:, 0]) > 0.1
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_double_cv_with_the_wrong_sign_is_unbiased_and_worse():
    spread = []
    for alpha in (-0.5, 0.0, 0.5):
        estimator, exact = _with_params(double_cv(2), alpha=jnp.float32(alpha)), oracle("Bernoulli", "mean", 2)
        report = assert_unbiased(estimator, problem("Bernoulli"), mean, exact, groups=("phi",))
        spread.append(report.relative_stderr["phi"] * np.sqrt(report.draws))
    assert spread[0] < 0.95 * spread[1] < 0.9 * spread[2], spread


@pytest.mark.parametrize(
    ("estimator", "family"),
    [
        (double_cv(3), "Bernoulli"),
        (double_cv(3), "Categorical"),
        (rodeo(3, hidden=8), "Bernoulli"),
        (rodeo(3, hidden=8), "Categorical"),
    ],
    ids=["cv-bits", "cv-classes", "rodeo-bits", "rodeo-classes"],
)
def test_cv_loss_is_the_squared_length_of_the_gradient(estimator, family):
    toy, key = problem(family), jax.random.key(4)
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    params, state = jax.jit(estimator.init)(jax.random.key(0), q)
    params = params | {"alpha": jnp.float32(-0.7)} | ({"beta": jnp.float32(0.4)} if "beta" in params else {})

    def value_and_loss(q):
        estimate = estimator.estimate(params, state, key, q, f, mean, LOG_Q_WEIGHT)
        return jnp.sum(estimate.value), estimate.cv_loss

    grad, cv_loss = jax.jit(jax.grad(value_and_loss, has_aux=True))(q)
    np.testing.assert_allclose(cv_loss, np.sum(np.square(grad.logits)) / len(grad.logits), rtol=1e-5)


def test_rodeos_piecewise_linear_evaluation_equals_its_plain_network():
    """Values and derivatives agree at changes on both sides of all knots, with one unit whose slope is 0."""
    normal = np.random.default_rng(0).normal
    levels = jnp.asarray(np.float32(10 * normal(size=(3, 2))))
    changes = jnp.asarray(np.float32(normal(size=(3, 2, 40)) * 10 ** np.linspace(-2, 4, 40)))
    weights = np.float32(normal(size=(2, 3, 2, 40)))
    params = jax.jit(SurrogateNetwork(7).init)(jax.random.key(3), levels, changes)["params"]
    params = jax.tree.map(np.array, params) | {"inner_bias": np.linspace(-1, 1, 7, dtype=np.float32)}
    params["inner"][1, 2] = 0

    def plain(params):
        x = jnp.stack(jnp.broadcast_arrays(levels[..., None], changes), axis=-1)
        x = jax.nn.leaky_relu(x @ params["inner"] + params["inner_bias"], 0.3)
        return jnp.moveaxis(x @ params["outer"] + params["outer_bias"], -1, 0)

    broken = lambda params: jnp.stack(SurrogateNetwork(7).apply({"params": params}, levels, changes))
    slope = lambda h: jax.grad(lambda params: jnp.sum(weights * h(params)))
    both = jax.jit(lambda params: [(h(params), slope(h)(params)) for h in (broken, plain)])
    (values, slopes), (expected, expected_slopes) = both(params)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    for actual, expected in zip(*map(jax.tree.leaves, (slopes, expected_slopes)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("estimator", "most"), [(double_cv(2), 0.4), (rodeo(2, hidden=8), 0.25)], ids=["cv", "rodeo"])
def test_the_learned_control_reduces_the_variance_of_leave_one_out_and_keeps_the_mean(estimator, most):
    """Relative to leave-one-out, the variance of the whole gradient is 0.26 with double CV and 0.15 with RODEO."""
    toy = problem("Bernoulli")
    q, f = toy.posterior(toy.phi), toy.integrand(toy.theta)
    params, state = jax.jit(estimator.init)(jax.random.key(0), q)

    def loss(params, key):
        keys = jax.random.split(key, 32)
        estimate = lambda key: estimator.estimate(params, state, key, q, f, mean, LOG_Q_WEIGHT)
        return jnp.mean(jax.vmap(estimate)(keys).cv_loss)

    def step(params, key):
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, jax.grad(loss)(params, key)), None

    keys = jax.random.split(jax.random.key(1), 100)
    learned, _ = jax.jit(lambda params: jax.lax.scan(step, params, keys))(params)
    grads = draw_gradients(estimator, q, f, 2**13, log_q_weight=LOG_Q_WEIGHT, params=learned).logits
    leave_one_out = BY_NAME["leave_one_out"].make(num_samples=2)
    plain = draw_gradients(leave_one_out, q, f, 2**13, log_q_weight=LOG_Q_WEIGHT).logits.var(axis=0).sum()
    assert grads.var(axis=0).sum() < most * plain
    error = np.ravel(grads.mean(axis=0)) - oracle("Bernoulli", "mean", 2)["phi"]
    assert np.all(np.abs(error) < MAX_Z * np.ravel(grads.std(axis=0)) / np.sqrt(len(grads)))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_stein_operator_has_mean_zero_and_equals_its_definition(classes):
    """The expectation is a sum over all states of three latent variables, for a random table h. A(h score) is compared
    with the definition, which changes one variable of the state at a time."""
    width, rng = 3, np.random.default_rng(0)
    states = np.array(list(itertools.product(range(classes), repeat=width)))  # [states, D]
    table = rng.normal(size=[classes] * width)
    one_hot = (lambda states: np.float64(states)) if classes == 2 else (lambda states: np.eye(classes)[states])
    with jax.enable_x64(True):
        q = (
            Bernoulli(jnp.array([0.8, -1.3, 0.1]))
            if classes == 2
            else Categorical(jnp.asarray(rng.normal(size=(3, 3))))
        )
        z = jnp.asarray(one_hot(states))
        moves, probability = other_values(q, z)
        weight, p = np.asarray(jnp.exp(q.log_prob(z))), np.asarray(q.mean)
        score = z - p
        h, h_moved, defined = table[tuple(states.T)], np.zeros(probability.shape), 0.0
        for i, step in itertools.product(range(width), range(1, classes)):
            moved = states.copy()
            moved[:, i] = (moved[:, i] - step) % classes  # the same as rolling the one-hot vector, or flipping a bit
            [a] = [a for a in range(classes - 1) if np.all(np.asarray(moves)[a, :, i] == one_hot(moved)[:, i])]
            h_moved[a, :, i] = table[tuple(moved.T)]
            rate, event = np.asarray(probability)[a, :, i], (-1,) + (1,) * (score.ndim - 1)
            change = table[tuple(moved.T)].reshape(event) * (one_hot(moved) - p) - h.reshape(event) * np.asarray(score)
            defined += rate.reshape(event) * change / width
        scalar = np.asarray(stein(probability, h, h_moved))
        vector = np.asarray(stein_of_score(probability, moves - z, score, h, h_moved))
    np.testing.assert_allclose(weight @ scalar, 0, atol=1e-12)
    np.testing.assert_allclose(np.tensordot(weight, vector, 1), 0, atol=1e-12)
    np.testing.assert_allclose(vector, defined, atol=1e-12)
