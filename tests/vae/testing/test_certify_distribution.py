"""`certify_distribution` certifies the families of the library, and names what is wrong with others."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.distribution_levels import RIGHT
from tests.helpers.families import CLASSES, MEMBERS, draw
from vae import distributions as dist
from vae.testing import certify_distribution, problem
from vae.testing.moments import Moments

SUPPORTS = {
    "Gamma": "positive",
    "Beta": "unit",
    "Dirichlet": "simplex",
    "PowerSpherical": "sphere",
    "VonMisesFisher": "sphere",
    "ExpConcrete": (
        lambda z: (z[..., :-1] - z[..., -1:], 0.0),
        lambda y: jax.nn.log_softmax(jnp.concatenate([y, jnp.zeros_like(y[..., :1])], axis=-1)),
    ),
} | dict.fromkeys(["Bernoulli", "Categorical", "DiscretizedLogistic", "Poisson"], "discrete")
# The mean of these is not E[z]: that of the discrete variable which they relax, and a parameter.
OTHER_MEANS = ("BinaryConcrete", "ExpConcrete", "DiscretizedLogistic")
TOYS = ("LowRankNormal", "MixtureOfNormals", "PowerSpherical", "VonMisesFisher", "Poisson")
CASES = {name: members[0] for name, members in MEMBERS.items()} | {name: problem(name).phi for name in TOYS}
CASES["ExpConcrete"] = dist.ExpConcrete(draw(38, 2, 1, CLASSES), 0.7)  # in nine dimensions, the check is too noisy
FAST = ("Bernoulli",)  # `Own` is a Normal
SLOW = [name for name in CASES if name not in FAST]


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_families_of_the_library_are_certified(name):
    omit = ("mean",) if name in OTHER_MEANS else ()
    certified = certify_distribution(lambda q: q, CASES[name], support=SUPPORTS.get(name, "real"), omit=omit)
    assert certified, certified
    assert str(certified).startswith("certified; ")
    assert {"normalization", "score"} <= set(certified.checks)
    assert ("path" in certified.checks) == (getattr(CASES[name], "rsample", None) is not None)


class Own:
    """A Normal by mean and log-scale that has every method that is checked. Subclasses are wrong in one of them."""

    stretch, constant, log_volume, excess, shift = 1.0, 0.0, 0.0, 0.0, 0.0

    def __init__(self, mean, log_scale):
        self.mean, self.log_scale = mean, log_scale
        self.exact = dist.Normal(mean, 2 * log_scale)
        self.batch_shape = mean.shape[:-1]

    def rsample(self, key, num_samples):
        return self.mean + self.stretch * self.exact.scale * jax.random.normal(key, (num_samples, *self.mean.shape))

    def sample(self, key, num_samples):
        return jax.lax.stop_gradient(self.rsample(key, num_samples))

    def log_prob(self, z):
        return self.exact.log_prob(z) + self.constant

    @property
    def variance(self):
        return jnp.exp(2 * self.log_scale) + self.excess

    def entropy(self):
        return jnp.sum(self.log_scale + 0.5 * jnp.log(2 * jnp.pi * jnp.e), axis=-1) + self.shift


class WrongConstant(Own):
    constant = 0.05


class WrongScale(Own):
    stretch = 1.05


class WrongVariance(Own):
    excess = 0.05


class WrongEntropy(Own):
    shift = 0.05


class StoppedPath(Own):
    def rsample(self, key, num_samples):
        return jax.lax.stop_gradient(super().rsample(key, num_samples))


class HalfAPath(Own):
    """The scale moves the samples, and the mean does not."""

    def rsample(self, key, num_samples):
        return super().rsample(key, num_samples) - self.mean + jax.lax.stop_gradient(self.mean)


class OtherSamples(Own):
    def sample(self, key, num_samples):
        return jax.lax.stop_gradient(0.05 + super().rsample(key, num_samples))


class InfinitePath(Own):
    def rsample(self, key, num_samples):
        return super().rsample(key, num_samples) + jnp.sqrt(self.mean - self.mean)


class WrongMean(Own):
    def __init__(self, mean, log_scale):
        super().__init__(mean, log_scale)
        self.mean = mean + 0.05
        self.rsample = lambda key, num_samples: Own(mean, log_scale).rsample(key, num_samples)


class SampleWithGradient(Own):
    def sample(self, key, num_samples):
        return self.rsample(key, num_samples)


class LostEventSum(Own):
    def log_prob(self, z):
        return jax.scipy.stats.norm.logpdf(z, self.mean, self.exact.scale)


class ReversedDensity(Own):
    def log_prob(self, z):
        return super().log_prob(z)[::-1]


class OneSample(Own):
    def rsample(self, key, num_samples):
        return super().rsample(key, 1)

    def sample(self, key, num_samples):
        return jax.lax.stop_gradient(super().rsample(key, num_samples))


class PairedSamples(Own):
    def sample(self, key, num_samples):
        return jnp.repeat(super().sample(key, (num_samples + 1) // 2), 2, axis=0)[:num_samples]


class SameSamples(Own):
    """All data of the batch have the same samples."""

    def rsample(self, key, num_samples):
        return jnp.broadcast_to(super().rsample(key, num_samples)[:, :1], (num_samples, *self.mean.shape))


class OtherDivergence(Own):
    event_shape = (2,)


class OtherDensityOfSamples(Own):
    def rsample_and_log_prob(self, key, num_samples):
        z = self.rsample(key, num_samples)
        return z, self.log_prob(z) + 0.05


def certificate(family, batch=1):
    parameters = {"mean": draw(0, batch, 2), "log_scale": draw(1, batch, 2)}
    return certify_distribution(lambda parameters: family(**parameters), parameters)


def test_a_distribution_with_all_methods_is_certified_by_all_checks():
    parameters = {"mean": draw(0, 1, 2), "log_scale": draw(1, 1, 2)}
    make = lambda parameters: dist.Normal(parameters["mean"], 2 * parameters["log_scale"])
    with_kl = certify_distribution(make, parameters, prior=dist.Normal(jnp.zeros(2), jnp.zeros(2)))
    assert with_kl, with_kl
    assert [*with_kl.checks][-1] == "kl"
    certified = certificate(Own)
    assert certified, certified
    assert [*certified.checks] == ["normalization", "score", "rsample", "path", "mean", "variance", "entropy"]


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (WrongConstant, "normalization is wrong at [0] over the support 'real'"),
        (WrongScale, "score is wrong at log_scale[0, "),
        (WrongVariance, "variance is wrong at [0, "),
        (WrongEntropy, "entropy is wrong at [0]"),
        (WrongMean, "mean is wrong at [0, "),
        (StoppedPath, "path is wrong at "),
        (HalfAPath, "path is wrong at mean[0, "),
        (OtherSamples, "score is wrong at mean[0, "),
        (InfinitePath, "path is not finite at mean[0, 0]"),
        (SampleWithGradient, "sample carries a gradient; use stop_gradient"),
        (ReversedDensity, "log_prob of 3 samples differs from log_prob of each alone"),
        (OneSample, "3 samples of rsample have the shapes [[1, 1, 2]], unlike those of sample"),
        (PairedSamples, "samples of one call of sample repeat each other; give support="),
        (LostEventSum, "log_prob of 3 samples has the shape [3, 1, 2], and must have [3, 1]"),
    ],
)
def test_what_is_wrong_with_a_distribution_is_named(family, reason):
    certified = certificate(family)
    assert not certified, certified
    assert certified.reason.startswith(reason), certified
    assert str(certified).startswith(f"NOT CERTIFIED: {certified.reason}; ")


def test_what_one_call_shows_is_named():
    twins = certificate(SameSamples, batch=2)
    assert twins.reason == "rsample gives several data of the batch the same samples"
    other = certificate(OtherDensityOfSamples)
    assert other.reason == "rsample_and_log_prob returns another log q(z) than log_prob of its samples"


def test_a_wrong_divergence_is_named(monkeypatch):
    formulas = importlib.import_module("vae.distributions.kl")._KL
    monkeypatch.setitem(formulas, (OtherDivergence, dist.Normal), lambda q, p: dist.kl(q.exact, p) + 0.05)
    parameters = {"mean": draw(0, 1, 2), "log_scale": draw(1, 1, 2)}
    omit = ("normalization", "score", "rsample", "path", "mean", "variance", "entropy")
    prior = dist.Normal(jnp.zeros(2), jnp.zeros(2))
    certified = certify_distribution(lambda p: OtherDivergence(**p), parameters, prior=prior, omit=omit)
    assert certified.reason == "kl is wrong at [0]", certified
    assert certified.checks["kl"].deviation == pytest.approx(-0.05, abs=0.01)


def test_a_scale_that_is_wrong_by_5_percent_is_seen_in_the_score_and_other_samples_in_rsample():
    wrong, other = certificate(WrongScale), certificate(OtherSamples)
    assert abs(wrong.checks["score"].z) > wrong.critical_z
    assert wrong.checks["score"].coordinate.startswith("log_scale[0, ")
    assert abs(other.checks["rsample"].z) > other.critical_z


SHAPES = [pytest.param(name, marks=() if name == "an edge" else pytest.mark.slow) for name in RIGHT]


@pytest.mark.parametrize("name", SHAPES)
def test_a_density_of_any_shape_is_certified(name):
    certified = certify_distribution(RIGHT[name], jnp.zeros(1))
    assert certified, certified
    assert certified.checks["normalization"].stderr < 0.002


def test_a_score_of_0_with_rounding_errors_is_not_wrong():
    """A shift of all logits changes no probability."""
    make = lambda parameters: dist.Categorical(parameters["logits"] + parameters["shift"])
    parameters = {"logits": draw(2, 1, 1, CLASSES), "shift": jnp.ones((1, 1, 1))}
    certified = certify_distribution(make, parameters, support="discrete", omit=("mean", "variance", "entropy"))
    assert certified, certified


def test_moments_of_chunks_are_those_of_all_draws():
    rng = np.random.default_rng(0)
    chunks = [rng.normal(centre, 1.0, (size, 3)) for centre, size in ((0.0, 4), (5.0, 2), (-3.0, 5))]
    moments = Moments()
    for chunk in chunks:
        moments = moments.add(chunk)
    draws = np.concatenate(chunks)
    assert moments.count == 11
    np.testing.assert_allclose(moments.mean, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.stderr, draws.std(0, ddof=1) / np.sqrt(11), rtol=1e-12)


def test_infinite_draws_have_moments_that_are_not_finite():
    moments = Moments().add(np.array([[np.inf], [1.0]])).add(np.array([[1.0], [2.0]]))
    assert not np.isfinite(moments.mean).any()
    assert not np.isfinite(moments.stderr).any()


def test_discrete_families_without_their_support_are_refused():
    certified = certify_distribution(lambda q: q, CASES["Bernoulli"])
    assert certified.reason == 'sample gives whole numbers; give support="discrete"'


@pytest.mark.parametrize(
    ("make", "parameters", "options", "sentence"),
    [
        (lambda q: q, {}, {}, "there are no parameters"),
        (lambda p: Own(p, p), {"trials": 1}, {}, "the parameter trials is not a float; keep other numbers within make"),
        (lambda p: p, jnp.zeros(2), {}, "make returns .*Array.*, which has no batch_shape"),
        (lambda q: q, CASES["Normal"], {"prior": CASES["Laplace"]}, r"KL\(Normal || Laplace\) has no closed form"),
        (lambda q: q, CASES["Normal"], {"support": "positive"}, "samples are not in the support 'positive'"),
    ],
)
def test_arguments_with_which_nothing_can_be_tested_are_refused(make, parameters, options, sentence):
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=sentence):
        certify_distribution(make, parameters, **options)


def test_an_unknown_support_and_an_unknown_check_are_refused():
    q = CASES["Normal"]
    with pytest.raises(ValueError, match="there is no support 'reals'; choose one of real, positive, "):
        certify_distribution(lambda q: q, q, support="reals")
    with pytest.raises(ValueError, match="there is no check 'means' to omit; choose some of normalization, "):
        certify_distribution(lambda q: q, q, omit=("means",))


def test_a_normalization_that_is_too_noisy_is_given_up():
    certified = certify_distribution(lambda q: q, dist.Normal(jnp.zeros((1, 10)), jnp.zeros((1, 10))), max_draws=1)
    assert "the standard error of the normalization is" in certified.reason
