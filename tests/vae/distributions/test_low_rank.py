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


@pytest.mark.parametrize(("dim", "rank"), [(3, 2), (10, 5), (50, 10), (3, 1), (3, 0)])
def test_a_density_is_right_to_two_decimals_or_nan(dim, rank):
    """One coordinate is narrow, and 20 factors are random. A rank of 0 has no limit."""
    rng = np.random.default_rng(0)
    noise = np.float32(rng.normal(size=(8, 1, dim + rank)))
    ask = jax.jit(lambda q, z: (q.log_prob(z), dist.kl(q, dist.Normal(q.mean, 0.0))))
    draw_samples = jax.jit(dist.LowRankNormal.from_noise)
    for narrow in range(-4, -31, -2):
        log_var = np.zeros((20, dim), np.float32)
        log_var[:, 0] = narrow
        q = dist.LowRankNormal(np.zeros(dim, np.float32), log_var, np.float32(rng.normal(size=(20, dim, rank))))
        z = draw_samples(q, noise)
        found, divergence = ask(q, z)
        covariances, z = np.array([covariance(q, b) for b in range(20)]), float64(z)
        squares = np.sum(z * np.linalg.solve(covariances, z[..., None])[..., 0], axis=-1)
        log_dets = np.linalg.slogdet(covariances)[1]
        truth = -0.5 * (squares + log_dets + dim * np.log(2 * np.pi))
        true_divergence = 0.5 * (np.trace(covariances, axis1=1, axis2=2) - dim - log_dets)
        for error in (np.abs(found - truth), np.abs(divergence - true_divergence)):
            assert np.nanmax(error, initial=0.0) < 0.05
            assert not np.isnan(error).any() or narrow <= {0: -99, 1: -16}.get(rank, -8)
        assert not rank or narrow > -26 or np.isnan(found).any()
        assert np.array_equal(np.isnan(found).any(axis=0), np.isnan(divergence))


def test_gradients_where_a_coordinate_is_narrow():
    log_var, factor = np.float32([-6, 0, 0]), draw(6, 3, 2, scale=1.0)
    q = lambda log_var, factor: dist.LowRankNormal(jnp.zeros(3), log_var, factor)
    z = q(log_var, factor).from_noise(np.float32([[0.7, -1.1, 0.4, 0.9, -0.3]]))[0]
    log_prob = lambda *row: q(*row[:2]).log_prob(row[2][None])[0]
    divergence = lambda *row: dist.kl(q(*row[:2]), dist.Normal(jnp.zeros(3), row[2]))
    cases = ((log_prob, exact.low_rank_normal, z), (divergence, exact.kl_low_rank_normal, np.float32([1, 0, 2])))
    unflat = lambda *row: (row[:3], [row[3 + 2 * i :][:2] for i in range(3)], row[-3:])
    for function, truth, last in cases:
        gradients = jax.jit(jax.grad(function, (0, 1, 2)))(log_var, factor, last)
        row = np.concatenate([np.ravel(each) for each in (log_var, factor, last)])
        _, true = exact.value_and_gradient(lambda *row, truth=truth: truth(*unflat(*row)), row)
        np.testing.assert_allclose(np.concatenate([np.ravel(each) for each in gradients]), true, rtol=1e-3, atol=1e-4)
