"""A problem that the user wrote, given as --problem=module:function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import problems
from experiments.common.problems import Problem
from vae import diagnostics
from vae.estimators import Estimate, Reduction, mean
from vae.estimators.contract import Distribution


class Unsuitable(ValueError):
    """The gradients of the user's problem cannot be estimated."""


def is_users(text: str) -> bool:
    """Whether the text names a function of the user, module:function, and not a known problem with options."""
    name, colon, rest = text.partition(":")
    return bool(colon) and name not in problems.BY_NAME and "=" not in rest


def check(problem: Any, text: str) -> Problem:
    """Returns the problem unchanged, if its gradients can be estimated.

    An error that the user's own functions raise is passed on.

    Raises:
      Unsuitable: if the user's function returned something else, if a parameter is not a float array, or if a
        posterior or an integrand of the problem returns something of the wrong kind or shape, or if an integrand is not
        pure.
    """
    if not isinstance(problem, Problem):
        raise Unsuitable(
            f"--problem={text} returned a {type(problem).__name__}; return an experiments.common.problems.Problem"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(problem.params):
        if not isinstance(leaf, jax.Array | np.ndarray) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path)
            kind = f"{leaf.dtype} array" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise Unsuitable(
                f"--problem={text}: params{name} is a {kind}; gradients need a float array, such as"
                " jnp.array([0.0, 1.0])"
            )
    for bound in problem.bounds.values():
        for num_samples in (3, 5):  # two numbers, so that neither is mistaken for the size of a batch
            expect = functools.partial(_check_expectation, text, num_samples)
            jax.eval_shape(lambda bound=bound, expect=expect: bound(problem.params, problem.data, expect).value)
        expect = functools.partial(_check_expectation, text, 3)
        first, second = (np.asarray(bound(problem.params, problem.data, expect).value) for _ in range(2))
        size = np.max(np.abs(first), where=np.isfinite(first), initial=0.0)
        # On an accelerator, two evaluations of a pure function may differ by rounding.
        if not np.allclose(first, second, rtol=0.0, atol=1e-5 * size, equal_nan=True):
            raise Unsuitable(
                f"--problem={text}: its function gave two values for the same samples; it must be pure: no counters, no"
                " np.random"
            )
        _check_host_calls(text, functools.partial(bound, data=problem.data, expect=expect), problem.params)
    return problem


def _check_host_calls(text: str, bound: Callable, params: Any) -> None:
    """Refuses a bound that hands parameters to the host, which has no gradient, or that cannot be vectorized.

    Args:
      text: the value of --problem.
      bound: `bound(params)` returns an `Estimate`, whose samples carry no gradient.
      params: the parameters.

    Raises:
      Unsuitable: if the gradients of the bound cannot be drawn for this reason.
    """
    value = lambda params: jnp.sum(bound(params).value)
    if not diagnostics.host_calls(value, params).names:
        return
    try:
        jax.eval_shape(jax.vmap(jax.grad(value)), jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params))
    except (ValueError, NotImplementedError) as error:
        raise Unsuitable(
            f"--problem={text}: call the host as jax.pure_callback(simulate, shape, z, vmap_method='broadcast_all')"
            f" and hand it no parameters, because it has no gradient; jax says: {error}"
        ) from None


def _check_expectation(
    text: str, num_samples: int, q: Any, f: Callable, reduce: Reduction = mean, log_q_weight: float = 0.0
) -> Estimate:
    """Evaluates f once, in place of an estimator.

    Raises:
      Unsuitable: if q is not a distribution, or if f does not return one number for each sample and datum.
    """
    if not isinstance(q, Distribution):
        raise Unsuitable(
            f"--problem={text}: the posterior is a {type(q).__name__}; it must be a distribution of vae.distributions"
        )
    z = q.sample(jax.random.key(0), num_samples)
    values = f(z)
    expected = (num_samples, *q.batch_shape)
    is_array = isinstance(values, jax.Array)
    if not is_array or values.shape != expected or not jnp.issubdtype(values.dtype, jnp.floating):
        came = f"a {values.dtype} array of shape {values.shape}" if is_array else f"a {type(values).__name__}"
        name = getattr(f, "__name__", "f").replace("<lambda>", "f")
        shapes = jax.tree.map(jnp.shape, z)
        raise Unsuitable(
            f"--problem={text}: the function {name} returned {came} for {num_samples} samples z of shape {shapes}; it"
            f" must return one float for each sample and datum, an array of shape [K, *batch] = {expected}"
        )
    return Estimate(reduce(values), jnp.zeros(()), {})
