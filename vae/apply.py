"""The form of a model: a function `apply(variables, *args, method=name)`, such as the `apply` of a Flax linen module.

    encode(x) -> q                   q(z|x), a distribution of batch_shape [B]
    log_likelihood(x, z) -> [K, B]   log p(x|z) of samples z [K, B, D]
    prior_distribution() -> p        p(z), with log_prob(z) -> [K, B]
    kl_to_prior(q) -> [B]            the KL in closed form; `vae.elbo_analytic` calls it, and not prior_distribution.
                                     With `free_bits` it calls kl_to_prior(q, per_dimension=True) -> [B, D]
    decode(z) -> p                   p(x|z), a distribution over flat images; `vae.ais.simulate` calls it

`vae.models.VAE` has all of them. `vae/README.md` has the function for models of other libraries.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree


def posterior(apply: Callable, params: PyTree, x: PyTree) -> Any:
    """q(z|x) of a batch x.

    Raises:
      TypeError: the error of `check_apply`; or if the model's `encode` returns an array.
    """
    check_apply(apply)
    q = apply(params, x, method="encode")
    if isinstance(q, jax.Array):
        raise TypeError("encode must return a distribution, such as vae.distributions.Bernoulli(logits), got an array")
    return q


def check_apply(apply: Any) -> None:
    """Raises a TypeError unless `apply` takes the name of a method as the argument `method`."""
    try:
        arguments = inspect.signature(apply).parameters if callable(apply) else {}
    except ValueError:  # a built-in function without a signature
        arguments = {}
    if "method" not in arguments and not any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        name = getattr(apply, "__name__", type(apply).__name__)
        raise TypeError(
            "a model must be the apply of a Flax linen module, or a function apply(variables, *args, method=name), as"
            f" vae/README.md has it for Flax NNX, Equinox and Haiku; got {name}"
        )
