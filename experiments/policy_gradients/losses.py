"""The losses that train language models, written as in practice.

A loss is a function of a group of K sequences. Its gradient in the parameters of the policy is the estimate. Those that
estimate the gradient of a reward are written as objectives; a trainer minimises minus the objective.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

# GRPO adds this number to the standard deviation of the rewards (as in TRL).
EPSILON = 1e-4


class Group(NamedTuple):
    """K sequences of T tokens.

    Attributes:
      log_pi: log-probability of each token under the policy, `[K, T]`. Only this array has a gradient.
      log_old: the same under the policy that drew the sequences, `[K, T]`; on-policy it is stop_gradient(log_pi).
      log_ref: the same under the reference policy, `[K, T]`.
      reward: reward of each sequence, `[K]`.
    """

    log_pi: Array
    log_old: Array
    log_ref: Array
    reward: Array


Loss = Callable[[Group], Array]


class Entry(NamedTuple):
    """A loss and what is claimed about it.

    Attributes:
      loss: the function of a group.
      claims: the name of the gradient that the loss is used for, a key of `policy.known_gradients`.
      in_groups: whether the loss needs several sequences; otherwise K = 1.
      off_policy: whether the older policy draws the sequences.
      clipped: whether the loss clips an importance ratio, and so depends on --clip.
      source: where the loss comes from.
    """

    loss: Loss
    claims: str
    in_groups: bool = False
    off_policy: bool = False
    clipped: bool = False
    source: str = ""


# --- KL(pi, ref) from log ratio = log ref - log pi, of a token or of a sequence (Schulman 2020)


def k1(log_ratio: Array) -> Array:
    return -log_ratio


def k2(log_ratio: Array) -> Array:
    return 0.5 * jnp.square(log_ratio)


def k3(log_ratio: Array) -> Array:
    return jnp.exp(log_ratio) - 1 - log_ratio


def kl_by_sequence(k: Callable, group: Group) -> Array:
    """k of the ratio of whole sequences."""
    return jnp.mean(k(jnp.sum(group.log_ref - group.log_pi, axis=-1)))


def kl_by_token(k: Callable, group: Group) -> Array:
    """The sum over tokens of k of each token's ratio."""
    return jnp.mean(jnp.sum(k(group.log_ref - group.log_pi), axis=-1))


def weighted_by_sequence(k: Callable, group: Group) -> Array:
    """The same as `kl_by_sequence`, with the weight rho = pi / old of the sequence; on-policy rho = pi / sg(pi) = 1."""
    rho = jnp.exp(jnp.sum(group.log_pi - group.log_old, axis=-1))
    return jnp.mean(rho * k(jnp.sum(group.log_ref - group.log_pi, axis=-1)))


def weighted_by_token(k: Callable, group: Group) -> Array:
    """The same as `kl_by_token`; each token has the weight rho of this token alone."""
    rho = jnp.exp(group.log_pi - group.log_old)
    return jnp.mean(jnp.sum(rho * k(group.log_ref - group.log_pi), axis=-1))


def weighted_by_prefix(k: Callable, group: Group) -> Array:
    """The same as `kl_by_token`; each token has the weight rho of the sequence up to and including this token."""
    rho = jnp.exp(jnp.cumsum(group.log_pi - group.log_old, axis=-1))
    return jnp.mean(jnp.sum(rho * k(group.log_ref - group.log_pi), axis=-1))


def in_reward_by_sequence(k: Callable, group: Group) -> Array:
    """k without its gradient, as the reward of REINFORCE."""
    penalty = k(jnp.sum(group.log_ref - group.log_pi, axis=-1))
    return jnp.mean(stop_gradient(penalty) * jnp.sum(group.log_pi, axis=-1))


def in_reward_by_token(k: Callable, group: Group) -> Array:
    """k of each token as its reward; the score of a token meets the rewards from this token on."""
    penalty = k(group.log_ref - group.log_pi)
    to_go = jnp.cumsum(penalty[..., ::-1], axis=-1)[..., ::-1]
    return jnp.mean(jnp.sum(stop_gradient(to_go) * group.log_pi, axis=-1))


# --- Advantages of the sequences of a group, [K] to [K]


def no_baseline(reward: Array) -> Array:
    return reward


def minus_others(reward: Array) -> Array:
    """The reward minus the mean of the other rewards."""
    others = (jnp.sum(reward) - reward) / (len(reward) - 1)
    return reward - others


def minus_mean(reward: Array) -> Array:
    return reward - jnp.mean(reward)


def standardized(reward: Array) -> Array:
    """The reward minus the mean, over the standard deviation of the group."""
    return minus_mean(reward) / (jnp.std(reward, ddof=1) + EPSILON)


# --- Objectives made of advantages


def score(advantage: Callable, group: Group) -> Array:
    """REINFORCE: advantage times log pi."""
    return jnp.mean(stop_gradient(advantage(group.reward)) * jnp.sum(group.log_pi, axis=-1))


def ratio_by_sequence(advantage: Callable, clip: float | None, group: Group) -> Array:
    """Advantage times the importance ratio of the sequence, clipped to 1 - clip and 1 + clip."""
    rho = jnp.exp(jnp.sum(group.log_pi - group.log_old, axis=-1))
    return jnp.mean(_clipped(rho, advantage(group.reward), clip))


def ratio_by_token(advantage: Callable, clip: float | None, group: Group) -> Array:
    """The sum over tokens of advantage times the importance ratio of the token, as PPO and GRPO have it."""
    rho = jnp.exp(group.log_pi - group.log_old)
    return jnp.mean(jnp.sum(_clipped(rho, advantage(group.reward)[:, None], clip), axis=-1))


