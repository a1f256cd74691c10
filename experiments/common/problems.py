"""The laboratory's problems: small expectations whose gradients are known, a trained VAE, and yours.

A problem is what an estimator is tried on, with parameters and data fixed. Your own is a function without arguments
that returns one, given as --problem=module:function with the module in the current directory or installed:

    # mine.py        python -m experiments.compare_estimators --problem=mine:problem
    import jax.numpy as jnp
    from experiments import problems
    from vae import distributions

    def problem():
        phi = {"mean": jnp.array([0.3, -0.2]), "log_var": jnp.zeros(2)}
        params = {"phi": phi, "theta": {"w": jnp.array([1.0, 2.0])}}
        posterior = lambda params: distributions.Normal(**params["phi"])
        f = lambda params, z: -jnp.sum((jnp.sin(z) - params["theta"]["w"]) ** 2, axis=-1)  # [K]
        return problems.of_integrand("mine", params, posterior, f, log_q_weight=1.0)
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import build
from experiments.common.run_folder import RunFolder
from vae import checkpoint, distributions, objectives
from vae import data as datasets
from vae.estimators import log_mean_exp, mean

PyTree = Any


class Problem(NamedTuple):
    """Parameters at which an expectation is differentiated.

    Attributes:
      name: what tables and figures call it.
      params: a dict of groups, which are judged apart; mostly what q is made of and what the integrand is made of.
      bounds: by objective, `bound(params, data, expect) -> Estimate` with value `[*batch]`; the first is the default.
        `expect(q, f, reduce)` is an estimator, as for `vae.objectives`.
      data: what the bound looks at; problems that differ in params and data alone share compiled programs.
      oracle: `oracle(objective, num_samples)`, the exact gradient of the batch's mean bound, or None.
      context: what an input-dependent baseline may look at, `[*batch, ...]`.
      point: what distinguishes this problem from others of a sweep, {} or {name: number}.
      exact_by: how the oracle knows, for the tables.
      expected: `expected(params, data)`, the exact value, where it is needed besides its gradient.
      temperature: of the estimators that have one; 0 for their own.
      by_layer: whether estimators that can take stochastic layers one by one do.
      num_samples: K where none is asked for.
      learned: (estimator, (learned, counted)) of the run, for that estimator to go on from.
    """

    name: str
    params: dict[str, PyTree]
    bounds: dict[str, Callable]
    data: PyTree = None
    oracle: Callable[[str, int], PyTree | None] = lambda objective, num_samples: None
    context: PyTree = None
    point: dict[str, float] = {}
    exact_by: str = "closed form"
    expected: Callable | None = None
    temperature: float = 0.0
    by_layer: bool = False
    num_samples: int = 1
    learned: tuple[str, tuple[PyTree, PyTree]] | None = None


def of_integrand(
    name: str, params: dict[str, PyTree], posterior: Callable, f: Callable, log_q_weight: float = 0.0
) -> Problem:
    """E_q[f - c log q] (objective elbo) and E[log (1/K) sum_k exp(f(z_k) - c log q(z_k))] (iwae), for
    q = posterior(params), f(params, z) -> `[K, *batch]` and c = log_q_weight."""

    def bound(reduce):
        return lambda params, data, expect: expect(posterior(params), lambda z: f(params, z), reduce, log_q_weight)

    return Problem(name, params, {"elbo": bound(mean), "iwae": bound(log_mean_exp)})


def of_user(path: str) -> Callable[[], Problem]:
    """The function `module:function`, which makes a problem.

    Raises:
      ValueError: if there is no such module or function, or it needs arguments.
    """
    module, _, function = path.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--problem={path} cannot be imported: {error}; give module:function") from None
    finally:
        sys.path.pop(0)
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError):  # needs arguments, or is no function, or one that does not say what it needs
        raise ValueError(f"--problem={path} cannot be called as it is; give a function without arguments") from None
    return make


# A cost under a Gaussian (Mohamed, Rosca, Figurnov & Mnih 2020, arXiv:1906.10652, section 3): z ~ N(mean, scale^2).

COSTS = {
    "quadratic": lambda z, k: jnp.square(z - k),
    "exponential": lambda z, k: jnp.exp(-k * jnp.square(z)),
    "cosine": lambda z, k: jnp.cos(k * z),
}


def _expected_cost(name: str, m, s, k):
    if name == "quadratic":
        return (m - k) ** 2 + s**2
    if name == "exponential":
        return (1 + 2 * k * s**2) ** -0.5 * jnp.exp(-k * m**2 / (1 + 2 * k * s**2))
    return jnp.cos(k * m) * jnp.exp(-((k * s) ** 2) / 2)


def gaussian_cost(name: str, k: float | None = None) -> Problem:
    """E f(z) for z ~ N(1, 1) and f one of (z - k)^2 (k = -1 by default), exp(-k z^2), cos(k z) (k = 1)."""
    k = (-1.0 if name == "quadratic" else 1.0) if k is None else k
    params = {"phi": {"mean": jnp.ones(1), "scale": jnp.ones(1)}}

    def oracle(objective, num_samples):
        del objective, num_samples

        def expected(params):
            return jnp.sum(_expected_cost(name, params["phi"]["mean"], params["phi"]["scale"], k))

        return _in_float64(jax.grad(expected), params)

    return Problem(name, params, _COST_BOUNDS[name], jnp.asarray(k), oracle, point={"cost_parameter": k})


quadratic, exponential, cosine = (partial(gaussian_cost, name) for name in ("quadratic", "exponential", "cosine"))


def _cost_bound(name: str) -> Callable:
    def bound(params, k, expect):
        q = distributions.Normal(params["phi"]["mean"], 2 * jnp.log(params["phi"]["scale"]))
        return expect(q, lambda z: jnp.sum(COSTS[name](z, k), axis=-1), mean)

    return bound


_COST_BOUNDS = {name: {"elbo": _cost_bound(name)} for name in COSTS}


# A cost under coins, the toy problems of discrete estimators. Minus the cost is maximised.


def coins(target: float = 0.45, power: float = 2.0, dimensions: int = 1, batch_size: int = 1) -> Problem:
    """The mean over D fair coins of -|b - target|^power. A batch repeats it, and so averages over more draws.

    One coin and power 2 is the toy of REBAR (Tucker et al. 2017, arXiv:1703.07370; target 0.45) and of RELAX (Grathwohl
    et al. 2017, arXiv:1711.00123; 0.49 and 0.499); 128 coins and powers 1.5, 2 and 3 that of ReinMax (Liu et al. 2023,
    arXiv:2304.08612).
    """
    data = {"target": jnp.full(batch_size, target), "power": jnp.full(batch_size, power)}
    params = {"phi": {"logits": jnp.zeros(dimensions)}}
    point = {"target": target} if dimensions == 1 else {"power": power}
    oracle = _oracle(_expected_coins, params, data)
    return Problem("coins", params, {"elbo": _coins}, data, oracle, data, point, expected=_expected_coins)


def _coins(params, data, expect):
    q = distributions.Bernoulli(_repeated(params["phi"]["logits"], len(data["power"])))
    cost = lambda z: jnp.mean(_power(jnp.abs(z - data["target"][:, None]), data["power"][:, None]), axis=-1)
    return expect(q, lambda z: -cost(z), mean)


def _expected_coins(params, data):
    p, t, power = jax.nn.sigmoid(params["phi"]["logits"]), data["target"][0], data["power"][0]
    return -jnp.mean(p * (1 - t) ** power + (1 - p) * t**power)


def _power(distance, power):
    """distance^power, with a derivative at 0 too, which a relaxed coin can meet."""
    return jnp.where(distance > 0, jnp.where(distance > 0, distance, 1.0) ** power, 0.0)


def three_bits(batch_size: int = 1) -> Problem:
    """Three coins of one common logit as one categorical variable of eight classes, and the squared distance of the
    coins to (0.6, 0.51, 0.48) (Kool, van Hoof & Welling 2020, arXiv:2002.06043, section 4.1)."""
    data = jnp.broadcast_to(_TARGETS, (batch_size, 3))
    params = {"phi": {"logit": jnp.zeros(())}}
    oracle = _oracle(_expected_bits, params, data)
    return Problem("three_bits", params, {"elbo": _three_bits}, data, oracle, data, expected=_expected_bits)


_TARGETS = np.array([0.6, 0.51, 0.48], np.float32)  # NumPy: no device is asked for while a module is imported
_BITS = np.indices((2, 2, 2)).reshape(3, 8).T.astype(np.float32)  # [8, 3]


def _three_bits(params, data, expect):
    each = distributions.Bernoulli(_repeated(params["phi"]["logit"], 3))
    q = distributions.Categorical(_repeated(each.log_prob(_BITS[:, None])[:, 0][None], len(data)))  # [B, 1, 8]
    return expect(q, lambda z: -jnp.sum(jnp.square(z[..., 0, :] @ _BITS - data), axis=-1), mean)


def _expected_bits(params, data):
    p = jax.nn.sigmoid(params["phi"]["logit"])
    return -jnp.sum(p * jnp.square(1 - data[0]) + (1 - p) * jnp.square(data[0]))


def table(dimensions: int = 6, batch_size: int = 1) -> Problem:
    """The ELBO of D bits that depend on each other as in no factorized q: log p(x, z) is a table of 2^D standard normal
    numbers, and between the states its multilinear extension. f holds log q(z), as a VAE's does."""
    log_joint = np.random.default_rng(0).normal(size=2**dimensions).astype(np.float32)
    data = jnp.broadcast_to(log_joint, (batch_size, 2**dimensions))
    params = {"phi": {"logits": jnp.zeros(dimensions)}}
    return Problem(
        "table", params, {"elbo": _table}, data, _oracle(_expected_table, params, data), data, expected=_expected_table
    )


