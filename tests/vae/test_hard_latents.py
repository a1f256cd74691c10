"""Hard latents through the networks: the gradient of every group of parameters against the sum over all states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import estimators, models, objectives
from vae.estimators import bind, integrand, stateless

f64 = lambda array: np.asarray(array, np.float64)

_HARD = {
    "two layers of bits": (
        dict(posterior=models.POSTERIORS["bernoulli"](signed=True), latent_dim=(2, 2)),
        "elbo",
        "leave_one_out",
    ),
    "two layers, one by one": (
        dict(posterior=models.POSTERIORS["bernoulli"](signed=True), latent_dim=(2, 2)),
        "elbo",
        "disarm",
    ),
    "from the top, one by one": (
        dict(posterior=models.POSTERIORS["bernoulli"](signed=True), latent_dim=(2, 2), inference="top_down"),
        "elbo",
        "disarm",
    ),
    "classes": (
        dict(posterior=models.POSTERIORS["categorical"](categories=3), latent_dim=2),
        "elbo_analytic",
        "leave_one_out",
    ),
}


_SLOW = {"from the top, one by one": pytest.mark.slow}


@pytest.mark.parametrize("case", [pytest.param(case, marks=_SLOW.get(case, ())) for case in _HARD])
def test_a_network_of_hard_latents_learns_by_its_exact_gradient(case):
    """Encoder, decoder and learned prior, the inputs centred."""
    options, objective, name = _HARD[case]
    size = {"hidden": (3,), "layer_hidden": (3,), "prior": "learned", "data_mean": (0.3, 0.6, 0.5, 0.2)}
    model = models.make_vae((2, 2, 1), **size, **options, activation="tanh")
    x = np.random.default_rng(0).integers(0, 2, (3, 2, 2, 1)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(scale=0.8, size=leaf.shape)), shapes)

    if name == "leave_one_out" and objective == "elbo_analytic":
        states = np.array(list(itertools.product(np.eye(3), repeat=2)), np.float32)  # [9, 2, 3]
    else:
        states = np.array(list(itertools.product([0.0, 1.0], repeat=4)), np.float32)  # [16, 4]
    each = lambda part: jnp.asarray(np.broadcast_to(part[:, None], (len(part), len(x), *part.shape[1:])))
    z = (each(states[:, :2]), each(states[:, 2:])) if states.ndim == 2 else each(states)

    @jax.jit
    @jax.grad
    def exact(params):
        q = model.apply(params, x, method="encode")
        log_q = q.log_prob(z)
        log_likelihood = model.apply(params, x, z, method="log_likelihood")
        log_prior = model.apply(params, method="prior_distribution").log_prob(z)
        return jnp.sum(jnp.exp(log_q) * (log_likelihood + log_prior - log_q))

    bound, truth = objectives.elbo if objective == "elbo" else objectives.elbo_analytic(), _leaves(exact(params))
    assert any("prior" in leaf for leaf in truth)

    def scores(estimator, number):
        """Of each leaf, the largest deviation in standard errors, and the length of these over the gradient's."""
        encode = lambda: model.apply(params, x, method="encode")
        learned, counted = jax.eval_shape(lambda: estimator.init(jax.random.key(3), encode(), None))  # both empty

        def total(params, key):
            expect = bind(estimator, learned, counted, key)
            return jnp.sum(bound(model.apply, params, x, expect).value)

        draw = jax.jit(jax.vmap(jax.grad(total), in_axes=(None, 0)))
        draws = _leaves(draw(params, jax.random.split(jax.random.key(2), number)))
        return {leaf: _deviation(f64(draws[leaf]), f64(truth[leaf])) for leaf in truth}

    estimator = estimators.make(name, num_samples=2, by_layer=case.endswith("one by one"))
    for leaf, (deviation, error) in scores(estimator, 2**16).items():
        assert error < 0.05, leaf
        assert deviation < 4.5, leaf

    # The control: samples without their score, from which nothing comes back to the encoder but log q.
    deaf = scores(stateless(lambda key, q, f, reduce, c: reduce(integrand(f, q, c)(q.sample(key, 2)))), 2**12)
    assert all((deviation > 4.5) == ("encoder" in leaf) for leaf, (deviation, _) in deaf.items()), deaf


def _leaves(params):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _deviation(draws, truth):
    """In standard errors of the mean over axis 0, which are at least rounding's; and their length over the truth's."""
    norm = np.linalg.norm(truth)
    error = np.hypot(draws.std(axis=0, ddof=1) / np.sqrt(len(draws)), 1e-5 * norm)
    return np.max(np.abs(draws.mean(axis=0) - truth) / error), np.linalg.norm(error) / norm
