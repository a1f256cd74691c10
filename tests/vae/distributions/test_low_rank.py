"""The Gaussian of a diagonal plus a low rank against the one with a full covariance, and at the ends of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from tests.helpers import sixty_digits as exact
from tests.helpers.families import draw, float64
from vae import distributions as dist

BATCH, DIM, RANK = 2, 5, 2
Q = dist.LowRankNormal(draw(0, BATCH, DIM), draw(1, BATCH, DIM), draw(2, BATCH, DIM, RANK, scale=0.8))
P = dist.Normal(draw(3, BATCH, DIM), draw(4, BATCH, DIM, scale=0.2))
Z = draw(5, 20, BATCH, DIM, scale=1)


def covariance(q, b):
    return np.diag(np.exp(float64(q.log_var[b]))) + float64(q.factor[b]) @ float64(q.factor[b]).T


@pytest.fixture(scope="module")
def answers():
    """The density at Z, the image of each unit vector of the noise, and the KL of Q and of the full covariance."""
    full = dist.MultivariateNormal(Q.mean, np.float32([np.linalg.cholesky(covariance(Q, b)) for b in range(BATCH)]))
    units = np.broadcast_to(np.eye(DIM + RANK, dtype=np.float32)[:, None], (DIM + RANK, BATCH, DIM + RANK))
    with jax.numpy_dtype_promotion("strict"):
        program = jax.jit(lambda q: (q.log_prob(Z), q.from_noise(units), dist.kl(q, P), dist.kl(full, P)))
        return jax.device_get(program(Q))


def test_the_density_is_scipys(answers):
    for b in range(BATCH):
        truth = lambda covariance, b=b: st.multivariate_normal(float64(Q.mean[b]), covariance).logpdf(float64(Z[:, b]))
        np.testing.assert_allclose(answers[0][:, b], truth(covariance(Q, b)), rtol=1e-5)
        diagonal = np.diag(np.diag(covariance(Q, b)))
        assert np.abs(answers[0][:, b] - truth(diagonal)).mean() > 0.2  # the control: the same variances alone


def test_samples_have_the_covariance_of_the_density(answers):
    """They are linear in standard normal noise, so the images of the unit vectors say all."""
    for b in range(BATCH):
        columns = float64(answers[1][:, b] - Q.mean[b])
        np.testing.assert_allclose(columns.T @ columns, covariance(Q, b), rtol=1e-4, atol=1e-5)


def test_the_divergence_is_that_of_the_full_covariance(answers):
    np.testing.assert_allclose(answers[2], answers[3], rtol=1e-5)


def test_nothing_cancels_where_the_factor_is_large():
    """Woodbury's identity itself subtracts two numbers of size 1e6, whose difference is 3."""
    factor = np.float32([[1e3], [-2e3], [5e2]])
    q = dist.LowRankNormal(np.zeros(3, np.float32), np.zeros(3, np.float32), factor)
    z = np.float32([1.5e3, -3e3, 7.5e2]) + np.float32([1.0, 0.5, -1.0])
    truth = st.multivariate_normal(np.zeros(3), np.eye(3) + float64(factor) @ float64(factor).T).logpdf(float64(z))
    np.testing.assert_allclose(jax.jit(q.log_prob)(z[None]), truth, rtol=1e-4)


# The log-variances of three coordinates, and the log of the size of each row of the factor.
ENDS = [
    *[((narrow, 0, 0), (0, 0, 0)) for narrow in (-10, -20, -30, -160)],
    *[((0, 0, -160), (0, 0, 0)), ((-160, 0, -160), (0, 0, 0)), ((-160, 0, 160), (0, 0, 0)), ((160, 2, 160), (0, 0, 0))],
    *[((-160, -160, -160), (-80, -80, -80)), ((160, 160, 160), (80, 80, 80)), ((0, -160, 160), (0, -80, 80))],
]


@pytest.mark.parametrize("rank", [1, 2])
def test_density_divergence_and_gradients_are_right_at_the_ends(rank):
    log_var, size = map(np.float32, zip(*ENDS, strict=True))
    # A sample has no digits left for the narrow coordinates beyond the rank.
    kept = np.sum(log_var - 2 * size < -40, axis=1) <= rank
    log_var, size = log_var[kept], size[kept]
    factor = np.exp(size)[..., None] * draw(6, 3, rank, scale=1.0)
    noise = np.float32([[0.7, -1.1, 0.4, 0.9, -0.3][: 3 + rank]])
    q = lambda log_var, factor: dist.LowRankNormal(jnp.zeros(3), log_var, factor)
    z = jax.vmap(lambda *parameters: q(*parameters).from_noise(noise)[0])(log_var, factor)
    log_prob = lambda *row: q(*row[:2]).log_prob(row[2][None])[0]
    divergence = lambda *row: dist.kl(q(*row[:2]), dist.Normal(jnp.zeros(3), row[2]))
    _assert_right(log_prob, exact.low_rank_normal, log_var, factor, z, size)
    _assert_right(divergence, exact.kl_low_rank_normal, log_var, factor, np.maximum(log_var, 2 * size) + 1, size)


def _assert_right(function, truth, log_var, factor, last, size):
    """The function and its gradient in three arguments; that in the factor is in units of the rows' sizes."""
    rank = factor.shape[-1]
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(function, (0, 1, 2))))(log_var, factor, np.array(last))
    flat = lambda *arguments: np.concatenate([np.ravel(argument) for argument in arguments])
    unflat = lambda *row: (row[:3], [row[3 + rank * i :][:rank] for i in range(3)], row[-3:])
    for i in range(len(log_var)):
        row = flat(log_var[i], factor[i], last[i])
        units = flat(np.ones(3), np.repeat(np.exp(size[i]), rank), np.ones(3))
        true_value, true_gradient = exact.value_and_gradient(lambda *row: truth(*unflat(*row)), row)
        np.testing.assert_allclose(values[i], true_value, rtol=3e-6, atol=3e-5)
        gradient = flat(*(each[i] for each in gradients))
        np.testing.assert_allclose(gradient * units, true_gradient * units, rtol=3e-4, atol=3e-5)
