"""One estimator for every stochastic layer of a hierarchy, at a cost linear in their number: each layer is estimated
given a draw of those below it, with those above drawn anew for every sample (Dong, Mnih & Tucker 2020,
arXiv:2006.10680, section 5.2, for DisARM)."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimate, Estimator, attach, hold_density, mean


def layerwise(estimator: Estimator) -> Estimator:
    """`estimator`, made for the layers of a `Markov` posterior, as one for all of it; of the mean alone.

    It must not differentiate f in z: above a hard layer f depends on z through samples too, which no derivative sees.
    """

    def init(key, q, context=None):
        key_z, *keys = jax.random.split(key, len(q.weights) + 2)
        layers = _layers(q, _draw(q, key_z))
        each = [estimator.init(k, layer, context) for k, layer in zip(keys, layers, strict=True)]
        return tuple(params for params, _ in each), tuple(state for _, state in each)

    def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
        key_z, *keys = jax.random.split(key, len(q.weights) + 2)
        below, found = _draw(q, key_z), []
        for index, (layer, key) in enumerate(zip(_layers(q, below), keys, strict=True)):
            key_above, key = jax.random.split(key)

            def given(z, _, index=index, key_above=key_above):
                """f of samples z `[K, *batch, D]` of this layer, on the draws below and new ones above."""
                repeat = lambda leaf: jnp.broadcast_to(leaf, (len(z), *leaf.shape[1:]))
                value = hold_density(f, mean)(q.continued(key_above, (*map(repeat, below[:index]), z)), q)
                # The decoder's gradient comes with the first layer's samples alone, which are of all of q.
                return stop_gradient(value) if index else value

            found.append(estimator.estimate(params[index], state[index], key, layer, given, reduce, context))
        value = found[0].value
        total = attach(value, sum(one.value for one in found))
        return Estimate(total, sum(one.cv_loss for one in found), tuple(one.state for one in found))

    return Estimator(init, estimate)


def _draw(q, key):
    """One draw of every layer, each `[1, *batch, D]`."""
    key_first, key_rest = jax.random.split(key)
    return q.continued(key_rest, (q.first.sample(key_first, 1),))


def _layers(q, below):
    """The distribution of each layer, batch_shape `[*batch]`, given one draw of the layers below it."""
    conditionals = [q.layer(index, before) for index, before in enumerate(below[:-1], start=1)]
    return [q.first, *(jax.tree.map(lambda leaf: leaf[0], conditional) for conditional in conditionals)]
