"""A product of families: samples, densities, divergence and means are those of its blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import distributions as dist
from vae import estimators, models, objectives
from vae.distributions import quantized

Q = dist.Product((dist.Bernoulli(np.float32([[0.3, -1.0]])), dist.Normal(np.float32([[0.5]]), np.float32([[-0.4]]))))
P = dist.Product((dist.Bernoulli(np.float32([0.0, 0.2])), dist.Normal(np.float32([0.1]), np.float32([0.3]))))


def test_a_product_is_the_sum_and_the_tuple_of_its_blocks():
    @jax.jit
    def ask(q, p):
        z = q.sample(jax.random.key(0), 5)
        of_blocks = [block.log_prob(part) for block, part in zip(q.blocks, z, strict=True)]
        divergences = dist.kl(q, p), sum(map(dist.kl, q.blocks, p.blocks))
        return z, q.log_prob(z), sum(of_blocks), *divergences, q.layer_means(jax.random.key(1), 3)

    z, log_q, sum_of_log_q, divergence, sum_of_divergences, means = ask(Q, P)
    assert [part.shape for part in z] == [(5, 1, 2), (5, 1, 1)]
    np.testing.assert_allclose(log_q, sum_of_log_q, rtol=1e-6)
    np.testing.assert_allclose(divergence, sum_of_divergences, rtol=1e-6)
    np.testing.assert_array_equal(means[1], Q.blocks[1].mean)


def test_blocks_of_one_family_have_noise_of_their_own():
    normal = dist.Normal(np.zeros(1, np.float32), np.zeros(1, np.float32))
    first, second = jax.jit(dist.Product((normal, normal)).sample, static_argnums=1)(jax.random.key(0), 10_000)
    assert abs(np.mean(first * second)) < 4.5 / np.sqrt(10_000)


def test_the_divergence_does_not_need_parameters_in_every_block():
    sphere = dist.PowerSpherical(np.float32([[0.5, 1.0, -0.2]]), np.float32([[1.0]]))
    codes = dist.Rounded(np.float32([[[0.2, -0.8]]]), (3, 2))
    priors = (dist.UniformOnSphere(3), dist.UniformCodes(quantized.grid((3, 2)), 1), P.blocks[1])
    q, p = dist.Product((sphere, codes, Q.blocks[1])), dist.Product(priors)
    divergences = jax.jit(lambda q, p: (dist.kl(q, p), sum(map(dist.kl, q.blocks, p.blocks))))
    np.testing.assert_allclose(*divergences(q, p), rtol=1e-6)
    other = dist.Product((dist.UniformOnSphere(4), *priors[1:]))
    with pytest.raises(ValueError, match="the same event, got shapes"):
        dist.kl(q, other)


def test_a_product_with_a_certain_code_has_no_score():
    codes = dist.Rounded(np.float32([[[0.2, -0.8]]]), (3, 2))
    refusal = estimators.BY_NAME["leave_one_out"].refusal
    assert "codes are certain: there is no score" in refusal(dist.Product((codes, Q.blocks[1])))
    assert refusal(Q) is None


def test_a_product_with_a_block_without_a_path_is_refused():
    q = dist.Product((Q.blocks[1], dist.DiscretizedLogistic(np.float32([[0.5]]), np.float32([[-2.0]]))))
    assert not hasattr(q, "rsample")
    assert not hasattr(q, "rsample_and_log_prob")
    for name in ("reparam", "auto"):
        with pytest.raises(ValueError, match=f"{name} cannot estimate gradients with Product latents"):
            estimators.make(name).init(jax.random.key(0), q)


def test_a_product_has_a_path_if_all_its_blocks_have_one():
    assert not hasattr(Q, "rsample")
    assert not hasattr(Q, "rsample_and_log_prob")
    normal = Q.blocks[1]
    both = dist.Product((normal, dist.Laplace(normal.mean, normal.log_var)))

    @jax.jit
    def ask(q):
        z, log_q = q.rsample_and_log_prob(jax.random.key(0), 4)
        slopes = jax.grad(lambda q: jnp.sum(q.rsample(jax.random.key(0), 4)[0]))(q)
        return log_q, q.log_prob(z), slopes.blocks[0].mean

    log_q, log_q_of_z, slope = ask(both)
    np.testing.assert_allclose(log_q, log_q_of_z, rtol=1e-6)
    np.testing.assert_allclose(slope, [[4.0]])


def test_a_divergence_without_a_closed_form_is_refused_by_the_names_of_the_blocks():
    with pytest.raises(NotImplementedError, match="KL.Normal .. Laplace. has no closed form"):
        dist.kl(Q, dist.Product((P.blocks[0], dist.Laplace(np.zeros(1), np.zeros(1)))))


def test_a_product_draws_with_the_densities_of_its_blocks():
    q = dist.Product(
        (dist.Normal(jnp.array([[0.3, -1.0]]), jnp.zeros((1, 2))), dist.Laplace(jnp.ones((1, 3)), jnp.zeros((1, 3))))
    )
    key = jax.random.key(0)
    z, density = q.rsample_and_density(key, 4)
    jax.tree.map(np.testing.assert_array_equal, z, q.rsample(key, 4))
    np.testing.assert_allclose(density(z), q.log_prob(z), rtol=1e-6)
    score = lambda q: jax.grad(lambda q: jnp.sum(q.rsample_and_density(key, 4)[1](z)))(q)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), score(q))  # it holds q


@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_a_block_without_an_inverse_has_the_score_of_its_noise(name):
    model = models.make_vae((2, 2, 1), latent_dim=(2, 3), hidden=(), posterior="planar+normal")
    x = jnp.ones((3, 2, 2, 1))
    params = model.init(jax.random.key(0), x, jax.random.key(1))
    expect = estimators.bind(estimators.make(name, num_samples=2), {}, {}, jax.random.key(2), x)
    bound = objectives.elbo if name == "stl" else objectives.iwae
    gradient = jax.grad(lambda params: jnp.sum(bound(model.apply, params, x, expect).value))
    assert jax.tree.structure(jax.eval_shape(gradient, params)) == jax.tree.structure(params)
