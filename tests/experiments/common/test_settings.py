"""Flags, settings and the programs made of them."""

import contextlib
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from experiments.common import build, settings
from vae import distributions, estimators, train

SMALL = ["--hidden=4", "--latent_dim=2", "--batch_size=256", "--epochs=2"]


def parse(*argv: str) -> list[settings.Settings]:
    values = flags.FlagValues()
    settings.define_flags(values)
    values(["program", *SMALL, *argv])
    return settings.from_flags(values)


def bound_of_two_epochs(run: settings.Settings) -> float:
    data = build.load_data(run, None)
    program, values = build.program(run, data), build.arrays(run)
    epoch = jax.jit(program.epoch)
    state, images = program.init(values), jnp.asarray(data.train)
    for _ in range(2):
        state, metrics = epoch(state, values, images)
    return metrics["bound"].item()


_bound_of = functools.cache(lambda argv: bound_of_two_epochs(parse(*argv.split())[0]))

BITS = "--posterior=bernoulli --estimator=leave_one_out --num_samples=2"
CLASSES = "--posterior=categorical --estimator=leave_one_out --num_samples=2"
RELAXED = "--posterior=binary_concrete --objective=elbo"


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ("", "--binarization=static"),
        ("--binarization=none --likelihood=gaussian", "--likelihood=discretized_logistic"),
        ("", "--architecture=conv"),
        ("", "--hidden=5"),
        ("", "--hidden=none"),
        ("", "--data_mean"),
        ("--estimator=leave_one_out --num_samples=2", "--posterior=bernoulli"),
        (BITS, "--learn_prior"),
        (BITS, "--signed_bits"),
        (BITS, "--posterior=categorical"),
        (CLASSES, "--categories=3"),
        ("", "--activation=tanh"),
        ("--activation=leaky_relu", "--negative_slope=0.3"),
        ("", "--latent_dim=3"),
        ("--objective=elbo", "--latent_dim=2-2"),
        ("--objective=elbo --latent_dim=2-2", "--layer_hidden=3"),
        ("", "--posterior=full_covariance"),
        ("", "--posterior=laplace"),
        ("--objective=elbo", "--posterior=student_t"),
        ("", "--objective=elbo"),
        ("--objective=elbo --num_samples=2", "--objective=iwae"),
        ("--objective=iwae --num_samples=2", "--objective=renyi"),
        ("--objective=renyi --num_samples=2", "--alpha=0.1"),
        ("--objective=iwae --num_samples=2", "--objective=thermodynamic"),
        ("--objective=thermodynamic --num_samples=2", "--partitions=2"),
        ("", "--beta=2"),
        ("", "--kl_warmup=2"),
        ("", "--free_bits=0.5"),
        ("--num_samples=2", "--estimator=leave_one_out"),
        ("--posterior=bernoulli --estimator=gumbel_softmax", "--temperature=2"),
        ("--posterior=bernoulli --estimator=gumbel_rao", "--estimator=gumbel_rao:inner_samples=2"),
        (RELAXED, "--temperature=0.4"),
        ("", "--num_samples=2"),
        ("", "--learning_rate=3e-3"),
        ("", "--adam_epsilon=1e-4"),
        ("", "--schedule=cosine"),
        ("", "--clip_norm=0.1"),
        ("", "--batch_size=128"),
        ("", "--seed=1"),
        ("", "--validation_size=100"),
    ],
)
def test_each_hyperparameter_changes_the_result(base, change):
    changed = _bound_of(f"{base} {change}")
    assert np.isfinite(changed)
    assert changed != _bound_of(base)


def test_the_control_variates_rate_is_for_what_the_estimator_learns():
    bits = "--posterior=bernoulli --objective=elbo --num_samples=2"
    bound = lambda rest: bound_of_two_epochs(parse(*f"{bits} {rest}".split())[0])
    assert bound("--estimator=double_cv --cv_learning_rate=0.1") != bound("--estimator=double_cv")
    assert bound("--estimator=leave_one_out --cv_learning_rate=0.1") == bound("--estimator=leave_one_out")


