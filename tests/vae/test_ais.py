"""Annealed importance sampling against the linear-Gaussian VAE, whose log p(x) is known.

E[w / p(x)] = 1 forwards and E[p(x) / w] = 1 backwards, for any number of steps and chains.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import linear_gaussian
from vae import ais, models
from vae import distributions as dist

MODEL, PARAMS, _ = linear_gaussian.example()
SHAPE = (4, 1, 1)
SIZES = {"num_steps": 20, "num_chains": 4, "leapfrog_steps": 3}


NUM_DATA = 400


@functools.partial(jax.jit, static_argnames="start")
def annealed(x, z, first, start):
    key = jax.random.key(1)
    return ais.bounds(MODEL.apply, PARAMS, x, key, z=z, start=start, batch_size=200, first=first, **SIZES)


@functools.cache
def simulated():
    return jax.jit(lambda params: ais.simulate(MODEL.apply, params, jax.random.key(0), NUM_DATA, SHAPE))(PARAMS)


def sandwich(start="prior"):
    """Bounds of simulated data, and log p(x) of them, as float64."""
    x, z = simulated()
    bounds = {name: np.asarray(values, np.float64) for name, values in annealed(x, z, 0, start).items()}
    return bounds, linear_gaussian.log_marginal(PARAMS, x)


def deviation_from_one(log_ratios):
    """(E[exp(log_ratio)] - 1) in standard errors, which are at most 6 %."""
    ratios = np.exp(log_ratios)
    error = ratios.std(ddof=1) / np.sqrt(len(ratios))
    assert error < 0.06
    return (ratios.mean() - 1) / error


@pytest.mark.parametrize("start", ["prior", pytest.param("q", marks=pytest.mark.slow)])
def test_the_weights_are_unbiased_in_both_directions(start):
    bounds, truth = sandwich(start)
    assert abs(deviation_from_one(bounds["lower"] - truth)) < 4.5
    assert abs(deviation_from_one(truth - bounds["upper"])) < 4.5


def test_the_bounds_are_on_both_sides_of_the_truth_on_average():
    bounds, truth = sandwich()
    assert bounds["lower"].mean() < truth.mean() < bounds["upper"].mean()
    gap = bounds["upper"] - bounds["lower"]
    assert gap.mean() > 4.5 * gap.std(ddof=1) / np.sqrt(len(gap))
    assert np.all((bounds["acceptance"] > 0.3) & (bounds["acceptance"] <= 1))
    assert np.all((bounds["ess_share"] > 0.24) & (bounds["ess_share"] < 1.001))


@pytest.mark.slow
def test_weights_with_a_wrong_temperature_are_not_unbiased(monkeypatch):
    """The control: a chain that moves at temperatures other than those of its weights."""
    right = ais.transition
    monkeypatch.setattr(ais, "transition", lambda path, b, *rest: right(path, 0.5 * b, *rest))
    annealed.clear_cache()
    bounds, truth = sandwich()
    annealed.clear_cache()
    assert abs(deviation_from_one(bounds["lower"] - truth)) > 4.5


@pytest.mark.parametrize("always", [False, True])
def test_a_transition_leaves_its_distribution_invariant_unless_everything_is_accepted(always, monkeypatch):
    """Samples of f_b, a normal of precision 1 + b, keep their variance; with large steps many moves are refused."""
    path = lambda z: (-0.5 * jnp.sum(z**2), -0.5 * jnp.sum(z**2))
    if always:
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype, minval=0.0, maxval=0.0: dtype.type(minval))
    variance = 1 / 1.6
    z = np.sqrt(variance) * jax.random.normal(jax.random.key(2), (20_000, 1))
    move = jax.jit(jax.vmap(lambda z, key: ais.transition(path, 0.6, z, key, 1.1, 2)))
    moved, acceptance = move(z, jax.random.split(jax.random.key(3), len(z)))
    assert 0.2 < acceptance.mean() < 0.95
    squares = np.asarray(moved, np.float64) ** 2
    z_score = (squares.mean() - variance) / (squares.std() / np.sqrt(len(squares)))
    assert (abs(z_score) < 4.5) != always
    assert np.mean(np.asarray(moved) != np.asarray(z)) > 0.2


def test_a_move_to_where_there_is_no_density_is_refused():
    """A probability that is NaN would make all later step sizes NaN."""
    path = lambda z: (jnp.where(jnp.abs(z[0]) > 2, jnp.nan, -0.5 * z[0] ** 2), 0.0)
    z, probability = jax.jit(lambda z: ais.transition(path, 1.0, z, jax.random.key(0), 100.0, 2))(jnp.array([0.3]))
    assert (z[0], probability) == (np.float32(0.3), 0)


def test_the_temperatures_rise_from_0_to_1_and_are_dense_at_the_ends():
    b = ais.temperatures(100)
    assert (b[0], b[-1]) == (0, 1)
    changes = np.diff(b)
    assert np.all(changes > 0)
    assert changes[50] > 5 * max(changes[0], changes[-1])


def test_a_datum_has_the_same_bounds_whatever_data_are_beside_it():
    """One program, whose data have the place `first` + n: the data from 350 on are in the second of its two batches."""
    x, z = simulated()
    roll = lambda data: jnp.roll(data, -350, axis=0)
    whole, moved = annealed(x, z, 0, "prior"), annealed(roll(x), roll(z), 350, "prior")
    for name in whole:
        np.testing.assert_allclose(moved[name][:50], whole[name][350:], rtol=1e-4, atol=1e-4)
    assert np.all(moved["lower"][50:] != whole["lower"][:350])  # the control: other noise


FLOW = models.POSTERIORS.make("coupling", layers=1, hidden=2)
IMAGES = jnp.zeros((2, 2, 2, 1))


def bounds_of(sizes=SIZES, start="prior", **options):
    model = models.make_vae((2, 2, 1), hidden=(3,), **{"latent_dim": 2} | options)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES, jax.random.key(1))
    compute = lambda params: ais.bounds(model.apply, params, IMAGES, jax.random.key(2), **sizes, start=start)
    return jax.eval_shape(compute, params)


def test_only_the_pilot_adapts_its_steps(monkeypatch):
    """Steps that depend on the chains that are weighted would bias the weights."""
    anneal, adapts = ais._anneal, {}

    def watched(path, z, key, num_steps, leapfrog_steps, steps, **how):
        adapts[len(z)] = steps is None
        return anneal(path, z, key, num_steps, leapfrog_steps, steps, **how)

    monkeypatch.setattr(ais, "_anneal", watched)
    bounds_of(SIZES | {"num_chains": 7})
    assert adapts == {ais.PILOT_CHAINS: True, 7: False}


@pytest.mark.parametrize(
    "options", [{"prior": "vamp"}, {"latent_dim": (2, 1)}, {"posterior": FLOW}], ids=["prior", "layers", "flow"]
)
def test_learned_priors_several_layers_and_flows_are_annealed_from_q(options):
    assert bounds_of(start="q", **options)["lower"].shape == (2,)


@pytest.mark.parametrize("posterior", ["bernoulli", "gamma", "dirichlet", "concrete", "poisson", "vq"])
def test_other_latent_variables_are_refused(posterior):
    options = {"bernoulli": {"latent_dim": (2, 1)}, "gamma": {"prior": "mixture"}}.get(posterior, {})
    with pytest.raises(ValueError, match=r"must be able to take all real values, and \w+ does not say that they can"):
        bounds_of(posterior=posterior, **options)


def test_a_family_of_ones_own_is_annealed_if_it_says_that_it_is_real():
    class Mine:
        """A standard Normal that is no family of vae."""

        sample = staticmethod(lambda key, num_samples: jax.random.normal(key, (num_samples, 2)))
        log_prob = staticmethod(dist.Normal(jnp.zeros(2), jnp.zeros(2)).log_prob)

    def bounds():
        apply = lambda params, *args, method: (
            Mine() if method == "prior_distribution" else MODEL.apply(params, *args, method=method)
        )
        return jax.eval_shape(lambda p: ais.bounds(apply, p, simulated()[0][:3], jax.random.key(0), **SIZES), PARAMS)

    with pytest.raises(ValueError, match="Mine does not say that they can.*give a family of your own .*is_real = True"):
        bounds()
    Mine.is_real = True
    assert bounds()["lower"].shape == (3,)


@pytest.mark.parametrize("start", ais.STARTS)
def test_a_float32_model_stays_float32_where_jax_has_float64(start):
    with jax.enable_x64(True):
        assert bounds_of(start=start)["lower"].dtype == jnp.float32


def test_a_wrong_start_and_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="start must be prior or q, got 'noise'"):
        bounds_of(start="noise")
    for name in SIZES:
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            bounds_of(SIZES | {name: 0})


def test_images_that_the_likelihood_cannot_have_are_refused():
    model = models.make_vae((4, 4, 1), latent_dim=2, hidden=(3,))
    x = np.full((2, 4, 4, 1), 255, np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x / 255, jax.random.key(0))
    with pytest.raises(ValueError, match=r"values from 255\.0 to 255\.0; floats must be 0 to 1"):
        jax.eval_shape(lambda params: ais.bounds(model.apply, params, x, jax.random.key(0), num_steps=2), params)
