"""`certify`: tests a gradient estimator of any library against an exact gradient."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae.devices.cpu import on_cpu
from vae.diagnostics.intervals import critical_z
from vae.estimators import Estimator
from vae.testing.certificate import Certificate
from vae.testing.moments import Moments
from vae.testing.problems import LOG_Q_WEIGHT, REDUCE, Problem, exact_expectation, largest_order, objective, problem
from vae.testing.slips import known_slips

# Draws are added until the standard errors are shorter than this part of the exact gradient.
MAX_RELATIVE_STDERR = 0.01
# The probability that an unbiased estimator is not certified.
LEVEL = 0.01
# The rounding error of float32 gradients, relative to the length of the exact gradient.
ROUNDING = 1e-5
CHUNK = 2**12

PROBLEMS = ("Normal", "MultivariateNormal", "Bernoulli", "Categorical")
Bound = Literal["mean", "log_mean_exp"]
Gradient = Callable[[Any, dict[str, np.ndarray]], Mapping[str, Any]]
Draw = Callable[[int], Float[np.ndarray, "draws coordinates"]]


def certify(
    gradient: Gradient | Estimator,
    family: str,
    bound: str = "mean",
    num_samples: int = 2,
    *,
    takes: Literal["key", "seed"] = "key",
    seed: int = 0,
    max_draws: int = 2**21,
) -> Certificate:
    """Tests whether a gradient estimator is unbiased on a problem with an exact gradient.

    The gradient is that of the sum over the two data points of E[reduce(log p(x, z_k) - log q(z_k))] in the parameters
    of q, where z_1, ..., z_K are drawn from q. `vae.testing.problem(family)` has the numbers. In NumPy:

        problem = vae.testing.problem("Normal")
        weight, bias, x = (problem.theta[name] for name in ("weight", "bias", "x"))
        log_joint = lambda z: -np.sum((x - 1.5 * np.sin(z @ weight + bias)) ** 2, axis=-1)  # z [..., 2, D]

    Draws are added until the standard errors are shorter than 1 % of the exact gradient. The verdict allows for chance:
    an unbiased estimator fails in about 1 % of seeds. Estimators with a known mistake are tested in the same way.

    Args:
      gradient: a function (key or seed, parameters) that returns one draw of the gradient. The parameters are a dict of
        arrays, and the draw is a dict with the same keys and shapes: JAX or NumPy arrays, or tensors of PyTorch and
        other libraries with DLPack, on the CPU. A draw may be the mean of several. `gradient` may also be an
        `Estimator` of this library, whose params and state stay as initialized.
      family: the posterior, by its name in `vae.distributions`. One-hot vectors of "Categorical" are flattened in
        `z @ weight`.
      bound: "mean", the ELBO, or "log_mean_exp", the importance-weighted bound.
      num_samples: K of the importance-weighted bound, at least 2. The ELBO is the same for every K.
      takes: "key" for a JAX function of a PRNG key, which is vectorized and compiled; "seed" for any other function,
        which is called with the integers from `seed` on.
      seed: the first seed, or the seed of the keys.
      max_draws: number of draws after which a noisy estimator is given up.

    Raises:
      TypeError: if `gradient` is neither a function nor an `Estimator`.
      ValueError: if there is no such family or bound, if a draw is no dict or has other keys or shapes than the
        parameters, if JAX cannot trace a function of a key, or if K is below 2 or too large for "log_mean_exp".
    """
    if not isinstance(gradient, Estimator) and not callable(gradient):
        raise TypeError(
            f"gradient must be a function of a key or seed and parameters, or an Estimator, got {gradient!r}; for a"
            ' name in the table, give vae.estimators.make("reparam", num_samples=1)'
        )
    if family not in PROBLEMS:
        raise ValueError(
            f"there is no problem with latents {family!r}; choose one of {', '.join(PROBLEMS)}; certify_distribution"
            " tests a family of your own"
        )
    if bound not in REDUCE:
        raise ValueError(f"there is no bound {bound!r}; choose one of {', '.join(REDUCE)}")
    if bound == "log_mean_exp" and num_samples < 2:
        raise ValueError(f"bound=log_mean_exp needs num_samples of at least 2, got {num_samples}")
    toy = problem(family)
    parameters = {name: np.array(leaf, np.float32) for name, leaf in vars(toy.phi).items()}
    exact = _exact_gradient(family, bound, num_samples)
    names = [f"{name}[{', '.join(map(str, i))}]" for name, leaf in exact.items() for i in np.ndindex(leaf.shape)]
    truth = _flat(exact)
    drawing = lambda gradient, takes: (_keyed if takes == "key" else _seeded)(gradient, parameters, seed)
    if isinstance(gradient, Estimator):
        gradient, takes = _gradient_of(gradient, toy, bound), "key"
    parts = np.repeat(list(exact), [leaf.size for leaf in exact.values()])
    certificate = _certify(drawing(gradient, takes), truth, names, parts, max_draws)
    slips = {
        name: _certify(drawing(_gradient_of(slip, toy, bound), "key"), truth, names, parts, max_draws)
        for name, slip in known_slips(bound, num_samples, hasattr(toy.phi, "rsample")).items()
    }
    return Certificate(**{**vars(certificate), "slips": slips})


@functools.cache
def _exact_gradient(family: str, bound: Bound, num_samples: int) -> dict[str, np.ndarray]:
    """The exact gradient, in float64.

    Raises:
      ValueError: if K is too large, because two orders of the quadrature give different gradients.
    """
    with on_cpu(), jax.enable_x64(True):
        double = problem(family).astype(jnp.float64)

        def gradient(order: int):
            expectation = exact_expectation(double, REDUCE[bound], num_samples, order)
            run = jax.jit(jax.grad(lambda phi: objective(double, expectation, phi, double.theta)[0]))
            return {name: np.asarray(leaf) for name, leaf in vars(run(double.phi)).items()}

        order = largest_order(double, REDUCE[bound], num_samples)
        exact = gradient(order)
        lower, higher = _flat(gradient(max(1, order - 2))), _flat(exact)
    if not np.linalg.norm(lower - higher) < 0.1 * MAX_RELATIVE_STDERR * np.linalg.norm(higher):
        raise ValueError(f"num_samples={num_samples} is too large for an exact gradient; take a smaller K")
    return exact


def _gradient_of(estimator: Estimator, toy: Problem, bound: Bound) -> Gradient:
    """One draw of the estimator's gradient."""
    context = toy.theta["x"]
    learned, counted = estimator.init(jax.random.key(0), toy.posterior(toy.phi), context)

    def gradient(key, parameters):
        estimate = lambda q, f: (
            estimator.estimate(learned, counted, key, q, f, REDUCE[bound], LOG_Q_WEIGHT, context).value
        )
        value = lambda parameters: objective(toy, estimate, type(toy.phi)(**parameters), toy.theta)[0]
        return jax.grad(value)(parameters)

    return gradient


