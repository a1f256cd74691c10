"""One estimator for every stochastic layer of a hierarchy, at a cost linear in the number of layers.

Each layer is estimated given one draw of the layers below it; the layers above are drawn anew for every sample (Dong,
Mnih & Tucker 2020, arXiv:2006.10680, section 5.2, for DisARM).
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, PRNGKeyArray

from vae.estimators.contract import Distribution, Estimate, Estimator, mean
from vae.estimators.tools import attach, integrand
from vae.hierarchy import Markov


def layerwise(estimator: Estimator) -> Estimator:
    """Wraps an estimator of single layers into an estimator of a whole `Markov` posterior, for the mean alone.

    The wrapped estimator must not differentiate f in z. Above a hard layer f depends on z through further samples, and
    no derivative sees that.

    Raises:
      ValueError: from `init` and `estimate`, if q has no layers that are drawn from the data up, or if the reduction is
        not the mean.
    """

    def init(key, q, context=None):
        _refuse_single_layer(q)
        key_z, *keys = jax.random.split(key, len(q.weights) + 2)
        layers = _layers(q, _draw(q, key_z))
        each = [estimator.init(k, layer, context) for k, layer in zip(keys, layers, strict=True)]
        return tuple(params for params, _ in each), tuple(state for _, state in each)

    def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
        _refuse_single_layer(q)
        if not reduce.additive:
            raise ValueError(f"layerwise estimators are for the mean, and the reduction is {reduce.name}")
        key_z, *keys = jax.random.split(key, len(q.weights) + 2)
        below = _draw(q, key_z)
        f = integrand(f, stop_gradient(q), log_q_weight)
        estimates = []
        for index, (layer, key_layer) in enumerate(zip(_layers(q, below), keys, strict=True)):
            key_above, key_estimate = jax.random.split(key_layer)

            def given(z, index=index, key_above=key_above):
                """f of samples z `[K, *batch, D]` of this layer, with the draws below it and new draws above."""
                repeat = lambda leaf: jnp.broadcast_to(leaf, (len(z), *leaf.shape[1:]))
                value = f(q.continued(key_above, (*map(repeat, below[:index]), z)))
                # Only the first layer's samples are samples of all of q, so the decoder's gradient comes from them.
                return stop_gradient(value) if index else value

            one = estimator.estimate(params[index], state[index], key_estimate, layer, given, reduce, 0.0, context)
            estimates.append(one)
        value = attach(estimates[0].value, sum(one.value for one in estimates))
        return Estimate(value, sum(one.cv_loss for one in estimates), tuple(one.state for one in estimates))

    return Estimator(init, estimate)


def _refuse_single_layer(q: Distribution) -> None:
    if not isinstance(q, Markov) or q.descending:
        raise ValueError(
            f"layerwise needs a posterior of several stochastic layers (Markov), and q is {type(q).__name__}"
        )


def _draw(q: Markov, key: PRNGKeyArray) -> tuple[Array, ...]:
    """One draw of every layer, each `[1, *batch, D]`."""
    key_first, key_rest = jax.random.split(key)
    return q.continued(key_rest, (q.first.sample(key_first, 1),))


def _layers(q: Markov, below: tuple[Array, ...]) -> list[Distribution]:
    """The distribution of each layer, batch_shape `[*batch]`, given one draw of the layers below it."""
    conditionals = [q.layer(index, before) for index, before in enumerate(below[:-1], start=1)]
    return [q.first, *(jax.tree.map(lambda leaf: leaf[0], conditional) for conditional in conditionals)]
