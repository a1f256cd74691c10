"""A policy that is small enough to enumerate: it writes three tokens of four symbols, which makes 64 sequences.

The logits of a token are a table over the tokens before it. Every expectation is a sum over the 64 sequences, so the
gradients that the losses claim to estimate are known exactly.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from vae.devices.cpu import on_cpu

PyTree = Any

SYMBOLS = 4
LENGTH = 3
SEQUENCES = np.indices((SYMBOLS,) * LENGTH).reshape(LENGTH, -1).T  # [64, 3]
# The reward of a sequence is the share of its tokens that equal those of this sequence.
WANTED = np.array([1, 2, 3])


class Setting(NamedTuple):
    """Three policies and a reward.

    Attributes:
      policy: the parameters of the policy pi, {"policy": {"token_1": [4], "token_2": [4, 4], "token_3": [4, 4, 4]}}.
      reference: the parameters of the reference policy ref.
      older: the parameters of the older policy, which draws the sequences of the off-policy estimators.
      reward: the reward of each sequence, `[64]`.
      beta: the weight of the penalty in E[R] - beta KL(pi, ref).
    """

    policy: PyTree
    reference: PyTree
    older: PyTree
    reward: np.ndarray
    beta: float


def make_setting(seed: int = 0, distance: float = 0.5, lag: float = 0.15, beta: float = 0.2) -> Setting:
    """Random policies.

    Args:
      seed: the seed of the logits.
      distance: the standard deviation of the difference between the logits of the reference and of the policy.
      lag: the same for the older policy.
      beta: the weight of the penalty.
    """
    rng = np.random.default_rng(seed)
    policy = _random_logits(rng)
    moved = lambda size: jax.tree.map(lambda leaf, noise: leaf + size * noise, policy, _random_logits(rng))
    reward = np.mean(SEQUENCES == WANTED, axis=-1)
    return Setting(policy, moved(distance), moved(lag), reward, beta)


def _random_logits(rng: np.random.Generator) -> PyTree:
    return {"policy": {f"token_{t}": rng.normal(size=(SYMBOLS,) * t) for t in range(1, LENGTH + 1)}}


def conditionals(params: PyTree) -> list[jax.Array]:
    """The log-probabilities of token t given the tokens before it, `[4] * t`, for t = 1, 2, 3."""
    return [jax.nn.log_softmax(params["policy"][f"token_{t}"]) for t in range(1, LENGTH + 1)]


def token_log_probs(params: PyTree) -> jax.Array:
    """The log-probability of each token of each sequence, `[64, 3]`."""
    columns = [table[tuple(SEQUENCES[:, : t + 1].T)] for t, table in enumerate(conditionals(params))]
    return jnp.stack(columns, axis=-1)


# --- The gradients that a loss may claim to estimate


def known_gradients(setting: Setting) -> dict[str, PyTree]:
    """The exact gradients in float64, by name. KL(p, q) is E_p log p/q over sequences.

    "by token" is the sum over t of the divergence of the two distributions of token t, averaged over prefixes of pi
    (or of the older policy). The prefixes are held: their distribution is not differentiated.
    """
    beta = setting.beta
    kl = {
        "KL(pi, ref)": lambda pi, ref, older: _sum_of_kl(pi, ref, prefixes=pi),
        "KL(ref, pi)": lambda pi, ref, older: _sum_of_kl(ref, pi, prefixes=ref),
        "KL(pi, ref) by token": lambda pi, ref, older: _sum_of_kl(pi, ref, prefixes=stop_gradient(pi)),
        "KL(ref, pi) by token": lambda pi, ref, older: _sum_of_kl(ref, pi, prefixes=stop_gradient(pi)),
        "KL(pi, ref) by token, older prefixes": lambda pi, ref, older: _sum_of_kl(pi, ref, prefixes=older),
    }

    def values(params):
        reward = jnp.exp(jnp.sum(token_log_probs(params), axis=-1)) @ setting.reward
        policies = [conditionals(each) for each in (params, setting.reference, setting.older)]
        return {"E[R]": reward} | {name: divergence(*policies) for name, divergence in kl.items()}

    with on_cpu(), jax.enable_x64(True):
        gradients = jax.device_get(jax.jit(jax.jacrev(values))(setting.policy))
    plus = lambda first, factor, second: jax.tree.map(lambda a, b: a + factor * b, gradients[first], gradients[second])
    for name in [name for name in kl if "older" not in name]:
        gradients[penalized(name)] = plus("E[R]", -beta, name)
    gradients["KL(pi, ref) - KL(ref, pi)"] = plus("KL(pi, ref)", -1, "KL(ref, pi)")
    return dict(sorted(gradients.items()))


def penalized(name: str) -> str:
    """The name of the expected reward with a penalty."""
    return f"E[R] - beta {name}"


def _sum_of_kl(p: list[jax.Array], q: list[jax.Array], prefixes: list[jax.Array]) -> jax.Array:
    """The sum over t of KL(p_t, q_t), averaged over prefixes. With the prefixes of p, it is the KL of sequences."""
    total = 0.0
    log_weight = jnp.zeros(())  # of each prefix, [4] * (t - 1)
    for p_t, q_t, prefix_t in zip(p, q, prefixes, strict=True):
        total += jnp.sum(jnp.exp(log_weight) * jnp.sum(jnp.exp(p_t) * (p_t - q_t), axis=-1))
        log_weight = log_weight[..., None] + prefix_t
    return total
