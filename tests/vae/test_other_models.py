"""Models that are no Flax linen modules: functions of the variables and of the name of a method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

import vae
from vae import annealed_bounds, stratified_bounds
from vae.apply import check_apply

X = np.zeros((3, 4), np.float32)
KEY = jax.random.key(0)
expect = vae.bind(vae.estimators.make("reparam"), {}, {}, KEY)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(vae.elbo, x=X, expect=expect),
        functools.partial(vae.elbo_analytic(), x=X, expect=expect),
        functools.partial(annealed_bounds.ula(), x=X, expect=expect),
        functools.partial(stratified_bounds.siwae, x=X, expect=expect),
        functools.partial(vae.diagnostics.compare, x=X, estimators={"stl": 1}, key=KEY),
        functools.partial(vae.evaluate.log_likelihood, x=X, key=KEY, num_samples=2),
        functools.partial(vae.evaluate.active_units, x=X, key=KEY),
        functools.partial(vae.ais.simulate, key=KEY, num_data=2, image_shape=(4,)),
        functools.partial(vae.ais.bounds, x=X, key=KEY, num_steps=2),
    ],
)
def test_a_model_that_takes_no_name_of_a_method_is_refused(function):
    """Such as a module of Flax NNX or Equinox."""

    class Module:
        def __call__(self, x):
            return x

    sentence = r"a function apply\(variables, \*args, method=name\), as vae/README.md .* Haiku; got Module$"
    with pytest.raises(TypeError, match=sentence):
        function(Module(), {"params": {}})


def test_a_model_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="^a model must be the apply of a Flax linen module, .* got dict$"):
        check_apply({})
    check_apply(lambda variables, *args, **options: None)


def test_an_epoch_takes_the_state_of_flax_and_any_step():
    """Each epoch shows every image once, except the one that is left over."""
    state = train_state.TrainState.create(apply_fn=None, params={"shown": jnp.zeros(9)}, tx=optax.sgd(1.0))

    def count(state, key, x):
        return state.apply_gradients(grads={"shown": -jnp.zeros(9).at[x].add(1)}), {"bound": jax.random.normal(key)}

    epoch = jax.jit(vae.make_epoch(count, batch_size=2))
    first, metrics = epoch(state, KEY, np.arange(9))
    second, later = epoch(first, KEY, np.arange(9))
    assert (first.step, second.step) == (4, 8)
    for before, after in ((state, first), (first, second)):
        assert sorted(after.params["shown"] - before.params["shown"]) == [0] + [1] * 8
    assert metrics["bound"] != later["bound"]  # the keys of the second epoch are others