def test_by_layer_changes_hierarchies():
    layers = "--posterior=bernoulli --latent_dim=6-4 --objective=elbo --estimator=leave_one_out --num_samples=2"
    bounds = [bound_of_two_epochs(parse(*layers.split(), *more)[0]) for more in ([], ["--by_layer"])]
    assert np.all(np.isfinite(bounds))
    assert bounds[0] != bounds[1]


@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
def test_every_estimator_of_discrete_latents_builds_from_flags(family):
    """As `experiments.train` builds it before it trains: traced whole, at the least K."""
    data = build.load_data(settings.Settings(), None)
    latents = {"bernoulli": distributions.Bernoulli, "categorical": distributions.Categorical}[family]
    for bound in ("elbo", "iwae"):
        names = estimators.fitting(latents, bound)
        assert {"leave_one_out", "reinmax"} <= set(names)
        for name in names:
            samples = max(2, estimators.BY_NAME[name].min_samples)
            line = f"--posterior={family} --objective={bound} --estimator={name} --num_samples={samples}"
            [run] = parse(*line.split(), *["--categories=3"] * (family == "categorical"))
            assert callable(build.program(run, data).epoch)


def test_lists_give_their_product_without_duplicates():
    runs = parse("--seed=0,1,1", "--latent_dim=2,4-3", "--learning_rate=1e-3,1e-2")
    assert len(runs) == 8
    assert {run.latent_dim for run in runs} == {(2,), (4, 3)}


def test_a_program_holds_what_differs_in_numbers_alone():
    runs = parse("--seed=0,1", "--learning_rate=1e-3,1e-2", "--latent_dim=2,3", "--free_bits=0,0.1,0.2")
    groups = list(settings.programs(runs))
    assert sorted(map(len, groups)) == [4, 4, 8, 8]
    for group in groups:
        assert len({(run.latent_dim, run.free_bits > 0) for run in group}) == 1


def test_settings_survive_json():
    for run in parse("--latent_dim=2,4-3", "--learning_rate=1e-3", "--hidden=none,3", "--learn_prior=true,false"):
        assert settings.from_json(json.loads(json.dumps(run.json()))) == run


def test_switches_are_flags_like_others():
    assert not parse()[0].data_mean
    assert parse("--data_mean")[0].data_mean
    assert not parse("--nodata_mean")[0].data_mean
    assert [run.data_mean for run in parse("--data_mean=true,false")] == [True, False]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--layer_hidden=3", "take several, as --latent_dim=8-4"),
        ("--latent_dim=8,8-4 --layer_hidden=3", "take several, as --latent_dim=8-4"),
        ("--categories=3", "take --posterior=categorical"),
        ("--temperature=0.5", "--temperature is not for --estimator=reparam; leave it out"),
        ("--temperature=0.5 --estimator=gumbel_rao:temperature=2", "--temperature is not for --estimator=gumbel_rao:t"),
        ("--architecture=conv --hidden=none", "needs at least one layer"),
        ("--negative_slope=0.3", "take --activation=leaky_relu"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(argv, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(*argv.split())


def test_the_digest_names_the_run():
    digests = [run.digest() for run in parse("--seed=0,1", "--learning_rate=1e-3,1e-2")]
    assert len(set(digests)) == 4
    assert digests[0] == parse()[0].digest()


def test_runs_of_one_program_are_the_runs_alone():
    runs = parse("--learning_rate=1e-3,1e-2", "--beta=0.5", "--schedule=cosine", "--clip_norm=1")
    data = build.load_data(runs[0], None)
    program, images = build.program(runs[0], data), jnp.asarray(data.train)
    values = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(build.arrays, runs))
    states = jax.jit(train.over_runs(program.init, "map"))(values)
    together, _ = jax.jit(train.over_runs(program.epoch, "map", shared=1))(states, values, images)
    second = jax.tree.map(lambda leaf: leaf[1], values)
    alone, _ = jax.jit(program.epoch)(jax.jit(program.init)(second), second, images)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours[1], theirs, rtol=2e-5, atol=1e-6)