def _table(params, data, expect):
    q = distributions.Bernoulli(_repeated(params["phi"]["logits"], len(data)))
    return expect(q, lambda z: jnp.sum(_weights(z) * data, axis=-1), mean, 1.0)


def _expected_table(params, data):
    p = jax.nn.sigmoid(params["phi"]["logits"])
    weights = _weights(p)
    entropy = -jnp.sum(p * jax.nn.log_sigmoid(params["phi"]["logits"]), axis=-1)
    entropy -= jnp.sum((1 - p) * jax.nn.log_sigmoid(-params["phi"]["logits"]), axis=-1)
    return jnp.sum(weights * data[0]) + entropy


def _weights(z):
    """`[..., D]` to the weight of each of the 2^D states, `[..., 2^D]`: 1 for the state z where z is one."""
    weights = jnp.ones((*z.shape[:-1], 1), z.dtype)
    for bit in range(z.shape[-1]):
        one = z[..., bit, None]
        weights = jnp.concatenate([weights * (1 - one), weights * one], axis=-1)
    return weights


def _repeated(leaf, times: int):
    return jnp.broadcast_to(leaf, (times, *leaf.shape))


def _oracle(expected: Callable, params, data) -> Callable:
    return lambda objective, num_samples: _in_float64(lambda params: jax.grad(expected)(params, data), params)


