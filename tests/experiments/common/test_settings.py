"""Flags, settings and the programs made of them."""

import contextlib
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jax.interpreters.partial_eval import dce_jaxpr_consts

from experiments.common import build, setting_flags, settings
from vae import data, train

SMALL = ["--hidden=4", "--latent_dim=2", "--batch_size=256", "--epochs=2"]


def parse(*argv: str) -> list[settings.Settings]:
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    values(["program", *SMALL, *argv])
    return setting_flags.from_flags(values)


def _first_epoch(run: settings.Settings) -> jax.stages.Traced:
    """The first epoch of the run: a program from the training images to the mean bound."""
    data = build.load_data(run, None)
    program, values = build.functions(run, data), build.arrays(run)
    return jax.jit(lambda images: program.epoch(program.init(values), values, images)[1]["bound"]).trace(data.train)


@functools.cache
def _code(run: settings.Settings) -> tuple[str, list]:
    """The first epoch as text and its constants, without code and constants that do not reach the bound."""
    program = _first_epoch(run).jaxpr
    jaxpr, is_used, _ = dce_jaxpr_consts(program.jaxpr, [True])
    # jax 0.12 prints the trees of a scan's arguments too, which have the empty states of the optimizer.
    text = re.sub(r"^ *ft_(in|out)=.*$", "", str(jaxpr), flags=re.MULTILINE)
    assert " at 0x" not in text  # addresses in memory differ whatever the program is
    return text, [constant.tolist() for constant, used in zip(program.consts, is_used, strict=True) if used]


def _code_of(argv: str) -> tuple[str, list]:
    [run] = parse(*argv.split())
    return _code(run)


@functools.cache
def _bound_of(argv: str) -> float:
    """The mean bound of the first epoch of the run with these flags."""
    [run] = parse(*argv.split())
    return _first_epoch(run).lower().compile()(jnp.asarray(build.load_data(run, None).train)).item()


BITS = "--posterior=bernoulli --estimator=leave_one_out --num_samples=2"
SEVERAL = "--objective=elbo --latent_dim=2-2"
CLASSES = "--posterior=categorical --estimator=leave_one_out --num_samples=2"


# A setting other than that of a run: the flags of the run, and the flag that changes it.
CHANGES = [
    ("", "--binarization=static"),
    ("--binarization=none --likelihood=gaussian", "--likelihood=discretized_logistic"),
    ("", "--architecture=conv"),
    ("", "--hidden=5"),
    ("", "--hidden=none"),
    ("", "--data_mean"),
    ("--estimator=leave_one_out --num_samples=2", "--posterior=bernoulli"),
    (BITS, "--prior=learned"),
    (BITS, "--posterior=bernoulli:signed=true"),
    (BITS, "--posterior=categorical"),
    (CLASSES, "--posterior=categorical:categories=3"),
    ("", "--activation=tanh"),
    ("--activation=leaky_relu", "--activation=leaky_relu:negative_slope=0.3"),
    ("", "--latent_dim=3"),
    ("--objective=elbo", "--latent_dim=2-2"),
    (SEVERAL, "--layer_hidden=3"),
    (SEVERAL, "--inference=top_down"),
    (SEVERAL, "--inference=ladder"),
    ("", "--posterior=full_covariance"),
    ("", "--posterior=laplace"),
    ("--objective=elbo", "--posterior=student_t"),
    ("", "--objective=elbo"),
    ("--objective=elbo", "--objective=elbo:kl_warmup=2"),
    ("--objective=elbo", "--objective=elbo:beta=2"),
    ("--objective=elbo --num_samples=2", "--objective=iwae"),
    ("--objective=iwae --num_samples=2", "--objective=renyi"),
    ("--objective=renyi --num_samples=2", "--objective=renyi:alpha=0.1"),
    ("--objective=iwae --num_samples=2", "--objective=thermodynamic"),
    ("--objective=thermodynamic --num_samples=2", "--objective=thermodynamic:partitions=2"),
    ("", "--objective=elbo_analytic:beta=2"),
    ("", "--objective=elbo_analytic:kl_warmup=2"),
    ("", "--objective=elbo_analytic:free_bits=0.5"),
    ("--num_samples=2", "--estimator=leave_one_out"),
    ("--posterior=bernoulli --estimator=gumbel_softmax", "--estimator=gumbel_softmax:temperature=2"),
    ("--posterior=bernoulli --estimator=gumbel_rao", "--estimator=gumbel_rao:inner_samples=2"),
    (
        f"{SEVERAL} --posterior=bernoulli --estimator=leave_one_out --num_samples=2",
        "--estimator=leave_one_out:by_layer=true",
    ),
    ("--posterior=binary_concrete --objective=elbo", "--posterior=binary_concrete:temperature=0.4"),
    ("", "--num_samples=2"),
    ("", "--learning_rate=3e-3"),
    ("", "--optimizer=adam:epsilon=1e-4"),
    ("", "--schedule=cosine"),
    ("", "--clip_norm=0.1"),
    ("", "--batch_size=128"),
    ("", "--seed=1"),
    ("", "--validation_size=100"),
]


