"""The mean gradient of every loss, by sums over all sequences and all pairs of sequences in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from experiments.policy_gradients import losses, measure, policy
from experiments.policy_gradients.measure import name_gradient, to_vector
from tests.helpers import pages
from vae import diagnostics

SETTING = policy.make_setting()
TABLE = losses.make_table()
PAIRS = np.indices((64, 64)).reshape(2, -1).T
# The gradient that each loss has in a group of two; no entry here for losses that have no known gradient.
EXPECTED = {
    "k1_sequence": "0",
    "k1_token": "0",
    "k2_sequence": "KL(pi, ref)",
    "k2_token": "KL(pi, ref) by token",
    "k3_sequence": "KL(ref, pi)",
    "k3_token": "KL(ref, pi) by token",
    "rho_k3_sequence": "KL(pi, ref)",
    "rho_k3_token": "KL(pi, ref) by token",
    "rho_k3_prefix": "KL(pi, ref)",
    "k1_reward_sequence": "KL(pi, ref)",
    "k1_reward_token": "KL(pi, ref)",
    "k3_reward_sequence": "KL(pi, ref) - KL(ref, pi)",
    "old_rho_k3_sequence": "KL(pi, ref)",
    "old_rho_k3_token": "KL(pi, ref) by token, older prefixes",
    "old_rho_k3_prefix": "KL(pi, ref)",
    "reinforce": "E[R]",
    "rloo": "E[R]",
    "group_mean": "0.5 x E[R]",
    "old_rloo_ratio_sequence": "E[R]",
    "rloo_k1_reward": "E[R] - beta KL(pi, ref)",
    "rloo_k2_sequence": "E[R] - beta KL(pi, ref)",
    "rloo_k2_token": "E[R] - beta KL(pi, ref) by token",
    "rloo_k3_sequence": "E[R] - beta KL(ref, pi)",
    "rloo_k3_token": "E[R] - beta KL(ref, pi) by token",
    "old_rloo_rho_k3_prefix": "E[R] - beta KL(pi, ref)",
}


def sums_over_all(entries: dict[str, losses.Entry]) -> dict:
    """The mean gradient of each loss: a sum over the 64 sequences, or over the 4096 pairs for losses in groups."""
    kinds = {}
    for name, entry in entries.items():
        kinds.setdefault((entry.off_policy, entry.in_groups), []).append(name)

    @jax.jit
    def sums(params):
        means = {}
        for (off_policy, in_groups), names in kinds.items():
            gradients = _sum_gradients([entries[name].loss for name in names], params, off_policy, in_groups)
            means |= {name: jax.tree.map(lambda leaf, i=i: leaf[i], gradients) for i, name in enumerate(names)}
        return means

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, sums(SETTING.policy))


def _sum_gradients(functions: list[losses.Loss], params, off_policy: bool, in_groups: bool):
    """The mean gradients of losses of the same groups, whose arrays are differentiated in the parameters once."""
    index = PAIRS if in_groups else np.arange(64)[:, None]
    log_probs = jnp.sum(policy.token_log_probs(SETTING.older if off_policy else SETTING.policy), axis=-1)
    weight = jnp.exp(jnp.sum(log_probs[index], axis=-1))
    look_up = lambda params: jax.vmap(lambda i: measure.look_up(SETTING, params, i, off_policy))(index)
    groups, pull_back = jax.vjp(look_up, params)
    by_loss = [jax.grad(lambda groups, loss=loss: weight @ jax.vmap(loss)(groups))(groups) for loss in functions]
    return jax.vmap(pull_back)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_loss))[0]


@pytest.fixture(scope="module")
def known():
    return policy.known_gradients(SETTING)


@pytest.fixture(scope="module")
def means():
    return sums_over_all(TABLE)


# --- The formulas


def test_the_gradient_of_every_sequence_is_the_score_times_the_published_factor():
    by_sequence = losses.kl_by_sequence
    formulas = {
        "score": (lambda group: jnp.sum(group.log_pi), lambda log_r: np.ones(64)),
        "k1": (lambda group: by_sequence(losses.k1, group), lambda log_r: np.ones(64)),
        "k2": (lambda group: by_sequence(losses.k2, group), lambda log_r: -log_r),
        "k3": (lambda group: by_sequence(losses.k3, group), lambda log_r: 1 - np.exp(log_r)),
        "rho k3": (lambda group: losses.weighted_by_sequence(losses.k3, group), lambda log_r: -log_r),
        "k1 in the reward": (lambda group: losses.in_reward_by_sequence(losses.k1, group), lambda log_r: -log_r),
    }

    def values(params):
        groups = jax.vmap(lambda i: measure.look_up(SETTING, params, i[None], off_policy=False))(np.arange(64))
        return {name: jax.vmap(loss)(groups) for name, (loss, _) in formulas.items()}

    with jax.enable_x64(True):
        gradients = jax.jit(jax.jacrev(values))(jax.tree.map(jnp.asarray, SETTING.policy))
        rows = {
            name: np.concatenate([np.reshape(leaf, (64, -1)) for leaf in jax.tree.leaves(gradient)], axis=1)
            for name, gradient in gradients.items()
        }
        token_log_probs = jax.jit(policy.token_log_probs)
        log_pi, log_ref = (
            np.sum(np.asarray(token_log_probs(params)), axis=-1) for params in (SETTING.policy, SETTING.reference)
        )
    for name, (_, factor) in formulas.items():
        expected = factor(log_ref - log_pi)[:, None] * rows["score"]
        np.testing.assert_allclose(rows[name], expected, rtol=0, atol=1e-12, err_msg=name)


# --- The means


@pytest.mark.parametrize("name", EXPECTED)
def test_the_mean_of_a_loss_is_the_stated_gradient(name, means, known):
    factor, _, target = EXPECTED[name].rpartition(" x ")
    expected = np.zeros(84) if target == "0" else float(factor or 1) * to_vector(known[target])
    np.testing.assert_allclose(to_vector(means[name]), expected, rtol=0, atol=1e-12)
    assert name_gradient(means[name], known) == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(set(TABLE) - set(EXPECTED)))
def test_every_other_loss_has_none_of_the_known_gradients(name, means, known):
    assert name_gradient(means[name], known) == measure.NONE
    assert np.linalg.norm(to_vector(means[name]) - to_vector(known[TABLE[name].claims])) > 1e-3


def test_losses_with_a_planted_slip_are_caught(known):
    def slip(name, **changes):
        return TABLE[name]._replace(**changes)

    inverse = lambda group: losses.weighted_by_sequence(lambda log_ratio: losses.k3(-log_ratio), group)
    held_weight = lambda group: losses.weighted_by_sequence(
        losses.k3, group._replace(log_old=stop_gradient(group.log_old) + group.log_pi - stop_gradient(group.log_pi))
    )
    from_the_start = lambda group: jnp.sum(
        stop_gradient(jnp.cumsum(losses.k1(group.log_ref - group.log_pi), axis=-1)) * group.log_pi
    )
    upside_down = lambda group: losses.ratio_by_sequence(
        losses.minus_others, None, group._replace(log_old=2 * stop_gradient(group.log_pi) - group.log_old)
    )
    own_reward = lambda group: losses.score(lambda reward: reward - jnp.sum(reward) / len(reward), group)
    slips = {
        "pi / ref in place of ref / pi": slip("rho_k3_sequence", loss=inverse),
        "a weight rho without its gradient": slip("rho_k3_sequence", loss=held_weight),
        "rewards up to the token": slip("k1_reward_token", loss=from_the_start),
        "old / pi in place of pi / old": slip("old_rloo_ratio_sequence", loss=upside_down),
        "the baseline contains the own reward": slip("rloo", loss=own_reward),
        "no weight for an older policy": slip("rloo", off_policy=True),
    }
    for slipped, mean in sums_over_all(slips).items():
        assert name_gradient(mean, known) != slips[slipped].claims, slipped


def test_without_lag_the_older_policys_losses_are_those_of_the_policy(means):
    current = SETTING._replace(older=SETTING.policy)
    mean = measure.exact_mean(current, TABLE["old_rho_k3_token"], 1)
    np.testing.assert_allclose(to_vector(mean), to_vector(means["rho_k3_token"]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["k3_token", "old_rho_k3_sequence", "old_grpo"])
def test_the_command_computes_the_same_means_from_groups_without_order(name, means):
    entry = TABLE[name]
    mean = measure.exact_mean(SETTING, entry, 2 if entry.in_groups else 1)
    np.testing.assert_allclose(to_vector(mean), to_vector(means[name]), rtol=0, atol=1e-12)


def test_a_group_is_counted_once_for_each_order():
    index = np.array([[0, 1, 2], [0, 0, 2], [0, 2, 2], [5, 5, 5]])
    np.testing.assert_array_equal(measure._orders(index), [6, 3, 3, 1])


def test_too_many_groups_have_no_exact_mean():
    assert measure.exact_mean(SETTING, TABLE["rloo"], 8) is None


# --- The rows


def test_losses_are_compared_by_variance_times_sequences_and_the_best_is_unbiased():
    noise = 1 + 0.1 * np.random.default_rng(0).normal(size=measure.CHUNKS)
    variances, sequences, biased = [1.0, 0.6, 0.1], [1, 2, 2], [False, False, True]
    rows = [
        {"sequences": number, "variance": variance, "biased": is_biased}
        for number, variance, is_biased in zip(sequences, variances, biased, strict=True)
    ]
    known = {"norm": 1.0, "mean_norm": 1.0}
    measurements = [measure.Measurement({"variance": v} | known, v * noise / noise.mean()) for v in variances]
    measure._compare(rows, measurements, diagnostics.resampling(measure.CHUNKS), 0.95)
    assert [row["verdict"] for row in rows] == ["best", "worse", "BIASED, lower variance x cost"]
    np.testing.assert_allclose([row["to_best"] for row in rows], [1.0, 1.2, 0.2])
    assert rows[1]["to_best_low"] <= rows[1]["to_best"] <= rows[1]["to_best_high"]
    assert np.isnan([rows[0]["to_best_low"], rows[0]["to_best_high"]]).all()


def test_a_row_says_who_drew_the_sequences_and_is_measured_against_its_own_claim(known):
    names = ("old_rloo_ratio_sequence", "k2_sequence", "rloo")
    rows = measure.make_rows(SETTING, {name: TABLE[name] for name in names}, known, group=2, draws=4000, seed=0)
    drawn = {row["estimator"]: (row["drawn_by"], row["sequences"]) for row in rows}
    assert drawn == dict(zip(names, [("older", 2), ("policy", 1), ("policy", 2)], strict=True))
    for row in rows:
        assert (row["verdict"], row["biased"]) == ("best", False)  # each is alone with its claim and policy
        assert row["variance_low"] < row["variance"] < row["variance_high"]
        assert row["exact_error"] < 1e-12


# --- The policy


def test_the_known_divergences_are_sums_over_the_sequences(known):
    with jax.enable_x64(True):
        total = jax.jit(lambda params: jnp.sum(policy.token_log_probs(params), axis=-1))
        kl = lambda a, b: jnp.sum(jnp.exp(a) * (a - b))
        reference = np.asarray(total(SETTING.reference))
        gradients = {
            "KL(pi, ref)": jax.jit(jax.grad(lambda params: kl(total(params), reference)))(SETTING.policy),
            "KL(ref, pi)": jax.jit(jax.grad(lambda params: kl(reference, total(params))))(SETTING.policy),
        }
        assert np.sum(np.exp(reference)) == pytest.approx(1, abs=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(to_vector(known[name]), to_vector(gradient), rtol=0, atol=1e-12)


# --- The page


def test_the_page_states_the_gradient_and_the_error_of_every_loss(means, known):
    page = (pages.ROOT / "experiments/policy_gradients/README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` +\| (.+?) +\| (.+?) +\| .*\|$", page, re.MULTILINE)
    stated = {name: (gradient, error) for name, gradient, error in rows}
    assert set(stated) == set(TABLE)
    for name, (gradient, error) in stated.items():
        of_two = name_gradient(means[name], known).replace("0.5 x", "0.75 x")  # the page has groups of four
        assert gradient == of_two, name
        if not TABLE[name].in_groups:
            exact = 100 * measure._exact_bias(means[name], known[TABLE[name].claims])["exact_error"]
            assert float(error) == pytest.approx(exact, rel=0.005, abs=1e-6), name


def test_the_loss_of_your_own_on_the_page_has_the_gradient_that_it_claims(known):
    [block] = pages.blocks((pages.ROOT / "experiments/policy_gradients/README.md").read_text())
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    [mean] = sums_over_all({"mine": namespace["entry"]()}).values()
    assert name_gradient(mean, known) == "KL(pi, ref)"