def _keyed(gradient: Gradient, parameters: dict[str, np.ndarray], seed: int) -> Draw:
    """`draw(i)`: chunk i of the draws of a JAX function."""
    return _numbered(_compiled(gradient, parameters), parameters, seed)


def _compiled(gradient: Gradient, parameters: dict[str, np.ndarray]) -> Callable:
    """A compiled function that maps a key to a chunk of draws."""

    def one(key):
        try:
            return _checked(gradient(key, parameters), parameters)
        except TypeError as error:  # also the errors of jax about values that are not known while tracing
            raise ValueError(
                f"JAX cannot trace the gradient ({str(error).splitlines()[0]}); if it is a function of a seed in NumPy"
                ' or another library, give takes="seed"'
            ) from error

    return jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, CHUNK)))


def _numbered(chunk: Callable, parameters: dict[str, np.ndarray], seed: int) -> Draw:
    def draw(i):
        drawn = chunk(jax.random.fold_in(jax.random.key(seed), i))
        return np.concatenate([np.float64(drawn[name]).reshape(CHUNK, -1) for name in parameters], axis=1)

    return draw


def _seeded(gradient: Gradient, parameters: dict[str, np.ndarray], seed: int) -> Draw:
    """`draw(i)`: chunk i of the draws of any other function."""

    def draw(i):
        seeds = range(seed + i * CHUNK, seed + (i + 1) * CHUNK)
        return np.stack([_flat(_checked(gradient(each, parameters), parameters)) for each in seeds])

    return draw