@pytest.mark.parametrize(("base", "change"), CHANGES)
def test_each_hyperparameter_changes_the_program(base, change):
    """All numbers are constants of this program, and it has no code that does not reach the bound."""
    assert _code_of(f"{base} {change}") != _code_of(base)


def test_a_program_has_one_text_and_numbers_that_do_nothing_are_not_in_it():
    """The controls of the test above. `leave_one_out` learns nothing, so nothing has the rate of control variates."""
    code = _code_of(BITS)
    _code.cache_clear()
    assert _code_of(BITS) == code
    assert _code_of(f"{BITS} --optimizer=adam:cv_learning_rate=10") == code


@pytest.mark.slow
@pytest.mark.parametrize(("base", "change"), CHANGES)
def test_each_hyperparameter_changes_the_result(base, change):
    changed = _bound_of(f"{base} {change}")
    assert np.isfinite(changed)
    assert changed != _bound_of(base)


# tests/vae/test_lowering.py traces a step of every estimator. These stand for the way from the flags to a step.
@pytest.mark.parametrize(
    ("posterior", "objective", "estimator"),
    [
        ("bernoulli", "elbo", "disarm"),
        ("bernoulli", "elbo", "relax"),
        ("bernoulli", "iwae", "vimco"),
        ("categorical:categories=3", "elbo", "arsm"),
        ("categorical:categories=3", "iwae", "exact"),
    ],
)
def test_an_estimator_of_discrete_latents_builds_from_flags(posterior, objective, estimator):
    [run] = parse(f"--posterior={posterior}", f"--objective={objective}", f"--estimator={estimator}", "--num_samples=2")
    assert callable(build.functions(run, build.load_data(run, None)).epoch)


def test_lists_give_their_product():
    runs = parse("--seed=0,1", "--latent_dim=2,4-3", "--learning_rate=1e-3,1e-2")
    assert len(runs) == 8
    assert {run.latent_dim for run in runs} == {(2,), (4, 3)}


def test_an_estimators_own_number_of_samples_takes_the_place_of_the_flag():
    named = ["--estimator=leave_one_out:num_samples=4,relax,leave_one_out:by_layer=true:num_samples=2"]
    runs = parse(*named, "--num_samples=1,3", "--objective=elbo", "--posterior=bernoulli", "--latent_dim=2-2")
    assert [(run.estimator, run.num_samples) for run in runs] == [
        ("leave_one_out", 4),
        ("relax", 1),
        ("relax", 3),
        ("leave_one_out:by_layer=true", 2),
    ]


def test_runs_that_differ_only_in_array_values_share_a_program():
    bounds = "elbo_analytic,elbo_analytic:free_bits=0.1,elbo_analytic:free_bits=0.2:beta=2"
    runs = parse("--seed=0,1", "--learning_rate=1e-3,1e-2", "--latent_dim=2,3", f"--objective={bounds}")
    groups = list(settings.programs(runs))
    assert sorted(map(len, groups)) == [4, 4, 8, 8]
    for group in groups:
        assert len({(run.latent_dim, "free_bits" in run.objective) for run in group}) == 1
        assert len({str(settings.program_settings(run)) for run in group}) == 1
        assert len({tuple(build.arrays(run)) for run in group}) == 1


def test_array_values_are_settings_and_options_without_switches_that_are_zero():
    [run] = parse("--objective=elbo_analytic:kl_warmup=3", "--optimizer=adam:cv_learning_rate=0", "--clip_norm=0")
    assert settings.array_values(run) == {
        "learning_rate": 1e-3,
        "seed": 0,
        "objective.beta": 1.0,
        "objective.kl_warmup": 3.0,
    }
    assert settings.program_settings(run)["objective"] == "elbo_analytic"
    [run] = parse("--objective=renyi:alpha=0.3", "--num_samples=2", "--clip_norm=1")
    assert settings.array_values(run) == {"learning_rate": 1e-3, "clip_norm": 1.0, "seed": 0}
    assert settings.program_settings(run)["objective"] == "renyi:alpha=0.3"


def test_an_objective_with_a_warm_up_gets_the_epoch():
    warm, other = parse("--objective=elbo:kl_warmup=5,iwae", "--num_samples=2")
    assert settings.epoch_argument(warm, 3.0) == {"epoch": 3.0}
    assert settings.epoch_argument(other, 3.0) == {}


