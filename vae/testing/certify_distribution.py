"""`certify_distribution`: tests a family of distributions by simulation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from vae.diagnostics.intervals import critical_z
from vae.distributions import kl
from vae.testing.certificate import Check, DistributionCertificate
from vae.testing.moments import Moments
from vae.testing.references import Reference, Support, fit_reference

# The probability that a right distribution is not certified, if the means of the draws are normal variables. Some draws
# are skewed, so the level is lower than that of `certify`.
LEVEL = 0.001
# Draws are added until there are so many, and the standard error of the normalization is below this number.
DRAWS = 2**17
MAX_STDERR = 0.005
# The rounding error of float32, relative to the largest numbers that a check compares.
ROUNDING = 1e-5
CHUNK = 2**12
PILOT = 2**12
WAVES = 4
CHECKS = ("normalization", "score", "rsample", "path", "mean", "variance", "entropy", "kl")


def certify_distribution(
    make: Callable[[Any], Any],
    parameters: Any,
    *,
    support: str | Support = "real",
    prior: Any = None,
    omit: tuple[str, ...] = (),
    seed: int = 0,
    max_draws: int = 2**21,
) -> DistributionCertificate:
    """Tests whether the methods of a distribution agree with each other and with its samples.

        parameters = {"mean": jnp.array([[0.3, -0.5]]), "log_scale": jnp.array([[0.1, -0.4]])}
        certified = vae.testing.certify_distribution(lambda p: Logistic(**p), parameters)
        assert certified, certified

    The checks are these; those of methods that the distribution does not have are left out.

      shapes: `sample`, `rsample` and `log_prob` have the right shapes, also under jit and vmap, where their numbers are
        the same; log q of a sample is the same without the other samples; samples are different numbers; `sample`
        carries no gradient, and `rsample_and_log_prob` returns log q of its samples.
      normalization: E[p0 / (p0 + q)] under q is E[q / (p0 + q)] under p0, a density that is fitted to samples, so that
        log q(z) has no wrong constant.
      score: E[d log q(z)] = 0 in each parameter.
      rsample: sines and cosines of z have the same means under `rsample` and `sample`.
      path: the derivatives of these means through `rsample` are those through log q(z).
      mean, variance, entropy: the attribute, or the result of the method, is E[z], E[(z - mean)^2] or E[-log q(z)].
      kl: `vae.distributions.kl(q, prior)` is E[log q(z) - log p(z)].

    At least 131,072 draws are made, and more until the standard error of the normalization is below 0.005. The density
    p0 is positive also beyond the samples. There, log_prob must be -inf wherever q is 0, unless `support` excludes
    these values. The verdict allows for chance, with which a right distribution should fail in 0.1 % of seeds.

    Args:
      make: a function from the parameters to a distribution.
      parameters: a pytree of floats. Use few dimensions, and give the data of a batch different parameters.
      support: the values of z: "real", "positive", "unit" for (0, 1), "simplex", "sphere", "discrete", or a pair of
        functions: one from z to (y, log |det dy/dz|) that maps all values to all of R^n, and its inverse.
      prior: a distribution p for the check "kl".
      omit: checks to leave out, such as "mean" of a family whose `mean` is something else.
      seed: the seed of the keys.
      max_draws: number of draws after which the normalization is given up.

    Raises:
      ValueError: if there is no such support or samples are outside of it, if there is no check of a name in `omit`, or
        if parameters are not floats.
      TypeError: if `make` is not a function, or returns no distribution.
      NotImplementedError: if `prior` is given and the divergence has no closed form.
    """
    if unknown := [name for name in omit if name not in CHECKS]:
        raise ValueError(f"there is no check {unknown[0]!r} to omit; choose some of {', '.join(CHECKS)}")
    _check_arguments(make, parameters, prior)
    key_pilot, key_draws = jax.random.split(jax.random.key(seed))
    if fault := _fault(make, parameters, key_pilot):
        return DistributionCertificate(False, fault, {}, np.nan, 0)
    drawn, log_q = jax.jit(lambda parameters: _draw(make(parameters), key_pilot, PILOT))(parameters)
    if support != "discrete" and (fault := _repetition(drawn)):
        return DistributionCertificate(False, fault, {}, np.nan, 0)
    pilot = drawn["sample"]
    waves = _waves(pilot)
    usual = {"path": jnp.mean(jax.jit(jax.vmap(waves))(pilot), axis=0)}
    p0 = None
    if "normalization" not in omit:
        p0 = fit_reference(support, pilot)
        log_ratio = jax.jit(jax.vmap(p0.log_prob))(pilot) - log_q
        usual["normalization"] = jnp.maximum(jnp.mean(jax.nn.sigmoid(log_ratio), axis=0), 1 / PILOT)

    @jax.jit
    def chunk(key, z0):
        """Chunk of differences `[CHUNK, ...]` of each check, and the sizes `[...]` of what is compared."""
        compare = lambda key, z0: _pairs(make, parameters, key, z0, p0, waves, usual, prior, omit)
        pairs = jax.vmap(compare)(jax.random.split(key, CHUNK), z0)
        differences = {name: left - right for name, (left, right) in pairs.items()}
        size = lambda left, right: jnp.sqrt(jnp.mean(jnp.square(left) + jnp.square(right), axis=0))
        return differences, {name: size(*pair) for name, pair in pairs.items()}

    moments: dict[str, Moments] = {}
    rng = np.random.default_rng(seed)
    count, stderr = 0, 0.0
    while count < DRAWS or (count < max_draws and stderr >= MAX_STDERR):
        z0 = p0.sample(rng, CHUNK) if p0 is not None else None
        differences, sizes = jax.device_get(chunk(jax.random.fold_in(key_draws, count // CHUNK), z0))
        count += CHUNK
        for name, difference in differences.items():
            moments[name] = moments.get(name, Moments()).add(np.float64(difference).reshape(CHUNK, -1))
        if p0 is not None:
            stderr = float(np.max(moments["normalization"].stderr))
    critical = critical_z(sum(each.mean.size for each in moments.values()), count, LEVEL)
    checks = {}
    for name in sorted(moments, key=CHECKS.index):
        each = moments[name]
        repeats = {"score": 1, "path": WAVES}.get(name)
        shape = differences[name].shape[1:]
        names = _parameter_names(parameters, repeats) if repeats else [str(list(index)) for index in np.ndindex(shape)]
        checks[name] = _worst(each, np.ravel(sizes[name]), names)
    reason = _reason(checks, critical, stderr, support)
    return DistributionCertificate(not reason, reason, checks, critical, count)


def _pairs(
    make: Callable,
    parameters: Any,
    key: PRNGKeyArray,
    z0: Array | None,
    p0: Reference | None,
    waves: Callable,
    usual: dict[str, Array],
    prior: Any,
    omit: tuple[str, ...],
) -> dict[str, tuple[Array, Array]]:
    """What one draw compares in each check: a pair of arrays with the same expectation.

    `z0` is a sample of p0. `usual` are means in the pilot. Those of the waves are a baseline, which reduces the
    variance of a score function. That of the normalization makes its deviation the relative error of q.
    """
    key_z, key_path = jax.random.split(key)
    q = make(parameters)
    batch = len(q.batch_shape)
    event = lambda samples: _flat(samples, 1 + batch)[0]  # [*batch, d]
    log_prob = lambda parameters, samples: make(parameters).log_prob(samples)[0]  # [*batch]
    samples = q.sample(key_z, 1)
    z, log_q = event(samples), log_prob(parameters, samples)
    pairs = {}
    if p0 is not None:
        under_q = jax.nn.sigmoid(p0.log_prob(z) - log_q)
        under_p0 = jax.nn.sigmoid(log_prob(parameters, _event(z0, samples)) - p0.log_prob(z0))
        pairs["normalization"] = under_q / usual["normalization"], under_p0 / usual["normalization"]
    score = _parameters(jax.grad(lambda parameters: jnp.sum(log_prob(parameters, samples)))(parameters))
    pairs["score"] = score, jnp.zeros_like(score)
    if getattr(q, "rsample", None) is not None:
        sum_of_data = lambda values: jnp.sum(values.reshape(len(values), -1), axis=1)
        drawn = jax.lax.stop_gradient(q.rsample(key_path, 1))
        pairs["rsample"] = waves(event(drawn)), waves(z)
        moved = lambda parameters: sum_of_data(waves(event(make(parameters).rsample(key_path, 1))))
        weighted = lambda parameters: sum_of_data((waves(event(drawn)) - usual["path"]) * log_prob(parameters, drawn))
        pairs["path"] = tuple(_parameters(jax.jacrev(mean)(parameters)) for mean in (moved, weighted))
    if hasattr(q, "mean"):
        mean = _flat(q.mean, batch)
        pairs["mean"] = z, mean
        if hasattr(q, "variance"):
            pairs["variance"] = jnp.square(z - mean), _flat(_called(q.variance), batch)
    if hasattr(q, "entropy"):
        pairs["entropy"] = -log_q, _called(q.entropy)
    if prior is not None:
        pairs["kl"] = log_q - prior.log_prob(samples)[0], kl(q, prior)
    return {name: pair for name, pair in pairs.items() if name not in omit}


def _waves(pilot: Array) -> Callable[[Array], Array]:
    """A function z `[*batch, d]` -> two sines and two cosines of directions of z, `[4, *batch]`.

    They are bounded, so that their means and the variances of their derivatives exist for every family.
    """
    low, middle, high = jnp.quantile(pilot, jnp.array([0.2, 0.5, 0.8]), axis=0)
    scale = jnp.where(high > low, high - low, 1.7) / 1.7  # the standard deviation of a Gaussian
    directions = np.float32(np.random.default_rng(0).normal(size=(2, pilot.shape[-1])))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)

    def waves(z):
        u = jnp.stack([jnp.sum((z - middle) / scale * direction, axis=-1) for direction in directions])
        return jnp.concatenate([jnp.sin(u), jnp.cos(1.5 * u)])

    return waves


def _flat(z: Any, lead: int) -> Array:
    """Events on one axis, after `lead` other axes; the parts of a tuple one after the other."""
    leaves = jax.tree.leaves(z)
    return jnp.concatenate([jnp.reshape(leaf, (*leaf.shape[:lead], -1)) for leaf in leaves], axis=-1)


def _event(z: Array, samples: Any) -> Any:
    """One sample from its events on one axis `[*batch, d]`, with the structure of `samples`."""
    leaves, structure = jax.tree.flatten(samples)
    lead = z.ndim - 1
    sizes = [math.prod(leaf.shape[1 + lead :]) for leaf in leaves]
    parts = jnp.split(z, np.cumsum(sizes)[:-1], axis=-1)
    return structure.unflatten(
        [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    )


def _parameters(derivative: Any) -> Array:
    """Derivatives in all parameters on one axis."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(derivative)])


