"""The table of estimators: the facts in each entry, and refusals, which name the estimators that would work."""

import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import WITNESSES, first_family, vr_iwae
from tests.helpers.oracle import (
    FAMILIES,
    LOG_Q_WEIGHT,
    REDUCE,
    fits,
    make_estimator,
    problem,
)
from vae import estimators
from vae.distributions import Bernoulli, Normal, UniformOnSphere
from vae.estimators import (
    BY_NAME,
    Entry,
    Estimate,
    fitting,
    log_mean_exp,
    mean,
)
from vae.estimators.leave_one_out import leave_one_out
from vae.estimators.table import ENTRIES


@pytest.mark.parametrize("name", BY_NAME)
def test_a_refusal_names_the_estimators_that_would_work(name):
    """For every family and bound that the estimator does not fit."""
    for family, bound in itertools.product(FAMILIES, REDUCE):
        if fits(BY_NAME[name], FAMILIES[family], bound):
            continue
        estimator, _ = make_estimator(name, bound)
        toy = problem(family)
        q = toy.posterior(toy.phi)
        # gdreg is among those that would work only if the f that it is given is a `LogJoint`.
        f = None if BY_NAME[name].needs_prior else toy.integrand(toy.theta)
        with pytest.raises(ValueError, match=rf"^{name} cannot .*; these estimators can: ") as refusal:
            estimator.estimate({}, {}, jax.random.key(0), q, toy.integrand(toy.theta), REDUCE[bound], LOG_Q_WEIGHT)
        assert str(refusal.value) == BY_NAME[name].refusal(q, REDUCE[bound], LOG_Q_WEIGHT, f=f)
        named = str(refusal.value).split("these estimators can: ")[1].split(", ")
        assert named == fitting(q, REDUCE[bound], LOG_Q_WEIGHT, f=f)
        assert name not in named
        # `init` refuses latents that fit none of the estimator's bounds.
        if not any(fits(BY_NAME[name], q, other) for other in BY_NAME[name].reductions):
            with pytest.raises(ValueError, match=rf"{name} cannot .* with {family} latents; these estimators can: "):
                estimator.init(jax.random.key(0), q, None)


def test_the_refusal_of_an_estimator_of_ones_own_names_the_field_of_its_entry():
    def mine(num_samples: int = 1):
        return leave_one_out(num_samples)

    entry = Entry(mine, latents=("Bernoulli",), name="mine")
    bits, real = (problem(family).phi for family in ("Bernoulli", "Normal"))
    assert "such as elbo (if it can, say so in reductions= of its Entry); these " in entry.refusal(bits, log_mean_exp)
    assert "Normal latents (if it can, say so in latents= of its Entry); these " in entry.refusal(real)
    assert "Entry" not in BY_NAME["disarm"].refusal(real)  # the library's claims are what they are


def test_an_estimator_that_needs_log_q_refuses_a_plain_cost():
    q = Normal(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    f = lambda z: jnp.sum(z, axis=-1)
    cases = (("stl", mean, r"log q\(z\) in the integrand"), ("wake_sleep", log_mean_exp, "importance weights"))
    for name, reduce, needed in cases:
        estimator = BY_NAME[name].make()
        with pytest.raises(ValueError, match=rf"{name} needs {needed}"):
            estimator.estimate({}, {}, jax.random.key(0), q, f, reduce, log_q_weight=0.0)
    with pytest.raises(ValueError, match="wake_sleep needs importance weights"):
        BY_NAME["wake_sleep"].make().estimate({}, {}, jax.random.key(0), q, f, vr_iwae(0.5), log_q_weight=1.0)


def test_a_weight_of_log_q_may_be_an_array_in_a_compiled_function():
    stl, weight = BY_NAME["stl"].make(), jnp.float32(0.5)

    @jax.jit
    def value(mean_of_q, log_q_weight=weight):
        q = Normal(mean_of_q, jnp.zeros((1, 2)))
        f = lambda z: jnp.sum(z, axis=-1)
        return stl.estimate({}, {}, jax.random.key(0), q, f, mean, log_q_weight).value

    closed_over, given, other = (value(jnp.zeros((1, 2)), *one) for one in ((), (weight,), (2 * weight,)))
    np.testing.assert_allclose(closed_over, given, rtol=1e-6)
    assert np.abs(closed_over - other) > 0.1  # the control: log q is about -3


def test_a_plain_function_is_no_reduction():
    q = Normal(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    with pytest.raises(TypeError, match="reduce must be a Reduction, such as mean or log_mean_exp, got function"):
        estimators.reparam().estimate({}, {}, jax.random.key(0), q, lambda z: z[..., 0], lambda values: values[0])


class _PlainNormal:
    """A family that is no pytree."""

    batch_shape = (3,)

    def sample(self, key, num_samples):
        return jax.random.normal(key, (num_samples, 3, 2))

    def log_prob(self, z):
        return jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=-1)


@jax.tree_util.register_static
class _NormalOfNumpyro(_PlainNormal):
    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, (*sample_shape, 3, 2))