def test_one_run_has_one_spelling():
    [run] = parse("--objective=renyi:alpha=0.5", "--num_samples=2")
    assert run.objective == "renyi"
    assert run.digest() == parse("--objective=renyi", "--num_samples=2")[0].digest()


def test_settings_survive_json():
    for run in parse(
        "--latent_dim=2,4-3", "--learning_rate=1e-3", "--hidden=none,3", "--objective=elbo,renyi:alpha=0.1"
    ):
        assert settings.from_json(json.loads(json.dumps(run.json()))) == run


def test_switches_are_flags_like_others():
    assert not parse()[0].data_mean
    assert parse("--data_mean")[0].data_mean
    assert not parse("--nodata_mean")[0].data_mean
    assert [run.data_mean for run in parse("--data_mean=true,false")] == [True, False]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--layer_hidden=3", "choose several as in --latent_dim=8-4"),
        ("--latent_dim=8,8-4 --layer_hidden=3", "choose several as in --latent_dim=8-4"),
        ("--inference=ladder", "^--inference=ladder needs several stochastic layers, as in --latent_dim=8-4"),
        ("--latent_dim=8-4 --inference=ladder --posterior=beta", "^--inference=ladder .* choose --inference=top_down"),
        ("--architecture=conv --hidden=none", "needs 1 or more layers in --hidden, got 0"),
        ("--binarization=none", "--likelihood=bernoulli needs binary pixels"),
        ("--likelihood=discretized_logistic", "choose --binarization=none"),
        ("--likelihood=discretized_logistic --binarization=static", "choose --binarization=none"),
        ("--estimator=leave_one_out", "needs --num_samples of at least 2, got 1"),
        ("--estimator=gumbel_rao:inner_samples=0", "^--estimator=gumbel_rao:inner_samples=0: inner_samples must be"),
        ("--estimator=reparam:by_layer=true", "^--estimator=reparam:by_layer=true: .*because it differentiates"),
        ("--objective=renyi:alpha=1", "^--objective=renyi:alpha=1.0: alpha must be"),
        ("--objective=elbo_analytic:beta=-1", "^--objective=elbo_analytic:beta=-1.0: beta=-1.0 is below 0"),
        ("--ema=1", "^--ema=1.0 is not below 1; choose a decay such as 0.999"),
        ("--optimizer=adam:epsilon=0", "^--optimizer=adam:epsilon=0.0: epsilon must be above 0"),
        (
            "--posterior=categorical:categories=1",
            "^--posterior=categorical:categories=1 needs at least two categories",
        ),
        ("--posterior=vq --prior=flow", "posterior=vq has the uniform prior over codes; choose --prior=standard"),
        ("--posterior=student_t --prior=learned", "^--prior=learned does not go with --posterior=student_t"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(argv, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(*argv.split())


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--estimator=rbar", "there is no estimator 'rbar' .did you mean rebar"),
        ("--estimator=gumbel_softmax:temp=1", "gumbel_softmax has no option 'temp'; its options are temperature=0.5"),
        ("--estimator=stl:temperature=1", "stl has no option 'temperature'; it has no options of its own"),
        ("--estimator=stl:temp=1+reparam", "stl has no option 'temp'; it has no options of its own"),
        ("--likelihood=bernoulli:x=1", "bernoulli has no option 'x'; it has no options$"),
        ("--posterior=bernoulli:categories=3", "bernoulli has no option 'categories'; its options are signed=false"),
        ("--activation=relu:negative_slope=0.3", "relu has no option 'negative_slope'; it has no options"),
        ("--objective=elbo_analytic:epoch=3", "elbo_analytic has no option 'epoch'; its options are beta=1.0"),
        ("--estimator=exact:num_samples=0+reparam", "num_samples=0 is below 1"),
        ("--objective=elbo,", "--objective=elbo,: an element is empty"),
        ("--seed=0,0,1", "0 is given twice; give it once"),
        ("--learning_rate=1e-3,0.001", "0.001 is given twice; give it once"),
        ("--estimator=reparam,stl,stl:by_layer=false", "stl is given twice; give it once"),
        ("--learning_rate=1e-3,1e-50", "1e-50 does not fit into 32 bits"),  # float32 would train at a rate of 0
        ("--clip_norm=1e39", "1e39 does not fit into 32 bits"),
        ("--estimator=gumbel_rao:inner_samples=99999999999", "inner_samples=99999999999 does not fit into 32 bits"),
    ],
)
def test_a_flag_refuses_a_choice_that_does_not_exist(argv, sentence):
    with pytest.raises(flags.IllegalFlagValueError, match=sentence):
        parse(argv)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--estimator=disarm --num_samples=2", "^--estimator=disarm does not suit --posterior=normal .*can: reparam"),
        ("--estimator=stl", "stl needs log q.z. in the integrand, as with objective=elbo .in Python"),
        (
            "--estimator=stl --objective=siwae --posterior=mixture_of_normals --num_samples=2",
            "stl cannot estimate gradients of multi-sample bounds, such as iwae, only of .* such as elbo; [^;]*$",
        ),
        (
            "--objective=elbo --estimator=leave_one_out:by_layer=true --num_samples=2",
            "by_layer=true needs several stochastic layers",
        ),
        (
            "--objective=elbo --posterior=bernoulli --latent_dim=3-2 --estimator=disarm --num_samples=2",
            "Markov latents, except with its option by_layer=true; these estimators can: ",
        ),
    ],
)
def test_an_estimator_that_does_not_suit_the_bound_is_refused(argv, sentence):
    [run] = parse(*argv.split())
    with pytest.raises(ValueError, match=sentence):
        build.functions(run, build.load_data(run, None))