def _called(value: Any) -> Array:
    return value() if callable(value) else value


def _check_arguments(make: Callable, parameters: Any, prior: Any) -> None:
    """Refuses arguments with which nothing can be tested."""
    if not callable(make):
        raise TypeError(f"make is a function from the parameters to a distribution, not a {type(make).__name__}")
    if not jax.tree.leaves(parameters):
        raise ValueError("there are no parameters; give those of the distribution, whose gradients are tested")
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"the parameter {name} is not a float; keep other numbers within make")
    q = make(parameters)
    for name in ("batch_shape", "sample", "log_prob"):
        if not hasattr(q, name):
            raise TypeError(f"make returns a {type(q).__name__}, which has no {name}; a distribution needs one")
    if prior is not None:
        jax.eval_shape(lambda: kl(q, prior))


def _draw(q: Any, key: PRNGKeyArray, num_samples: int) -> tuple[dict[str, Array], Array]:
    """Samples of one call `[K, *batch, d]` of each method, and log q of those of `sample`."""
    drawn = {name: getattr(q, name)(key, num_samples) for name in ("sample", "rsample") if getattr(q, name, None)}
    return {name: _flat(z, 1 + len(q.batch_shape)) for name, z in drawn.items()}, q.log_prob(drawn["sample"])


def _repetition(drawn: dict[str, Array]) -> str:
    """Which samples are discrete or repeat each other, although they should be continuous; empty if none do."""
    for name, samples in drawn.items():
        columns = np.asarray(samples).reshape(PILOT, -1, samples.shape[-1])
        data = range(columns.shape[1])
        if any(np.all(columns[:, b] == np.round(columns[:, b])) for b in data):
            return f'{name} gives whole numbers; give support="discrete"'
        # Continuous samples have some repetitions, because they are rounded to 24 bits or to the ends of an interval.
        if any(len(np.unique(columns[:, b], axis=0)) < 0.9 * PILOT for b in data):
            return f'samples of one call of {name} repeat each other; give support="discrete" if they are discrete'
        if len(np.unique(columns, axis=1)[0]) < len(data):
            return f"{name} gives several data of the batch the same samples"
    return ""


