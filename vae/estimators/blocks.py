"""One estimator for each block of a posterior: a class by enumeration and a Gaussian by reparameterization.

The expectation over all blocks is nested: E_q1[ E_q2[ f(z_1, z_2) ] ]. The first estimator differentiates the
expectation over z_1 of the estimate that the second estimator makes for this z_1, and so on (ADEV, Lew, Huot, Staton &
Mansinghka 2022, arXiv:2212.06386).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vae.estimators.contract import Distribution, Estimate, Estimator, mean
from vae.hierarchy import Markov


def blocks(estimators: Sequence[Estimator]) -> Estimator:
    """One estimator for each block of a `Product`, or for each layer of a `Markov` posterior. Only the mean is allowed.

    The noise of the later blocks is the same for all samples of a block, so a block's estimator sees a function of its
    samples alone. The gradient is unbiased if that of every estimator is. If the parameters of a block depend on the
    block before, the derivative that the block's estimator gives them goes on to that block, so an estimator that
    differentiates f may stand anywhere. An estimator that needs second derivatives of f refuses a later block whose
    estimate has none.

    The number of evaluations of f is the product of the estimators' numbers: 20 for `exact` on ten classes and two
    samples of `reparam`. Every later block whose estimator learns or counts something takes further evaluations, which
    update its params and its state.

    Raises:
      ValueError: from `init` and `estimate`, if q does not have as many blocks as there are estimators; from
        `estimate`, if the reduction is not the mean.
    """
    estimators = tuple(estimators)

    def init(key, q, context=None):
        _check_blocks(q, len(estimators))
        key_draw, *keys = jax.random.split(key, 1 + len(estimators))
        draw = jax.tree.map(lambda leaf: leaf[0], q.sample(key_draw, 1))
        layers = [q.layer(index, before) for index, before in enumerate((None, *draw[:-1]))]
        initial = [each.init(*own, context) for each, *own in zip(estimators, keys, layers, strict=True)]
        return tuple(params for params, _ in initial), tuple(state for _, state in initial)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        _check_blocks(q, len(estimators))
        if not reduce.additive:
            raise ValueError(
                f"estimators of blocks support only the reduction mean, got {reduce.name}; use reduce=mean (the "
                "objectives elbo and elbo_analytic)"
            )

        def estimate_rest(before: tuple[Array, ...], key) -> Estimate:
            """The expectation over all blocks after `before`, one sample `[*batch, *event]` of each block before."""
            index = len(before)
            key_own, key_draw, key_rest = jax.random.split(key, 3)
            layer = q.layer(index, before[-1] if before else None)

            def f_of_block(z):
                """The integrand of this block at samples z `[K, *batch, *event]`."""
                if index + 1 == len(estimators):
                    return f((*(jnp.broadcast_to(part, (len(z), *part.shape)) for part in before), z))
                return jax.vmap(lambda row: estimate_rest((*before, row), key_rest).value)(z)

            own = estimators[index].estimate(
                params[index], state[index], key_own, layer, f_of_block, reduce, log_q_weight, context
            )
            if not jax.tree.leaves((params[index + 1 :], state[index + 1 :])):
                return own._replace(state=(own.state, *state[index + 1 :]))
            rest = estimate_rest((*before, layer.sample(key_draw, 1)[0]), key_rest)
            return Estimate(own.value, own.cv_loss + rest.cv_loss, (own.state, *rest.state))

        return estimate_rest((), key)

    return Estimator(init, estimate)


def _check_blocks(q: Distribution, number: int) -> None:
    found = 1 if not hasattr(q, "num_layers") or (isinstance(q, Markov) and q.descending) else q.num_layers
    if found != number:
        raise ValueError(
            f"{number} estimators need a posterior of {number} blocks (Product, or Markov from the data upwards), got "
            f"{type(q).__name__} with {found}"
        )
