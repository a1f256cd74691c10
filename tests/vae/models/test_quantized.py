"""Quantized latents in a model: codes, priors, the loss of the codebook, and the use of codes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import softmax

from tests.helpers.random_models import float64, images, parameters
from vae import distributions as dist
from vae import estimators, evaluate, models, objectives, train

SHAPE, B, D = (4, 4, 1), 5, 3
X = images(SHAPE, batch=B)


def make(name, **options):
    model = models.make_vae(SHAPE, D, (6,), posterior=models.POSTERIORS.make(name, **options))
    return model, parameters(model, X)


@functools.cache
def compiled(model, method):
    return jax.jit(functools.partial(model.apply, method=method))


def run(model, params, method, *args):
    """The compiled method of the model, on these arguments."""
    return jax.device_get(compiled(model, method)(params, *args))


@jax.jit
def codes_and_indices(q):
    """The code `[*batch, D, W]` of each position, and its index `[*batch, D]`."""
    return q.code, q.index


def bound(model, params, objective, name="vq_straight_through"):
    """The bound `[B]`, and the gradient of its sum in the parameters."""
    expect = estimators.bind(estimators.make(name), {}, {}, jax.random.key(0))

    def total(params):
        value = objective(model.apply, params, X, expect).value
        return jnp.sum(value), value

    (_, value), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return float64(value), grads["params"]


@pytest.mark.parametrize("objective", [objectives.elbo, objectives.elbo_analytic()])
def test_the_bound_is_the_likelihood_of_the_code_less_the_log_of_the_number_of_codes(objective):
    model, params = make("vq", codes=7, width=2)
    q = run(model, params, "encode", X)
    distance = np.sum((float64(q.encoding)[..., None, :] - float64(q.codebook)) ** 2, axis=-1)
    _, index = codes_and_indices(q)
    np.testing.assert_array_equal(index, np.argmin(distance, axis=-1))
    z = jax.jit(q.sample, static_argnums=1)(jax.random.key(1), 1)
    [log_likelihood] = run(model, params, "log_likelihood", X, z)
    value, _ = bound(model, params, objective)
    np.testing.assert_allclose(value, log_likelihood - D * math.log(7), rtol=1e-5)


@pytest.mark.parametrize("objective", [objectives.elbo, objectives.elbo_analytic()])
def test_the_losses_of_the_codebook_change_the_gradient_and_not_the_value(objective):
    plain, params = make("vq", codes=7, width=2, codebook_loss=0.0, commitment_loss=0.0)
    model, _ = make("vq", codes=7, width=2, codebook_loss=0.7, commitment_loss=0.3)
    (value, with_loss), (expected, without) = (bound(each, params, objective) for each in (model, plain))
    np.testing.assert_array_equal(value, expected)
    assert not np.any(without["encoder"]["codebook"]["codes"])
    q = run(model, params, "encode", X)
    code, index = map(np.asarray, codes_and_indices(q))
    # minus the derivative of 0.7 |e - c|^2 in the code c of each position, by hand
    steps = np.zeros(q.codebook.shape)
    np.add.at(steps, index, 2 * 0.7 * (float64(q.encoding) - float64(code)))
    np.testing.assert_allclose(with_loss["encoder"]["codebook"]["codes"], steps, rtol=1e-4, atol=1e-5)
    # minus the derivative of 0.3 |e - c|^2 in e, summed over the batch: the gradient of the last layer's bias
    bias = lambda grads: float64(grads["encoder"]["parameters"]["bias"])
    pulls = 2 * 0.3 * (float64(code) - float64(q.encoding)).sum(axis=0).ravel()
    np.testing.assert_allclose(bias(with_loss) - bias(without), pulls, rtol=1e-3, atol=1e-4)


def test_fsq_rounds_to_every_level_and_numbers_the_codes():
    levels = (8, 5, 2)
    posterior = models.POSTERIORS.make("fsq", levels="8-5-2")
    raw = np.stack(np.meshgrid(*[[-9.0, *np.linspace(-3, 3, 41), 9.0]] * 3, indexing="ij"), axis=-1).reshape(1, -1)
    distribution = jax.jit(lambda raw: posterior.distribution(raw, raw.size // 3))
    q = distribution(np.float32(raw))
    [code], [index] = jax.device_get(codes_and_indices(q))
    assert [len(np.unique(code[:, channel])) for channel in range(3)] == list(levels)
    np.testing.assert_array_equal(posterior.standard_prior(D).codebook[index], code)
    assert set(index) == set(range(80))
    assert posterior.codes == 80
    assert np.all(np.abs(np.asarray(q.encoding) - code) < 0.5001 / (np.asarray(levels) // 2))
    zero, _ = jax.device_get(codes_and_indices(distribution(np.zeros((1, 3), np.float32))))
    np.testing.assert_array_equal(zero[0, 0, :2], 0)


def test_the_encodings_of_fsq_end_just_inside_the_outer_levels():
    """Of 8 levels, -4 to 3, the encoding takes -3.9965 to 2.9965; of 5 levels, -2 to 2, it takes -1.998 to 1.998."""
    posterior = models.POSTERIORS.make("fsq", levels="8-5")
    ends = posterior.distribution(np.float32([[-50, -50], [50, 50]]), 1).encoding[:, 0]
    np.testing.assert_allclose(ends, [[-3.9965 / 4, -1.998 / 2], [2.9965 / 4, 1.998 / 2]], rtol=1e-5)


def test_stochastic_codes_are_a_softmax_of_distances_and_the_decoder_reads_code_vectors():
    model, params = make("stochastic_vq", codes=5, width=2, temperature=0.7)
    encoder, decoder = params["params"]["encoder"], params["params"]["decoder"]
    certain, _ = make("vq", codes=5, width=2)
    encoding = float64(run(certain, params, "encode", X).encoding)
    codes = float64(encoder["codebook"]["codes"])
    q = run(model, params, "encode", X)
    assert type(q) is dist.Categorical
    distance = np.sum((encoding[..., None, :] - codes) ** 2, axis=-1)
    np.testing.assert_allclose(q.mean, softmax(-distance / 0.7, axis=-1), rtol=1e-4)
    z = np.asarray(jax.jit(q.sample, static_argnums=1)(jax.random.key(1), 2))
    decoded = run(certain, {"params": {"decoder": decoder}}, "decode", z @ np.float32(codes))
    np.testing.assert_allclose(run(model, params, "decode", z).logits, decoded.logits, rtol=1e-5)


@pytest.mark.parametrize("name", ["vq", "fsq", "stochastic_vq"])
def test_samples_of_the_uniform_prior_are_codes_and_decode(name):
    model, params = make(name)

    @jax.jit
    def draw(params, key):
        prior = model.apply(params, method="prior_distribution")
        assert prior.batch_shape == ()
        return (z := prior.sample(key, 2000)), prior.log_prob(z)

    z, log_prob = jax.device_get(draw(params, jax.random.key(2)))
    count = models.POSTERIORS.make(name).codes
    np.testing.assert_allclose(log_prob, np.full(2000, -D * math.log(count)), rtol=1e-5)
    frequency = np.unique(z.reshape(2000 * D, -1), axis=0, return_counts=True)[1] / (2000 * D)
    assert len(frequency) > 0.9 * count
    assert np.max(np.abs(frequency - 1 / count)) < 5 * np.sqrt(1 / count / (2000 * D))
    assert run(model, params, "decode", z[:3, None]).logits.shape == (3, 1, 16)


@pytest.mark.parametrize(
    "options",
    [{"prior": "learned"}, {"prior": "mixture"}, {"prior": "vamp"}, {"prior": "flow"}, {"latent_dim": (3, 2)}],
)
@pytest.mark.parametrize("name", ["vq", "fsq", "stochastic_vq"])
def test_other_priors_and_several_layers_are_refused(name, options):
    with pytest.raises(ValueError, match=f"posterior={name} .*; (choose prior=standard|give latent_dim one number)"):
        models.make_vae(SHAPE, **{"latent_dim": D, "posterior": name} | options)


def test_the_use_of_codes_counts_positions_of_all_images():
    code_usage = jax.jit(evaluate.code_usage, static_argnums=(0, 3))
    model, params = make("vq", codes=7, width=2)
    index = np.ravel(codes_and_indices(run(model, params, "encode", X))[1])
    frequency = np.bincount(index, minlength=7) / index.size
    entropy = -np.sum(frequency[frequency > 0] * np.log(frequency[frequency > 0]))
    for batch_size in (2, 500):
        usage = code_usage(model.apply, params, X, batch_size)
        assert int(usage["codes_used"]) == len(set(index))
        np.testing.assert_allclose(usage["code_perplexity"], np.exp(entropy), rtol=1e-5)
    stochastic, params = make("stochastic_vq", codes=5, width=2)
    probabilities = float64(run(stochastic, params, "encode", X).mean).reshape(-1, 5).mean(axis=0)
    usage = code_usage(stochastic.apply, params, X)
    np.testing.assert_allclose(
        usage["code_perplexity"], np.exp(-np.sum(probabilities * np.log(probabilities))), rtol=1e-4
    )
    assert int(usage["codes_used"]) == np.sum(probabilities * B * D >= 1)


def test_only_quantized_models_have_codes():
    assert make("fsq")[0].has_codes
    assert make("stochastic_vq")[0].has_codes
    assert not make("categorical")[0].has_codes
    assert not models.make_vae(SHAPE, (3, 2), posterior="bernoulli").has_codes


def test_a_block_cannot_have_a_codebook():
    with pytest.raises(ValueError, match=r"posterior=vq\+normal has a block with a codebook; choose fsq or"):
        models.ProductPosterior((models.POSTERIORS.make("vq"), models.POSTERIORS.make("normal")))


def test_an_option_out_of_its_range_is_refused():
    for name, options, sentence in [
        ("vq", {"codes": 1}, "posterior=vq needs codes of at least 2, got 1"),
        ("vq", {"width": 0}, "posterior=vq needs width of at least 1, got 0"),
        ("vq", {"codebook_loss": -1.0}, "posterior=vq needs codebook_loss of at least 0, got -1.0"),
        ("vq", {"commitment_loss": -0.1}, "posterior=vq needs commitment_loss of at least 0, got -0.1"),
        ("stochastic_vq", {"temperature": 0.0}, "posterior=stochastic_vq needs a temperature above 0"),
        ("fsq", {"levels": "8-1"}, "posterior=fsq needs levels such as 8-5-5-5, each 2 or more, got 8-1"),
        ("fsq", {"levels": ""}, "posterior=fsq needs levels"),
        ("fsq", {"levels": "65536-65536-65536-65536"}, f"posterior=fsq has {2**64} codes .*, more than {2**20}"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            models.POSTERIORS.make(name, **options)


@pytest.mark.slow
def test_every_part_of_a_vq_model_learns_and_the_bound_rises():
    model, _ = make("vq", codes=7, width=2)
    estimator, optimizer = estimators.make("rotation"), optax.adam(1e-2)
    state = train.make_init(model, estimator, optimizer, X)(jax.random.key(0))
    step = train.make_step(model.apply, objectives.elbo_analytic(), estimator, optimizer)
    steps = jax.jit(
        lambda state: jax.lax.scan(
            lambda state, key: step(state, key, X), state, jax.random.split(jax.random.key(1), 60)
        )
    )
    after, metrics = steps(state)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params["model"], after.params["model"])
    assert all(jax.tree.leaves(moved))
    assert metrics["bound"][-1] > metrics["bound"][0] + 1