def _fault(make: Callable, parameters: Any, key: PRNGKeyArray) -> str:
    """What is wrong with shapes, jit, vmap and the gradient of `sample`; empty if nothing is."""
    draw = lambda parameters: make(parameters).sample(key, 3)
    log_prob = lambda parameters, z: make(parameters).log_prob(z)
    q, z = make(parameters), jax.jit(draw)(parameters)
    lead = (3, *q.batch_shape)
    if any(leaf.shape[: len(lead)] != lead for leaf in jax.tree.leaves(z)):
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(z)]
        return f"3 samples have the shapes {shapes}, and must begin with {list(lead)}"
    log_q = jax.jit(log_prob)(parameters, z)
    if log_q.shape != lead:
        return f"log_prob of 3 samples has the shape {list(log_q.shape)}, and must have {list(lead)}"
    near = lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)
    for k in range(3):
        if not near(log_q[k], log_prob(parameters, jax.tree.map(lambda leaf: leaf[k : k + 1], z))[0]):  # noqa: B023
            return "log_prob of 3 samples differs from log_prob of each alone"
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (parameters, z))
    if not near(log_q, log_prob(parameters, z)):
        return "log_prob under jit differs from log_prob"
    if not near(log_q, jax.jit(jax.vmap(log_prob))(*two)[0]):
        return "log_prob under vmap differs from log_prob"
    sum_of_samples = lambda parameters: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(draw(parameters)))
    if any(np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(sum_of_samples))(parameters))):
        return "sample carries a gradient; use stop_gradient"
    if getattr(q, "rsample", None) is not None:
        drawn = jax.eval_shape(lambda parameters: make(parameters).rsample(key, 3), parameters)
        if [leaf.shape for leaf in jax.tree.leaves(drawn)] != [leaf.shape for leaf in jax.tree.leaves(z)]:
            shapes = [list(leaf.shape) for leaf in jax.tree.leaves(drawn)]
            return f"3 samples of rsample have the shapes {shapes}, unlike those of sample"
    if getattr(q, "rsample", None) is not None and hasattr(q, "rsample_and_log_prob"):
        z, log_q = jax.jit(lambda parameters: make(parameters).rsample_and_log_prob(key, 3))(parameters)
        if not near(log_q, jax.jit(log_prob)(parameters, z)):
            return "rsample_and_log_prob returns another log q(z) than log_prob of its samples"
    return ""


