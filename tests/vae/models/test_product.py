"""Models whose posterior is a product of families."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae
from vae import distributions as dist
from vae import models


def test_a_model_of_two_blocks_reads_both_and_starts_at_the_prior():
    model = vae.make_vae((2, 2, 1), (1, 3), hidden=4, posterior="categorical+normal", prior="learned")
    key, x = jax.random.key(0), jnp.ones((2, 2, 2, 1))

    @jax.jit
    def run():
        params = model.init(key, x, key)
        q = model.apply(params, x, method="encode")
        z = q.sample(key, 1)
        slopes = jax.grad(lambda z: jnp.sum(model.apply(params, x, z, method="log_likelihood")))(z)
        prior = model.apply(params, method="prior_distribution")
        return q, z, slopes, [block.mean for block in prior.blocks]

    q, z, slopes, (of_classes, of_normal) = jax.device_get(run())
    assert [type(block) for block in q.blocks] == [dist.Categorical, dist.Normal]
    assert [leaf.shape for leaf in z] == [(1, 2, 1, 10), (1, 2, 3)]
    assert all(np.all(np.any(leaf != 0, axis=-1)) for leaf in slopes)
    np.testing.assert_array_equal(of_classes, np.full((1, 10), 0.1, np.float32))
    np.testing.assert_array_equal(of_normal, np.zeros(3))


def test_the_parts_of_the_parameters_go_to_the_blocks_in_order():
    posterior = models.POSTERIORS.make("bernoulli+normal")
    q = posterior.distribution(np.arange(5, dtype=np.float32)[None], (1, 2))
    np.testing.assert_array_equal(q.blocks[0].logits, [[0.0]])
    np.testing.assert_array_equal(q.blocks[1].mean, [[1.0, 2.0]])
    np.testing.assert_array_equal(q.blocks[1].log_var, [[3.0, 4.0]])
    assert models.POSTERIORS.make("concrete+normal").hard == models.POSTERIORS.make("categorical+normal")
    assert posterior.hard is None
    densities = [models.POSTERIORS.make(f"{block}+normal").has_density for block in ("iaf", "planar")]
    assert densities == [True, False]


def test_networks_read_what_each_block_says_side_by_side():
    make = models.POSTERIORS.make
    read = models.ProductPosterior((make("bernoulli", signed=True), make("categorical"), make("normal"))).read
    z = (np.float32([[0, 1]]), np.float32([[[0, 1, 0]]]), np.float32([[0.4]]))
    np.testing.assert_allclose(read(z), [[-1, 1, 0, 1, 0, 0.4]], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(latent_dim=8), "posterior=categorical.normal has 2 blocks; give latent_dim a number for each, got 8"),
        (
            dict(latent_dim=(1, 8), prior="mixture"),
            "prior=mixture needs one family, .* choose prior=standard or learned",
        ),
        (dict(latent_dim=(1, 8), prior="flow"), "prior=flow needs one family"),
        (dict(latent_dim=(1, 8), posterior="iaf+planar"), "has several flows; only one of the blocks can be a flow"),
    ],
)
def test_what_does_not_go_with_blocks_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        vae.make_vae((2, 2, 1), **{"posterior": "categorical+normal"} | arguments)
