"""A black box, such as a simulator on the host, has no gradient: the table knows which estimators do without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.contract_cases import ENTRIES
from vae import distributions
from vae.estimators import BY_NAME, bind, fitting, log_mean_exp, mean

FAMILIES = {
    "Normal": (lambda phi: distributions.Normal(phi, jnp.zeros_like(phi)), jnp.array([0.3, -0.2])),
    "Bernoulli": (distributions.Bernoulli, jnp.array([0.3, -0.2])),
    "Categorical": (distributions.Categorical, jnp.array([[0.3, -0.2, 0.1], [0.0, 0.2, 0.4]])),
}


def trace(name, family):
    """Traces the gradient of an estimator, where f calls NumPy."""
    posterior, phi = FAMILIES[family]
    axes = tuple(range(-phi.ndim, 0))

    def f(z):
        shape = jax.ShapeDtypeStruct(z.shape[: -phi.ndim], jnp.float32)
        return jax.pure_callback(lambda z: np.sum(z, axis=axes), shape, z, vmap_method="broadcast_all")

    entry = BY_NAME[name]
    reduce = mean if "mean" in entry.reductions else log_mean_exp
    estimator = entry.make(num_samples=max(2, entry.min_samples))
    key = jax.random.key(0)

    def value(phi):
        learned, counted = estimator.init(key, posterior(jax.lax.stop_gradient(phi)))
        return bind(estimator, learned, counted, key)(posterior(phi), f, reduce, 1.0).value

    jax.eval_shape(jax.grad(value), phi)


CASES = [
    (name, family)
    for family, (posterior, phi) in FAMILIES.items()
    for name, entry in ENTRIES.items()
    if entry.refusal(posterior(phi), mean if "mean" in entry.reductions else log_mean_exp, 1.0) is None
]


@pytest.mark.parametrize(("name", "family"), CASES)
def test_the_table_says_which_estimators_differentiate_f(name, family):
    posterior, phi = FAMILIES[family]
    reduce = mean if "mean" in BY_NAME[name].reductions else log_mean_exp
    refusal = BY_NAME[name].refusal(posterior(phi), reduce, 1.0, black_box=True)
    if refusal is None:
        trace(name, family)
    else:
        assert refusal.startswith(f"{name} differentiates f in z, and f is a black box on the host")
        with pytest.raises(ValueError, match="do not support JVP"):
            trace(name, family)


def test_a_refusal_names_the_estimators_that_take_a_black_box():
    able = fitting(distributions.Bernoulli, black_box=True)
    assert {"reinforce", "leave_one_out", "disarm", "local_expectation", "exact"} <= set(able)
    assert not {"gumbel_softmax", "relax", "straight_through", "muprop"} & set(able)
    refusal = BY_NAME["gumbel_softmax"].refusal(distributions.Bernoulli, black_box=True)
    assert refusal.endswith(f"these estimators can: {', '.join(able)}")
    assert "exact" not in fitting(distributions.Normal, black_box=True)  # its nodes move with q