# Bayesian logistic regression


def logistic_regression() -> Problem:
    """Weights of a logistic regression on scikit-learn's breast cancer data (569 patients, 30 standardized features and
    a constant), prior N(0, I), q = N(mean, diag exp(log_var)). Data and prior are those of Mohamed et al. (2020),
    arXiv:1906.10652, who train with batches; this is one point near the start, with all patients.

    The gradient is exact: the logit of one patient is Gaussian, and Gauss-Hermite quadrature takes it from there.
    """
    from sklearn.datasets import load_breast_cancer

    features, label = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    sign = 2.0 * label - 1
    rng = np.random.default_rng(0)
    params = {"phi": {"mean": 0.1 * rng.normal(size=31), "log_var": np.full(31, -2.0)}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    standard = lambda like: distributions.Normal(jnp.zeros_like(like), jnp.zeros_like(like))

    def log_likelihood(z, data):
        return jnp.sum(jax.nn.log_sigmoid(data["sign"] * (z @ data["features"].T)), axis=-1)  # [K]

    def log_weight(reduce):
        def bound(params, data, expect):
            q = distributions.Normal(**params["phi"])
            return expect(q, lambda z: log_likelihood(z, data) + standard(z[0]).log_prob(z), reduce, 1.0)

        return bound

    def elbo_analytic(params, data, expect):
        q = distributions.Normal(**params["phi"])
        estimate = expect(q, lambda z: log_likelihood(z, data), mean)
        return estimate._replace(value=estimate.value - distributions.kl(q, standard(q.mean)))

    def expected(params):
        q = distributions.Normal(**params["phi"])
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        deviation = jnp.sqrt(jnp.square(features) @ jnp.exp(q.log_var))  # [N], of the patients' logits
        logits = (features @ q.mean)[:, None] + deviation[:, None] * nodes  # [N, 64]
        likelihood = jax.nn.log_sigmoid(sign[:, None] * logits) @ weights / np.sqrt(2 * np.pi)
        return jnp.sum(likelihood) - distributions.kl(q, standard(q.mean))

    def oracle(objective, num_samples):
        return None if objective == "iwae" and num_samples > 1 else _in_float64(jax.grad(expected), params)

    bounds = {"elbo": log_weight(mean), "elbo_analytic": elbo_analytic, "iwae": log_weight(log_mean_exp)}
    data = {"features": jnp.asarray(features, jnp.float32), "sign": jnp.asarray(sign, jnp.float32)}
    return Problem("logistic_regression", params, bounds, data, oracle, exact_by="quadrature, order 64")


# Linear-Gaussian models: z ~ N(prior, I), x ~ N(W z + offset, noise^2 I), q = N(A x + b, diag exp(log_var)).


class _Linear(NamedTuple):
    """The numbers of such a model; log_var is of q, log_noise of noise^2."""

    A: Any
    b: Any
    log_var: Any
    W: Any
    offset: Any
    log_noise: Any
    prior: Any


def _vae(params: dict[str, PyTree]) -> _Linear:
    return _Linear(**params["encoder"], **params["decoder"], prior=0.0)


def _rainforth(params: dict[str, PyTree]) -> _Linear:
    return _Linear(
        **params["phi"], log_var=np.log(2 / 3), W=1.0, offset=0.0, log_noise=0.0, prior=params["theta"]["mu"]
    )


def linear_gaussian(batch_size: int = 8) -> Problem:
    """The linear-Gaussian VAE (Lucas et al. 2019, arXiv:1911.02469) with an encoder that is not yet right."""
    rng, data_dim, latent_dim = np.random.default_rng(0), 6, 3
    encoder = {
        "A": 0.3 * rng.normal(size=(latent_dim, data_dim)),
        "b": 0.3 * rng.normal(size=latent_dim),
        "log_var": -0.6 + 0.3 * rng.normal(size=latent_dim),
    }
    decoder = {
        "W": rng.normal(size=(data_dim, latent_dim)) / np.sqrt(latent_dim),
        "offset": 0.3 * rng.normal(size=data_dim),
        "log_noise": np.asarray(-0.7),
    }
    x = rng.normal(size=(batch_size, data_dim)) @ rng.normal(size=(data_dim, data_dim)) / np.sqrt(data_dim)
    return _linear("linear_gaussian", {"encoder": encoder, "decoder": decoder}, x, _vae)


def rainforth(batch_size: int = 16) -> Problem:
    """The model of "Tighter Variational Bounds are Not Necessarily Better" (Rainforth et al. 2018, arXiv:1802.04537):
    z ~ N(mu, I), x ~ N(z, I), q = N(A x + b, 2/3 I), a little away from its optimum mu = mean x, A = I / 2, b = mu / 2.

    `batch_size` of its 1024 data are looked at. For K from 4 to 256 the SNR of an importance-weighted gradient grows
    with sqrt(K) for theta and falls with it for phi; DReG's grows for both.
    """
    rng, data_dim = np.random.default_rng(0), 20
    x = rng.normal(size=data_dim) + np.sqrt(2) * rng.normal(size=(1024, data_dim))
    near = lambda leaf: leaf + 0.01 * rng.normal(size=leaf.shape)
    phi = {"A": near(np.eye(data_dim) / 2), "b": near(x.mean(0) / 2)}
    return _linear("rainforth", {"phi": phi, "theta": {"mu": near(x.mean(0))}}, x[:batch_size], _rainforth)


def _linear(name: str, params: dict[str, PyTree], x: np.ndarray, model: Callable) -> Problem:
    def apply(params, *args, method: str):
        return _METHODS[method](model(params), *args)

    def bound(objective):
        return lambda params, x, expect: objective(apply, params, x, expect)

    def oracle(objective, num_samples):
        if objective == "iwae" and num_samples > 1:
            return None
        return _in_float64(jax.grad(lambda params: jnp.mean(_linear_elbo(model(params), x))), params)

    names = {"elbo": objectives.elbo, "elbo_analytic": objectives.elbo_analytic(), "iwae": objectives.iwae}
    bounds = {key: bound(objective) for key, objective in names.items()}
    params, data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x))
    return Problem(name, params, bounds, data, oracle, context=data)