@jax.tree_util.register_static
class _WithoutBatchShape(_PlainNormal):
    batch_shape = property()


@jax.tree_util.register_static
class _WithoutDensity(_PlainNormal):
    log_prob = property()


def test_a_q_without_arrays_is_a_distribution():
    q = UniformOnSphere(3)
    estimate = BY_NAME["leave_one_out"].make().estimate({}, {}, jax.random.key(0), q, lambda z: jnp.sum(z**2, axis=-1))
    assert estimate.value == pytest.approx(1.0)


@pytest.mark.parametrize("family", [_PlainNormal, _NormalOfNumpyro, _WithoutBatchShape, _WithoutDensity])
def test_a_q_that_is_no_distribution_is_refused_with_what_it_needs(family):
    estimator, key = BY_NAME["leave_one_out"].make(), jax.random.key(0)
    sentence = rf"^q must be a pytree with batch_shape, sample\(key, K\) .* and {family.__name__} is not; vae"
    with pytest.raises(TypeError, match=sentence):
        estimator.init(key, family())
    with pytest.raises(TypeError, match=sentence):
        estimator.estimate({}, {}, key, family(), lambda z: jnp.sum(z, axis=-1))


@pytest.mark.parametrize("name", ["reinforce_ema", "nvil", "relax"])
def test_an_estimator_without_its_params_or_state_says_where_they_come_from(name):
    q, key = Bernoulli(jnp.zeros((2, 3))), jax.random.key(0)
    estimator = BY_NAME[name].make()
    params, state = jax.eval_shape(estimator.init, key, q)
    estimate = lambda f: lambda params, state: estimator.estimate(params, state, key, q, f).value
    assert jax.eval_shape(estimate(lambda z: z.sum(-1)), params, state).shape == (2,)
    with pytest.raises(ValueError, match=rf"^{name} needs the params and the state that estimator\.init\(key, q"):
        jax.eval_shape(estimate(lambda z: z.sum(-1)), {}, {})
    with pytest.raises(KeyError, match="mine"):  # an error of f stays what it is
        jax.eval_shape(estimate(lambda z: {}["mine"]), params, state)


def test_a_factory_is_importable_and_guarded_under_its_own_name():
    for name, entry in BY_NAME.items():
        assert getattr(estimators, name) is entry.make
    with pytest.raises(ValueError, match="stl cannot estimate gradients with Bernoulli latents"):
        estimators.stl().init(jax.random.key(0), Bernoulli(jnp.zeros((1, 2))))


def test_make_suggests_a_name_close_to_an_unknown_name():
    with pytest.raises(
        ValueError, match="there is no estimator 'rebr' .did you mean rebar.*; choose one of reparam, stl"
    ):
        estimators.make("rebr")
    with pytest.raises(ValueError, match="reparam cannot work layer by layer"):
        estimators.make("reparam", by_layer=True)


def test_every_estimator_has_a_name_of_its_own_for_papers():
    names = [entry.display for entry in ENTRIES.values()]
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", BY_NAME)
def test_too_few_samples_are_refused(name):
    least = BY_NAME[name].min_samples
    with pytest.raises(ValueError, match=rf"{name} needs num_samples of at least {least}, got {least - 1}"):
        BY_NAME[name].make(num_samples=least - 1)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_guard_keeps_the_signature_of_the_factory(name):
    signature = inspect.signature(BY_NAME[name].make)
    defaults = {option: parameter.default for option, parameter in signature.parameters.items()}
    assert signature == inspect.signature(ENTRIES[name].make)
    assert defaults["num_samples"] == max(1, BY_NAME[name].min_samples)
    BY_NAME[name].make(*defaults.values())  # also by position
    with pytest.raises(TypeError):
        BY_NAME[name].make(no_such_option=1)