def _checked(draw: Any, parameters: dict[str, np.ndarray]) -> dict[str, Any]:
    """The draw, in the order of the parameters.

    Raises:
      ValueError: if it is no dict, or if its keys or shapes are others.
    """
    if not isinstance(draw, Mapping):
        raise ValueError(
            f"a draw of the gradient must be a dict with the keys {', '.join(parameters)}, got a {type(draw).__name__}"
        )
    shapes = lambda tree: {name: tuple(leaf.shape) for name, leaf in tree.items()}
    if shapes(draw) != shapes(parameters):
        raise ValueError(f"a draw of the gradient has the shapes {shapes(draw)}, and must have {shapes(parameters)}")
    return {name: draw[name] for name in parameters}


def _flat(gradient: Mapping[str, Any]) -> Float[np.ndarray, "coordinates"]:
    leaves = [leaf if isinstance(leaf, np.ndarray | jax.Array) else np.from_dlpack(leaf) for leaf in gradient.values()]
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


def _certify(
    draw: Draw, truth: Float[np.ndarray, "coordinates"], names: list[str], parts: np.ndarray, max_draws: int
) -> Certificate:
    """Adds chunks of draws to the moments until the standard errors are small enough, and gives the verdict.

    `names` and `parts` have the name of each coordinate and of its parameter.
    """
    norm = np.linalg.norm(truth)
    moments = Moments()
    while True:
        drawn = draw(moments.count // CHUNK)
        along = drawn @ truth / norm**2
        moments = moments.add(np.concatenate([drawn, along[:, None]], axis=1))  # the last is the length along the truth
        count, mean, stderr = moments.count, moments.mean, moments.stderr
        relative_stderr = float(np.linalg.norm(stderr[:-1]) / norm)
        if not relative_stderr >= MAX_RELATIVE_STDERR or count >= max_draws:
            break
    rounding = ROUNDING * np.append(np.full(len(truth), norm), 1.0)
    deviation = mean - np.append(truth, 1.0)
    z = deviation / np.hypot(stderr, rounding)
    worst = int(np.argmax(np.abs(z[:-1])))  # the first NaN, if there is one
    critical = critical_z(len(z), count, LEVEL)
    if not np.all(np.isfinite(z)):
        reason = "some draws are not finite"
    elif relative_stderr >= MAX_RELATIVE_STDERR:
        reason = f"the standard error is {100 * relative_stderr:.2g} % of the exact gradient after {count:,} draws"
    elif abs(z[worst]) > critical:
        reason = f"biased at {names[worst]}"
        if relative_stderr < 1e-9:
            reason += "; all draws are equal, so perhaps the key or seed is not used"
    elif abs(z[-1]) > critical:
        reason = "biased along the truth"
    else:
        reason = ""
    ratio_to_truth = lambda mean, truth: float(mean @ truth / (truth @ truth))
    ratios = {
        str(part): ratio_to_truth(mean[:-1][parts == part], truth[parts == part]) for part in dict.fromkeys(parts)
    }
    from_multiple = (mean[:-1] - mean[-1] * truth) / np.hypot(stderr, rounding)[:-1]
    reach = 1.96 * float(stderr[-1])
    bias = float(deviation[-1])
    return Certificate(
        certified=not reason,
        reason=reason,
        bias=bias,
        bias_low=bias - reach,
        bias_high=bias + reach,
        coordinate=names[worst],
        z=float(z[worst]),
        critical_z=critical,
        relative_stderr=relative_stderr,
        draws=count,
        ratios=ratios,
        multiple=float(mean[-1]) if reason and np.max(np.abs(from_multiple)) <= critical else None,
    )