def _clipped(rho: Array, advantage: Array, clip: float | None) -> Array:
    if clip is None:
        return rho * advantage
    return jnp.minimum(rho * advantage, jnp.clip(rho, 1 - clip, 1 + clip) * advantage)


def rloo_with_k1_in_reward(beta: float, group: Group) -> Array:
    """Leave-one-out, where the reward of a sequence is R - beta log pi/ref."""
    penalty = beta * jnp.sum(group.log_pi - group.log_ref, axis=-1)
    return score(minus_others, group._replace(reward=group.reward - stop_gradient(penalty)))


def minus_penalty(objective: Loss, penalty: Loss, beta: float, group: Group) -> Array:
    """The objective minus beta times a loss of the divergence."""
    return objective(group) - beta * penalty(group)


# --- The table

SCHULMAN = "Schulman (2020), Approximating KL divergence"
GRPO = "Shao et al. (2024), arXiv:2402.03300"
DR_GRPO = "Liu et al. (2025), arXiv:2503.20783"
RLOO = "Ahmadian et al. (2024), arXiv:2402.14740"
PPO = "Schulman et al. (2017), arXiv:1707.06347"
PITFALLS = "Tang & Munos (2025), arXiv:2506.09477"
COMEDY = "Shah et al. (2025), arXiv:2512.21852"
DEEPSEEK = "DeepSeek-AI (2025), arXiv:2512.02556"


def make_table(beta: float = 0.2, clip: float = 0.2) -> dict[str, Entry]:
    """All losses by name. `beta` is the weight of the penalty, and `clip` the half-width of the clipped interval."""
    on = functools.partial
    divergence = functools.partial(Entry, claims="KL(pi, ref)")
    reward = functools.partial(Entry, claims="E[R]", in_groups=True)
    clipped = functools.partial(reward, off_policy=True, clipped=True)
    both = functools.partial(Entry, claims="E[R] - beta KL(pi, ref)", in_groups=True)
    rloo = on(score, minus_others)
    grpo = on(score, standardized)
    old_grpo = on(ratio_by_token, standardized, clip)
    old_unbiased = on(ratio_by_sequence, minus_others, None)
    return {
        # The divergence as a loss
        "k1_sequence": divergence(on(kl_by_sequence, k1), source=SCHULMAN),
        "k1_token": divergence(on(kl_by_token, k1), source=SCHULMAN),
        "k2_sequence": divergence(on(kl_by_sequence, k2), source=SCHULMAN),
        "k2_token": divergence(on(kl_by_token, k2), source=SCHULMAN),
        "k3_sequence": divergence(on(kl_by_sequence, k3), source=SCHULMAN),
        "k3_token": divergence(on(kl_by_token, k3), source=GRPO),
        "rho_k3_sequence": divergence(on(weighted_by_sequence, k3), source=PITFALLS),
        "rho_k3_token": divergence(on(weighted_by_token, k3), source=PITFALLS),
        "rho_k3_prefix": divergence(on(weighted_by_prefix, k3), source=PITFALLS),
        # The divergence in the reward
        "k1_reward_sequence": divergence(on(in_reward_by_sequence, k1), source=COMEDY),
        "k1_reward_token": divergence(on(in_reward_by_token, k1), source=COMEDY),
        "k3_reward_sequence": divergence(on(in_reward_by_sequence, k3), source=COMEDY),
        # The divergence as a loss of the older policy's sequences
        "old_k3_token": divergence(on(kl_by_token, k3), off_policy=True, source=GRPO),
        "old_rho_k3_sequence": divergence(on(weighted_by_sequence, k3), off_policy=True),
        "old_rho_k3_token": divergence(on(weighted_by_token, k3), off_policy=True, source=DEEPSEEK),
        "old_rho_k3_prefix": divergence(on(weighted_by_prefix, k3), off_policy=True),
        # The reward
        "reinforce": reward(on(score, no_baseline), in_groups=False, source="Williams (1992)"),
        "rloo": reward(rloo, source=RLOO),
        "group_mean": reward(on(score, minus_mean), source=DR_GRPO),
        "group_std": reward(grpo, source=GRPO),
        # The reward from the older policy's sequences
        "old_rloo": reward(rloo, off_policy=True, source=RLOO),
        "old_rloo_ratio_sequence": reward(old_unbiased, off_policy=True),
        "old_rloo_ratio_token": reward(on(ratio_by_token, minus_others, None), off_policy=True, source=PPO),
        "old_rloo_clip_sequence": clipped(on(ratio_by_sequence, minus_others, clip)),
        "old_rloo_clip_token": clipped(on(ratio_by_token, minus_others, clip), source=PPO),
        "old_group_std_clip_token": clipped(old_grpo, source=GRPO),
        # The reward with a penalty
        "rloo_k1_reward": both(on(rloo_with_k1_in_reward, beta), source=RLOO),
        "rloo_k2_sequence": both(on(minus_penalty, rloo, on(kl_by_sequence, k2), beta)),
        "rloo_k2_token": both(on(minus_penalty, rloo, on(kl_by_token, k2), beta)),
        "rloo_k3_sequence": both(on(minus_penalty, rloo, on(kl_by_sequence, k3), beta)),
        "rloo_k3_token": both(on(minus_penalty, rloo, on(kl_by_token, k3), beta)),
        "grpo": both(on(minus_penalty, grpo, on(kl_by_token, k3), beta), source=GRPO),
        # The reward with a penalty from the older policy's sequences
        "old_rloo_rho_k3_prefix": both(
            on(minus_penalty, old_unbiased, on(weighted_by_prefix, k3), beta), off_policy=True
        ),
        "old_grpo": both(
            on(minus_penalty, old_grpo, on(kl_by_token, k3), beta), off_policy=True, clipped=True, source=GRPO
        ),
    }
