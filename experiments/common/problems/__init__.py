"""Small expectations whose gradients are known. Gradient estimators are compared and trained on them.

    problem = problems.make("quadratic:cost_parameter=0.5")        # a name of BY_NAME, with options of its factory

To measure a problem of your own, write a function without arguments that returns a `Problem`:

    # mine.py        python -m experiments.compare_estimators --problem=mine:problem
    import jax.numpy as jnp
    from experiments.common import problems
    from vae import distributions

    def problem():
        phi = {"mean": jnp.array([0.3, -0.2]), "log_var": jnp.zeros(2)}
        params = {"phi": phi, "theta": {"w": jnp.array([1.0, 2.0])}}
        posterior = lambda params: distributions.Normal(**params["phi"])
        f = lambda params, z: -jnp.sum((jnp.sin(z) - params["theta"]["w"]) ** 2, axis=-1)     # [K], as log p(x, z)
        return problems.from_integrand("mine", params, posterior, f, log_q_weight=1.0)
"""

from experiments.common import grammar
from experiments.common.problems.bits import coins as coins
from experiments.common.problems.bits import table as table
from experiments.common.problems.bits import three_bits as three_bits
from experiments.common.problems.classes import classes as classes
from experiments.common.problems.gaussian_costs import cosine as cosine
from experiments.common.problems.gaussian_costs import exponential as exponential
from experiments.common.problems.gaussian_costs import quadratic as quadratic
from experiments.common.problems.linear_gaussian import linear_gaussian as linear_gaussian
from experiments.common.problems.linear_gaussian import rainforth as rainforth
from experiments.common.problems.logistic_regression import logistic_regression as logistic_regression
from experiments.common.problems.problem import Problem as Problem
from experiments.common.problems.problem import Start as Start
from experiments.common.problems.problem import TrainedEstimator as TrainedEstimator
from experiments.common.problems.problem import from_integrand as from_integrand
from experiments.common.problems.quantized import quantized as quantized
from vae.estimators.tools import check_positive
from vae.table import Table

BY_NAME = Table(
    "problem",
    {
        "quadratic": quadratic,
        "exponential": exponential,
        "cosine": cosine,
        "coins": coins,
        "three_bits": three_bits,
        "table": table,
        "classes": classes,
        "logistic_regression": logistic_regression,
        "linear_gaussian": linear_gaussian,
        "rainforth": rainforth,
        "quantized": quantized,
    },
)


def make(text: str) -> Problem:
    """The problem with the name and the options in `text`, which has the form `name:option=value:...`.

    Raises:
      ValueError: if there is no such name or option, or if a size is not above 0.
    """
    choice = grammar.choose(text, BY_NAME)
    try:
        check_positive(**{option: value for option, value in choice.options if isinstance(value, int)})
    except ValueError as error:
        raise ValueError(f"{choice}: {error}") from None
    return grammar.build(choice, BY_NAME)._replace(identity=str(choice))
