"""Parameters of different shapes: a distribution is built as if they had been broadcast before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.families import BATCH, FAMILIES, MEMBERS, float64, z_score
from vae import distributions as dist

SEVERAL = [name for name in FAMILIES if len(jax.tree.leaves(MEMBERS[name][0])) > 1]


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("index", [0, 1])
def test_parameters_are_broadcast_to_one_batch(name, index):
    q = MEMBERS[name][0]
    fields = [field.name for field in dataclasses.fields(q)]
    whole = {field: getattr(q, field) for field in fields}
    without_batch = whole | {fields[index]: whole[fields[index]][0]}
    expected = whole | {fields[index]: np.broadcast_to(whole[fields[index]][0], whole[fields[index]].shape)}
    built = type(q)(**without_batch)
    assert built.batch_shape == (BATCH,)
    jax.tree.map(np.testing.assert_array_equal, built, type(q)(**expected))


@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "MultivariateNormal"])
def test_one_number_stands_for_all_dimensions(name):
    q = MEMBERS[name][0]
    first, *rest = [field.name for field in dataclasses.fields(q) if not field.metadata]
    whole = {field: getattr(q, field)[0] for field in rest}
    for number in (0.5, np.float32([0.5])):
        built = dataclasses.replace(q, **whole | {first: number})
        jax.tree.map(
            np.testing.assert_array_equal, built, dataclasses.replace(built, **{first: np.full(3, 0.5, np.float32)})
        )


def test_a_shared_mean_has_independent_noise():
    q = dist.Normal(np.float32([0.3]), np.float32([-0.2, 0.4]))
    z = np.asarray(jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 40_000))
    assert abs(np.corrcoef(float64(z).T)[0, 1]) < 4.5 / np.sqrt(len(z))
    p = dist.Normal(np.zeros(2, np.float32), np.float32([-0.3, 0.3]))
    log_p, log_q = jax.jit(lambda z: (p.log_prob(z), q.log_prob(z)))(z)
    score, _ = z_score(np.exp(float64(log_p) - float64(log_q)), 1.0)
    assert score < 4.5


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"parameters of Normal do not broadcast; .*'mean': \(3,\), 'log_var': \(2,\)"):
        dist.Normal(np.zeros(3, np.float32), np.zeros(2, np.float32))
    for factor in (np.eye(1), np.ones((2, 3)), np.ones(2)):
        with pytest.raises(ValueError, match="MultivariateNormal"):
            dist.MultivariateNormal(np.zeros(2, np.float32), np.float32(factor))


@pytest.mark.parametrize(
    "build", [lambda t: dist.BinaryConcrete(jnp.zeros(2), t), lambda t: dist.ExpConcrete(jnp.zeros((2, 3)), t)]
)
def test_a_temperature_is_a_constant_of_the_program(build):
    for temperature in (np.float32([0.5, 0.7]), jnp.float32(0.5)):
        with pytest.raises(ValueError, match="Concrete needs a Python number as its temperature, not an array"):
            build(temperature)
    with pytest.raises(ValueError, match="needs a Python number"):
        jax.eval_shape(lambda t: build(t).log_prob(jnp.zeros((1, 2, 3))[..., : build(0.5).logits.shape[-1]]), 0.5)
    assert build(np.float32(0.5)).batch_shape == ()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: dist.VonMisesFisher([[0.5]], [[1.0]]), "VonMisesFisher needs at least 2 dimensions, got 1"),
        (lambda: dist.PowerSpherical([[0.5]], [[1.0]]), "PowerSpherical needs at least 2 dimensions, got 1"),
        (lambda: dist.DiscretizedLogistic([0.5], [-2.0], 1), "DiscretizedLogistic needs at least 2 levels, got 1"),
        (lambda: dist.DiscretizedLogisticMixture([[0.0]], [[0.5]], [[0.0]], 1), "Mixture needs at least 2 levels"),
        (lambda: dist.GreyLevels([[0.0]]), "GreyLevels needs at least 2 levels, got 1"),
        (lambda: dist.Rounded([[0.5, 0.5]], (3, 1)), "Rounded needs at least 2 levels, got 1"),
        (lambda: dist.BinaryConcrete([0.5], 0.0), "BinaryConcrete needs a positive temperature, got 0.0"),
        (lambda: dist.ExpConcrete([[0.5, 0.1]], -1.0), "ExpConcrete needs a positive temperature, got -1.0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_parameters_in_bfloat16_have_samples_and_densities_in_float32():
    q = dist.Bernoulli(jnp.full(200_000, -7.0, jnp.bfloat16))
    ones = np.sum(jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 1))
    expected = 200_000 / (1 + np.exp(7))
    assert abs(ones - expected) < 4.5 * np.sqrt(expected)
    gradient = jax.grad(lambda logits: jnp.sum(dist.Bernoulli(logits).log_prob(jnp.ones((1, 2)))))
    assert gradient(jnp.zeros(2, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32])
def test_values_of_fewer_bits_and_integers_have_their_densities_in_float32(dtype):
    counts = {"Poisson": dist.Poisson(jnp.full(3, 3.0)), "NegativeBinomial": dist.NegativeBinomial([4.0], [1.0])}
    shares = {"Gamma": dist.Gamma([4.0], [4.0]), "Beta": dist.Beta([4.0], [4.0]), "Dirichlet": MEMBERS["Dirichlet"][0]}
    values = {name: np.array([0, 1, 90], dtype) for name in counts}
    if dtype != np.int32:
        values |= {name: np.array([0.2, 0.7, 0.1], dtype) for name in shares}
    log_probs = jax.jit(lambda values: {name: (counts | shares)[name].log_prob(z) for name, z in values.items()})
    as_given = log_probs(values)
    in_float32 = log_probs({name: np.float32(z) for name, z in values.items()})
    for name, log_prob in as_given.items():
        assert log_prob.dtype == np.float32
        assert np.all(np.isfinite(log_prob))
        np.testing.assert_allclose(log_prob, in_float32[name], rtol=1e-6)


def test_what_jax_puts_in_the_place_of_parameters_is_not_broadcast():
    q = MEMBERS["MultivariateNormal"][0]
    norms = jax.tree.map(jnp.linalg.norm, q)
    assert (norms.mean.shape, norms.cholesky.shape) == ((), ())
    assert jax.tree.map(lambda leaf: None, q).mean is None


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (lambda: dist.Normal([0.0, 1.0], [0.0, 0.0]), lambda: dist.Normal(jnp.array([0.0, 1.0]), jnp.zeros(2))),
        (lambda: dist.Gamma(1, jnp.zeros(3)), lambda: dist.Gamma(jnp.ones(3), jnp.zeros(3))),
        (lambda: dist.Bernoulli([0, 1]), lambda: dist.Bernoulli(jnp.array([0.0, 1.0]))),
        (lambda: dist.Bernoulli(np.array([0, 1])), lambda: dist.Bernoulli(jnp.array([0.0, 1.0]))),
        (lambda: dist.Bernoulli([True, False]), lambda: dist.Bernoulli(jnp.array([1.0, 0.0]))),
    ],
)
def test_lists_and_integers_are_parameters(built, expected):
    q, p, key = built(), expected(), jax.random.key(0)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(q))
    jax.tree.map(np.testing.assert_array_equal, q, p)
    density_of_samples = jax.jit(lambda q: q.log_prob(q.sample(key, 4)))
    np.testing.assert_array_equal(density_of_samples(q), density_of_samples(p))