def _project(matrix, z):
    """matrix z, for a matrix or for a multiple of the identity."""
    return z @ jnp.swapaxes(matrix, -1, -2) if jnp.ndim(matrix) else matrix * z


def _encode(m: _Linear, x):
    centre = _project(m.A, x) + m.b
    return distributions.Normal(centre, jnp.broadcast_to(jnp.asarray(m.log_var, centre.dtype), centre.shape))


def _prior(m: _Linear):
    centre = jnp.zeros_like(m.b) + m.prior
    return distributions.Normal(centre, jnp.zeros_like(centre))


def _log_likelihood(m: _Linear, x, z):
    centre = _project(m.W, z) + m.offset
    noise = jnp.broadcast_to(jnp.asarray(m.log_noise, centre.dtype), centre.shape)
    return distributions.Normal(centre, noise).log_prob(x)


_METHODS = {
    "encode": _encode,
    "prior_distribution": _prior,
    "log_likelihood": _log_likelihood,
    "log_joint": lambda m, x, z: _log_likelihood(m, x, z) + _prior(m).log_prob(z),
    "kl_to_prior": lambda m, q: distributions.kl(q, _prior(m)),
}


def _linear_elbo(m: _Linear, x):
    """`[B]`, in closed form: W z spreads q's variances over x by the squares of its columns."""
    q = _encode(m, x)
    columns = jnp.sum(jnp.square(m.W), axis=0) if jnp.ndim(m.W) else jnp.square(m.W)
    spread = 0.5 * jnp.sum(columns * jnp.exp(q.log_var), axis=-1) / jnp.exp(m.log_noise)
    return _log_likelihood(m, x, q.mean) - spread - distributions.kl(q, _prior(m))


