"""Bayesian logistic regression with a Gaussian posterior."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.problems.problem import Problem, elbo_oracle
from vae import distributions
from vae.estimators import log_mean_exp, mean


def logistic_regression() -> Problem:
    """Logistic regression whose weights have the prior N(0, I) and q = N(mean, diag exp(log_var)).

    The data are scikit-learn's breast cancer data: 569 patients, 30 standardized features and a constant. Mohamed et
    al. (2020), arXiv:1906.10652, use the same data and prior and train with batches. This problem has all
    patients, and its parameters are near the start of training.

    The gradient is exact: the logit of a patient is Gaussian, so a Gauss-Hermite quadrature gives the expectation.
    """
    from sklearn.datasets import load_breast_cancer

    features, label = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    sign = 2.0 * label - 1
    rng = np.random.default_rng(0)
    params = {"phi": {"mean": 0.1 * rng.normal(size=31), "log_var": np.full(31, -2.0)}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    def expected(params):
        q = distributions.Normal(**params["phi"])
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        deviation = jnp.sqrt(jnp.square(features) @ jnp.exp(q.log_var))  # [N], of the patients' logits
        logits = (features @ q.mean)[:, None] + deviation[:, None] * nodes  # [N, 64]
        likelihood = jax.nn.log_sigmoid(sign[:, None] * logits) @ weights / np.sqrt(2 * np.pi)
        return jnp.sum(likelihood) - distributions.kl(q, _prior(q.mean))

    return Problem(
        "logistic_regression",
        params,
        bounds={"elbo": _log_weight(mean), "elbo_analytic": _elbo_analytic, "iwae": _log_weight(log_mean_exp)},
        data={"features": jnp.asarray(features, jnp.float32), "sign": jnp.asarray(sign, jnp.float32)},
        oracle=elbo_oracle(expected, params),
        exact_by="quadrature, order 64",
    )


def _prior(like) -> distributions.Normal:
    return distributions.Normal(jnp.zeros_like(like), jnp.zeros_like(like))


def _log_likelihood(z, data):
    return jnp.sum(jax.nn.log_sigmoid(data["sign"] * (z @ data["features"].T)), axis=-1)  # [K]


def _log_weight(reduce):
    def bound(params, data, expect):
        q = distributions.Normal(**params["phi"])
        log_joint = lambda z: _log_likelihood(z, data) + _prior(z[0]).log_prob(z)
        return expect(q, log_joint, reduce, log_q_weight=1.0)

    return bound


def _elbo_analytic(params, data, expect):
    q = distributions.Normal(**params["phi"])
    estimate = expect(q, lambda z: _log_likelihood(z, data), mean)
    return estimate._replace(value=estimate.value - distributions.kl(q, _prior(q.mean)))
