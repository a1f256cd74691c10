"""Layer-by-layer estimation for several stochastic layers, at a cost that is linear in the number of layers.

The gradient of each layer is estimated given one draw of the layers before it, in the order in which q draws them. The
layers after it are drawn anew for every sample of the layer (Dong, Mnih & Tucker 2020, arXiv:2006.10680, section 5.2,
for DisARM).
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, PRNGKeyArray

from vae.estimators.contract import Distribution, Estimate, Estimator, mean
from vae.estimators.tools import attach, integrand
from vae.hierarchy import Markov


def layerwise(estimator: Estimator) -> Estimator:
    """Wraps an estimator for one layer into an estimator for a whole `Markov` posterior. Only the mean is supported.

    The wrapped estimator must not differentiate f in z. The layers after z are samples that depend on z, and the
    derivative of f in z would miss that dependence.

    Raises:
      ValueError: from `init` and `estimate`, if q is not a `Markov` posterior; from `estimate`, if the reduction is not
        the mean.
    """

    def init(key, q, context=None):
        _refuse_single_layer(q)
        key_draw, *layer_keys = jax.random.split(key, 1 + q.num_layers)
        layers = _layers(q, _draw(q, key_draw))
        initial = [estimator.init(key, layer, context) for key, layer in zip(layer_keys, layers, strict=True)]
        return tuple(params for params, _ in initial), tuple(state for _, state in initial)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        _refuse_single_layer(q)
        if not reduce.additive:
            raise ValueError(
                f"layerwise supports only the reduction mean, got {reduce.name}; use reduce=mean (the objective elbo)"
            )
        key_draw, *layer_keys = jax.random.split(key, 1 + q.num_layers)
        drawn = _draw(q, key_draw)
        f = integrand(f, stop_gradient(q), log_q_weight)
        estimates = []
        for index, (layer, key_layer) in enumerate(zip(_layers(q, drawn), layer_keys, strict=True)):
            key_after, key_estimate = jax.random.split(key_layer)

            def f_of_layer(z, index=index, key_after=key_after):
                """f at samples z `[K, *batch, D]` of this layer, given the draws before it, with new draws after it."""
                repeat = lambda leaf: jnp.broadcast_to(leaf, (len(z), *leaf.shape[1:]))
                value = f(q.continued(key_after, (*map(repeat, drawn[:index]), z)))
                # Each layer's samples would contribute the gradient of the decoder (of everything that f closes over)
                # once more. Only the first layer contributes, because its samples are independent in all layers.
                return stop_gradient(value) if index else value

            estimates.append(
                estimator.estimate(params[index], state[index], key_estimate, layer, f_of_layer, reduce, 0.0, context)
            )
        value = attach(estimates[0].value, sum(estimate.value for estimate in estimates))
        cv_loss = sum(estimate.cv_loss for estimate in estimates)
        return Estimate(value, cv_loss, tuple(estimate.state for estimate in estimates))

    return Estimator(init, estimate)


def _refuse_single_layer(q: Distribution) -> None:
    if not isinstance(q, Markov):
        raise ValueError(
            f"layerwise needs a posterior of several stochastic layers (Markov), got {type(q).__name__}; "
            f"drop layerwise (by_layer=True) for a single layer"
        )


def _draw(q: Markov, key: PRNGKeyArray) -> tuple[Array, ...]:
    """One draw of every layer, each `[1, *batch, D]`, in the order of drawing."""
    key_first, key_rest = jax.random.split(key)
    return q.ordered(q.continued(key_rest, (q.first.sample(key_first, 1),)))


def _layers(q: Markov, drawn: tuple[Array, ...]) -> list[Distribution]:
    """The distribution of each layer given one draw of the layers before; every batch_shape is `[*batch]`."""
    return [q.first, *(q.layer(index, before[0]) for index, before in enumerate(drawn[:-1], start=1))]