# A trained VAE


def of_workdir(
    path: str,
    objective: str | None = None,
    split: str = "test",
    batch_size: int | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    at: str = "latest",
) -> list[Problem]:
    """A trained run at the checkpoint `at` (latest, best or an epoch's number; "all" for each that there is), on the
    first `batch_size` images of `split` (the run's own batch size if None); grey pixels of a dynamically binarized run
    are drawn once.

    Raises:
      ValueError: if the folder holds no run, one that diverged or is of other data, or no such checkpoint.
    """
    folder = RunFolder(path)
    run = folder.settings()
    found = checkpoint.steps(folder.checkpoints)
    if not found:
        raise ValueError(f"--workdir={path} holds no checkpoint; let the run train until its first evaluation")
    epoch = None if at == "all" else folder.epoch_of(at)
    wanted = [[epoch] for epoch in found] if at == "all" else [None if epoch is None else [epoch]]
    if (result := folder.result()) and result["status"] == "diverged":
        raise ValueError(f"--workdir={path} diverged at step {result['step']}; its checkpoints are of no trained model")
    data = build.load_trained(run, data_dir, cache_dir)
    folder.check_data(data)
    images = getattr(data, split)
    batch_size = batch_size or run.batch_size
    if batch_size > len(images):
        raise ValueError(f"--batch_size={batch_size} is larger than the {len(images)} {split} images")
    x = jnp.asarray(datasets.pixels(images[:batch_size], data.levels))
    if run.binarization == "dynamic":
        x = datasets.binarize(jax.random.key(0), x)
    values = build.arrays(run)
    program = build.program(run, data)  # the one that was trained; the bound may be one that its estimator does not fit
    trained, run = run, run if objective is None else replace(run, objective=objective)
    apply = program.model.apply  # not the program, which would keep the whole data set in memory
    build.forget_data()

    def bound(groups, data, expect):
        chosen = build.objective(run, values, data["epoch"])
        return chosen(apply, {"params": groups}, data["x"], expect)

    like, problems, bounds = jax.eval_shape(program.init, values), [], {run.objective: bound}
    for epochs in wanted:
        restored = checkpoint.restore(folder.checkpoints, like, at=epochs)
        if restored is None:
            continue
        epoch, state = restored[0], jax.tree.map(jnp.asarray, restored[1])
        groups = state.params["model"]["params"]
        groups = {name: groups[name] for name in sorted(groups, key=lambda n: (n != "encoder", n))}
        at = {"x": x, "epoch": jnp.asarray(float(epoch))}
        point = {"epoch": epoch}
        learned = (run.estimator, (state.params["estimator"], state.estimator_state)) if run == trained else None
        by_layer = run.by_layer and run.objective == "elbo"
        as_trained = {"temperature": run.temperature, "by_layer": by_layer, "num_samples": run.num_samples}
        problem = Problem(run.dataset, groups, bounds, at, context=x, point=point, learned=learned, **as_trained)
        problems.append(problem)
    if not problems:
        which = "none of its checkpoints" if at in ("all", "latest") else f"--checkpoint={at}"
        raise ValueError(f"--workdir={path}: {which} can be read")
    return problems


def _in_float64(gradient: Callable, params: PyTree) -> PyTree:
    with jax.enable_x64(True):
        found = gradient(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