def test_what_a_control_variate_learns_by_does_not_scale_the_model():
    run = parse("--clip_norm=1")[0]
    params = {"model": {"w": jnp.ones(3)}, "estimator": {"v": jnp.ones(2)}}
    tx = build.optimizer(run, build.arrays(run), 10)

    def moments(size):
        grads = {"model": {"w": jnp.full(3, 0.1)}, "estimator": {"v": jnp.full(2, size)}}
        _, state = tx.update(grads, tx.init(params), params)
        [adam] = [part for part in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu")]
        return adam.mu

    small, large = moments(1e-3), moments(1e3)
    np.testing.assert_array_equal(large["model"]["w"], small["model"]["w"])
    np.testing.assert_allclose(np.linalg.norm(large["estimator"]["v"]), 0.1, rtol=1e-5)  # (1 - 0.9) of a norm of 1


def test_every_flag_explains_itself():
    values = flags.FlagValues()
    settings.define_flags(values)
    for name in settings.FIELDS:
        assert len(values[name].help) > 10
        assert values[name].default is not None


def test_bits_per_dim_of_a_uniform_mass():
    """256 equally likely levels cost 8 bits a pixel, whatever the image's size."""
    data = build.load_data(parse("--binarization=none", "--likelihood=discretized_logistic")[0], None)
    assert build.bits_per_dim(64 * np.log(256), data, "discretized_logistic") == pytest.approx(8)
    # A Gaussian density of height 1 on [0, 1] is one of 1 / 16 on the 17 levels' own scale.
    assert build.bits_per_dim(0.0, data, "gaussian") == pytest.approx(4)


def test_the_stages_are_the_papers():
    """arXiv:1509.00519, section 5: 3^i passes at 1e-3 * 10^(-i / 7), i = 0 to 7, which are 3280 passes."""
    [run] = parse("--schedule=stages", "--epochs=3280")
    rate = build.learning_rate(run, 1e-3, 3280 * 5)
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(expected) == 3280
    for epoch in (0, 1, 3, 4, 12, 13, 1092, 1093, 3279):
        for step in (5 * epoch, 5 * epoch + 4):
            assert rate(step) == pytest.approx(expected[epoch], rel=1e-5)


# --- any flags


def _values(field) -> st.SearchStrategy:
    """What a field may be, by its own bounds."""
    least, above = field.metadata["at_least"], field.metadata["above"]
    whole = st.integers(least or 0, 2**31 - 1)
    if field.type == tuple[int, ...]:
        return st.lists(whole, min_size=1, max_size=3).map(tuple)
    if field.type is bool:
        return st.booleans()
    if field.type is int:
        return whole
    if field.type is float:
        return st.floats(0, 1e30, exclude_min=above is not None)
    choices = settings._choices(field)
    return st.sampled_from(choices) if choices else st.text("abz:/._- é", min_size=1).map(str.strip).filter(len)


ANY_SETTINGS = st.builds(settings.Settings, **{name: _values(field) for name, field in settings.FIELDS.items()})


@examples(max_examples=40, deadline=None)
@given(ANY_SETTINGS)
def test_any_settings_come_back_from_flags_and_from_json(run):
    values = flags.FlagValues()
    settings.define_flags(values)
    values(["program", *(f"--{name}={settings._text(getattr(run, name))}" for name in settings.FIELDS)])
    assert {name: values[name].value for name in settings.FIELDS} == {n: (getattr(run, n),) for n in settings.FIELDS}
    assert settings.from_json(json.loads(json.dumps(run.json()))) == run


@examples(max_examples=60, deadline=None)
@given(st.sampled_from(list(settings.FIELDS)), st.text(max_size=20))
def test_any_text_is_a_value_or_refused(name, text):
    values = flags.FlagValues()
    settings.define_flags(values)
    with contextlib.suppress(flags.Error, ValueError):  # what cli.run makes one sentence of
        values(["program", f"--{name}={text}"])
        assert settings.from_flags(values)