def _parameter_names(parameters: Any, repeats: int) -> list[str]:
    """The names of all coordinates, those of each leaf `repeats` times."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        names += repeats * [f"{name}{list(index)}" for index in np.ndindex(np.shape(leaf))]
    return names


def _worst(moments: Moments, size: np.ndarray, names: list[str]) -> Check:
    """The coordinate with the largest |z|, or the first one that is not finite. Equal numbers have a z of 0."""
    error = np.hypot(moments.stderr, ROUNDING * np.max(size))
    z = np.where(moments.mean == 0, 0.0, moments.mean / np.where(error > 0, error, 1))
    worst = int(np.argmax(np.abs(z)))
    return Check(names[worst], float(moments.mean[worst]), float(error[worst]), float(z[worst]))


def _reason(checks: dict[str, Check], critical: float, stderr: float, support: str | Support) -> str:
    """Why the distribution is not certified: the first check that failed; empty if none did."""
    named = f" over the support {support!r}" if isinstance(support, str) else ""
    about = lambda name: named if name == "normalization" else ""
    for name, check in checks.items():
        if not np.isfinite(check.z):
            return f"{name} is not finite at {check.coordinate}{about(name)}"
    if stderr >= MAX_STDERR:
        return f"the standard error of the normalization is {stderr:.2g}; test fewer dimensions, or omit the check"
    for name, check in checks.items():
        if abs(check.z) > critical:
            return f"{name} is wrong at {check.coordinate}{about(name)}"
    return ""
