"""The closed forms of the KL against samples."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from tests.helpers.families import (
    BATCH,
    MEMBERS,
    WITH_KL,
    ask,
    float64,
    z_score,
)
from vae import distributions as dist


@pytest.mark.parametrize("name", WITH_KL)
def test_kl_is_the_mean_log_ratio(name):
    answers, p = ask(name), MEMBERS[name][1]
    log_p = answers["p"]
    if name == "MultivariateNormal":
        log_p = st.norm(float64(p.mean), np.exp(-0.1)).logpdf(float64(answers["z"])).sum(-1)
    ratio, exact = float64(answers["q"]) - float64(log_p), float64(answers["kl"])
    assert exact.shape == (BATCH,)
    scores, error = z_score(ratio, exact)
    assert scores.max() < 4.5
    assert np.all(error < 0.02 * np.maximum(exact, 0.3))
    if name != "MultivariateNormal":  # the control: the other direction
        assert z_score(ratio, float64(answers["reverse"]))[0].max() > 10
    # A prior without a batch broadcasts against a posterior with one.
    np.testing.assert_allclose(answers["one prior"][0], exact[0], rtol=1e-5)


@pytest.mark.parametrize("name", WITH_KL)
def test_kl_to_itself_is_zero_and_a_minimum(name):
    value, grads = ask(name)["to itself"]
    for leaf in (value, *jax.tree.leaves(grads)):
        np.testing.assert_allclose(leaf, 0, atol=5e-6)


def test_two_classes_are_a_bit():
    """ExpConcrete of two classes is BinaryConcrete of the difference of their logits; far out too."""
    logits = np.float32([[0.3, -1.1], [20.0, -20.0]])
    bits, classes = dist.BinaryConcrete(logits[:, 0] - logits[:, 1], 0.5), dist.ExpConcrete(logits, 0.5)
    z = jax.nn.log_sigmoid(jnp.float32([[[1.5, -1.5], [60.0, -60.0]], [[-0.4, 0.4], [90.0, -90.0]]]))
    both = jax.jit(lambda z: (classes.log_prob(z), bits.log_prob(z[..., 0] - z[..., 1])))
    np.testing.assert_allclose(*both(z), rtol=1e-5)


@pytest.mark.parametrize(("q", "p"), [("StudentT", "Normal"), ("Laplace", "Normal"), ("Normal", "MultivariateNormal")])
def test_kl_without_a_closed_form_names_both(q, p):
    with pytest.raises(NotImplementedError, match=rf"KL\({q} \|\| {p}\).*elbo"):
        dist.kl(MEMBERS[q][0], MEMBERS[p][0])


def test_a_formula_of_ones_own_is_used_and_replaces_none(monkeypatch):
    module = importlib.import_module("vae.distributions.kl")
    monkeypatch.setattr(module, "_KL", dict(module._KL))
    q, p = MEMBERS["StudentT"][0], MEMBERS["Normal"][1]
    dist.add_kl(dist.StudentT, dist.Normal, lambda q, p: jnp.full(q.batch_shape, 7.0))
    np.testing.assert_array_equal(dist.kl(q, p), np.full(BATCH, 7.0))
    with pytest.raises(ValueError, match=r"KL\(StudentT \|\| Normal\) has a formula already"):
        dist.add_kl(dist.StudentT, dist.Normal, lambda q, p: 0.0)


def test_the_monte_carlo_divergence_of_small_concentrations_is_the_closed_one():
    """A floor under the samples that holds much of the mass would lower it."""
    q = dist.Dirichlet(np.log(np.float32([[0.1, 0.1, 0.3]])))
    p = dist.Dirichlet(np.zeros((1, 3), np.float32))

    @jax.jit
    def draws(key):
        z = q.sample(key, 100_000)
        return q.log_prob(z) - p.log_prob(z)

    found = float64(draws(jax.random.key(3)))
    [exact] = float64(jax.jit(dist.kl)(q, p))
    assert abs(found.mean() - exact) < 4.5 * found.std() / np.sqrt(found.size)


@pytest.mark.parametrize("name", WITH_KL)
def test_two_events_have_no_divergence(name):
    q, p = MEMBERS[name]
    if name == "MultivariateNormal":
        p = dist.Normal(p.mean, np.zeros_like(p.mean))
    axis = -2 if name == "Categorical" else -1
    one = jax.tree.map(lambda leaf: np.take(leaf, [0], axis=axis), p)
    with pytest.raises(ValueError, match=r"the divergence needs two distributions over the same event, got shapes \("):
        dist.kl(q, one)
