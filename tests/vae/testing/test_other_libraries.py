"""Gradients of numpyro and PyTorch, where these are installed, are certified, and mistakes in them are caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae.testing import certify, problem

THETA = problem("Normal").theta


def gradient_of_numpyro(numpyro, losses, scale=1.0):
    """The gradient of the sum of `losses(datum)` over both data, each an objective of numpyro with its own model."""

    def gradient(key, parameters):
        def loss(parameters, datum, key):
            def guide():
                scale_of_z = jnp.exp(parameters["log_var"][datum] / 2)
                q = numpyro.distributions.Normal(parameters["mean"][datum], scale_of_z).to_event(1)
                return numpyro.sample("z", q)

            def model():
                flat = numpyro.distributions.ImproperUniform(numpyro.distributions.constraints.real_vector, (), (2,))
                z = numpyro.sample("z", flat)
                h = z @ THETA["weight"] + THETA["bias"]
                numpyro.factor("log_joint", -jnp.sum(jnp.square(THETA["x"][datum] - 1.5 * jnp.sin(h))))

            return losses().loss(key, {}, model, guide)

        total = lambda parameters: -sum(loss(parameters, i, k) for i, k in enumerate(jax.random.split(key)))
        return jax.tree.map(lambda leaf: scale * leaf, jax.grad(total)(parameters))

    return gradient


def test_the_elbo_of_numpyro_is_certified():
    numpyro = pytest.importorskip("numpyro")
    certified = certify(gradient_of_numpyro(numpyro, lambda: numpyro.infer.Trace_ELBO()), "Normal")
    assert certified, certified


def test_the_renyi_bound_of_numpyro_is_certified_at_alpha_0():
    numpyro = pytest.importorskip("numpyro")
    renyi = lambda: numpyro.infer.RenyiELBO(alpha=0.0, num_particles=2)
    certified = certify(gradient_of_numpyro(numpyro, renyi), "Normal", "log_mean_exp")
    assert certified, certified


def test_the_elbo_of_numpyro_is_not_taken_for_another_bound():
    numpyro = pytest.importorskip("numpyro")
    elbo = lambda: numpyro.infer.Trace_ELBO(num_particles=2)
    assert not certify(gradient_of_numpyro(numpyro, elbo), "Normal", "log_mean_exp")


def gradient_of_torch(torch, sample):
    """The mean of 64 gradients of the ELBO. The name of the sampling method is "rsample" or, by mistake, "sample"."""

    def gradient(seed, parameters):
        torch.manual_seed(seed)
        mean, log_var = (torch.tensor(parameters[name], requires_grad=True) for name in ("mean", "log_var"))
        weight, bias, x = (torch.tensor(np.asarray(THETA[name])) for name in ("weight", "bias", "x"))
        q = torch.distributions.Normal(mean, torch.exp(log_var / 2))
        z = getattr(q, sample)((64,))
        log_joint = -((x - 1.5 * torch.sin(z @ weight + bias)) ** 2).sum(-1)
        elbo = (log_joint - q.log_prob(z).sum(-1)).mean(0).sum()
        return dict(zip(("mean", "log_var"), torch.autograd.grad(elbo, (mean, log_var)), strict=True))

    return gradient


@pytest.mark.parametrize("sample", ["rsample", "sample"])
def test_the_reparameterized_samples_of_torch_are_certified_and_its_detached_samples_are_caught(sample):
    torch = pytest.importorskip("torch")
    certified = certify(gradient_of_torch(torch, sample), "Normal", takes="seed")
    assert bool(certified) == (sample == "rsample"), certified