def test_the_digest_names_the_run():
    digests = [run.digest() for run in parse("--seed=0,1", "--learning_rate=1e-3,1e-2")]
    assert len(set(digests)) == 4
    assert digests[0] == parse()[0].digest()


def test_runs_of_one_program_are_the_runs_alone():
    runs = parse(
        "--learning_rate=1e-3,1e-2", "--objective=elbo_analytic:beta=0.5", "--schedule=cosine", "--clip_norm=1"
    )
    data = build.load_data(runs[0], None)
    program = build.functions(runs[0], data)
    inits, epochs = train.over_runs(program.init, "map"), train.over_runs(program.epoch, "map", shared=1)
    values = jax.tree.map(lambda *leaves: np.stack(leaves), *map(build.arrays, runs))
    together, _ = jax.jit(lambda values, images: epochs(inits(values), values, images))(values, data.train)
    alone_from = lambda values, images: program.epoch(program.init(values), values, images)
    alone, _ = jax.jit(alone_from)(build.arrays(runs[1]), data.train)
    for ours, theirs in zip(*map(jax.tree.leaves, jax.device_get((together, alone))), strict=True):
        np.testing.assert_allclose(ours[1], theirs, rtol=2e-5, atol=1e-6)


def test_every_flag_explains_itself():
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    for name in settings.FIELDS:
        assert values[name].help[0].isupper()
        assert values[name].help.splitlines()[0].rstrip().endswith(".") or "." in values[name].help
        assert values[name].default is not None


@pytest.mark.usefixtures("restored_tables")
def test_a_data_set_of_the_table_takes_options_and_other_names_stay_as_they_are():
    images = lambda data_dir, height=4, colour="grey": data.Splits(train=np.zeros((20, height, 4, 1), np.uint8))
    data.add("mine", images)
    runs = parse("--dataset=mine:height=6,mine:colour=grey:height=4,npz:a:b.npz,mnist:3.0.1", "--batch_size=2")
    assert [run.dataset for run in runs] == ["mine:height=6", "mine", "npz:a:b.npz", "mnist:3.0.1"]
    loaded = build.load_data(runs[0], None)
    assert (loaded.name, loaded.train.shape) == ("mine:height=6", (18, 6, 4, 1))
    with pytest.raises(flags.Error, match="mine has no option 'width'; its options are height=4, colour=grey"):
        parse("--dataset=mine:width=3")


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
        positive = st.floats(1e-37, 1e30)  # what float32 can hold
        return positive if above is not None else st.just(0.0) | positive
    if field.metadata["table"] is not None and field.name != "dataset":
        return st.sampled_from(list(field.metadata["table"]))
    if field.metadata["choices"]:
        return st.sampled_from(field.metadata["choices"])
    return st.text("abz:/._- é", min_size=1).map(str.strip).filter(len)


ANY_SETTINGS = st.builds(settings.Settings, **{name: _values(field) for name, field in settings.FIELDS.items()})


@examples(max_examples=40, deadline=None)
@given(ANY_SETTINGS)
def test_any_settings_come_back_from_flags_and_from_json(run):
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    values(["program", *(f"--{name}={settings.text(getattr(run, name))}" for name in settings.FIELDS)])
    assert {name: values[name].value for name in settings.FIELDS} == {n: (getattr(run, n),) for n in settings.FIELDS}
    assert settings.from_json(json.loads(json.dumps(run.json()))) == run


@examples(max_examples=60, deadline=None)
@given(st.sampled_from(list(settings.FIELDS)), st.text(max_size=20))
def test_any_text_is_a_value_or_refused(name, text):
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    with contextlib.suppress(flags.Error, ValueError):  # what cli.run makes one sentence of
        values(["program", f"--{name}={text}"])
        assert setting_flags.from_flags(values)
