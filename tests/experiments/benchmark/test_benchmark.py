"""The benchmark counts the FLOP of the programs that it times. The times themselves are not tested."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from experiments.benchmark import epoch, sweep
from vae import estimators, train


@pytest.mark.parametrize("network", sweep.networks((128,)), ids=lambda network: network.name)
def test_the_stated_flop_of_a_step_are_those_of_the_matrix_products_in_its_program(network):
    batch_size = network.batch_sizes[0]
    estimator = estimators.BY_NAME["reparam"].make(num_samples=network.num_samples)
    init = train.make_init(network.model, estimator, optax.adam(1e-3), jnp.zeros((batch_size, *network.shape)))
    state = jax.eval_shape(init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((batch_size, *network.shape), jnp.float32)
    step = train.make_step(network.model.apply, network.objective, estimator, optax.adam(1e-3))
    program = jax.make_jaxpr(step)(state, jax.random.key(0), x)
    assert network.flop(batch_size) == _products(program.jaxpr)
    if network.name == "MNIST":
        assert epoch.flop_of_step(batch_size) == network.flop(batch_size)


def _products(jaxpr):
    """The FLOP of all matrix products in a jaxpr."""
    flop = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), left = equation.params["dimension_numbers"], equation.invars[0].aval.shape
            flop += 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        flop += sum(map(_products, jaxprs_in_params(equation.params)))
    return flop