@pytest.mark.parametrize(("name", "family", "bound"), WITNESSES)
def test_the_leaves_of_an_init_share_no_buffer(name, family, bound):
    """A jitted step that donates its state would donate a shared buffer twice, which is an error."""
    estimator, _ = make_estimator(name, bound)
    toy = problem(family)
    leaves = jax.tree.leaves(estimator.init(jax.random.key(0), toy.posterior(toy.phi), toy.theta["x"]))
    assert len({id(leaf) for leaf in leaves}) == len(leaves)


def test_an_odd_number_of_antithetic_samples_is_refused():
    with pytest.raises(ValueError, match="^antithetic samples come in pairs: num_samples=3 must be even"):
        BY_NAME["reparam_antithetic"].make(num_samples=3)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_entry_is_well_formed_and_its_defaults_give_a_finite_estimate(name):
    entry = BY_NAME[name]
    assert set(entry.latents) <= {"any", "reparameterizable", "Flow", "Quantized", "Rounded", *FAMILIES}
    assert entry.latents
    assert entry.reductions in (("mean",), ("log_mean_exp",), ("mean", "log_mean_exp"))
    source = r"(arXiv:\d{4}\.\d{4,5}|openreview:\w+|doi:\S+|PMLR \d+:\d+)"
    assert name == "exact" or entry.chooses or re.fullmatch(rf".+ \(\d{{4}}\), {source}", entry.paper)
    estimator = entry.make()
    toy = problem(first_family(name, entry.reductions[0]))
    q = toy.posterior(toy.phi)

    def run(key):
        params, state = estimator.init(key, q, None)
        return estimator.estimate(params, state, key, q, toy.integrand(toy.theta), REDUCE[entry.reductions[0]], 1.0)

    estimate = jax.jit(run)(jax.random.key(0))
    assert isinstance(estimate, Estimate)
    assert estimate.value.shape == q.batch_shape
    assert np.all(np.isfinite(estimate.value))
    assert estimate.cv_loss.shape == ()


@pytest.mark.parametrize("bound", REDUCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_fitting_lists_the_estimators_that_fit(family, bound):
    names = fitting(FAMILIES[family], REDUCE[bound], LOG_Q_WEIGHT)
    assert {"reinforce", "leave_one_out"} <= set(names)
    assert ("reparam" in names) == (family not in ("Bernoulli", "Categorical", "Poisson"))
    assert ("stl" in names) == ("reparam" in names and bound == "mean")
    assert ("dreg" in names) == ("reparam" in names and bound == "log_mean_exp")
    assert ("exact" in names) == (family in ("Normal", "MultivariateNormal", "Bernoulli", "Categorical", "Poisson"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("vargrad", ["leave_one_out"]),
        ("RLOO", ["leave_one_out"]),
        ("indecater", ["local_expectation"]),
        ("u2g", ["disarm"]),
        ("1602.06725", ["vimco"]),
        ("Grathwohl", ["relax"]),
        ("tvo-dreg", ["dreg"]),
        ("VR-IWAE DReG", ["dreg"]),
        ("nothing like it", []),
    ],
)
def test_an_estimator_is_found_by_its_other_names_and_its_paper(text, names):
    assert BY_NAME.search(text) == names


def test_another_name_is_refused_with_the_name_in_the_table():
    with pytest.raises(ValueError, match="there is no estimator 'vargrad'; here it is called leave_one_out"):
        BY_NAME.make("vargrad")
    with pytest.raises(ValueError, match="here it is called dreg"):
        BY_NAME.make("tvo-dreg")


def test_no_two_estimators_share_another_name():
    names = [name.casefold() for entry in BY_NAME.values() for name in (entry.display, *entry.also)]
    assert len(set(names)) == len(names)


@pytest.mark.usefixtures("restored_tables")
def test_an_added_estimator_has_the_same_checks_as_all_others():
    entry = estimators.Entry(leave_one_out, latents=("Bernoulli",), min_samples=2)
    estimators.add("mine", entry)
    with pytest.raises(ValueError, match="mine needs num_samples of at least 2"):
        estimators.make("mine", num_samples=1)
    q = Normal(jnp.zeros(2), jnp.zeros(2))
    with pytest.raises(ValueError, match="mine"):
        estimators.make("mine", num_samples=2).estimate({}, {}, jax.random.key(0), q, lambda z: z[..., 0])
    with pytest.raises(ValueError, match="the estimator mine exists already"):
        estimators.add("mine", entry)
    assert "mine" in estimators.fitting(Bernoulli)
