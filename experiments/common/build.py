"""From settings to the library's objects: the one place that maps flags to functions."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.common.options import entry, has_temperature
from experiments.common.settings import ARRAYS, Settings
from vae import data as datasets
from vae import estimators, models, objectives, train
from vae.devices import host_memory

# Of the memory, what training images may take; several processes of one host may share it.
RESIDENT = 0.25


class Program(NamedTuple):
    """One compiled program's worth of training: pure functions of array-valued settings, `arrays` below.

    Attributes:
      model: the linen VAE.
      judged: the same for figures and pictures: of relaxed latents, the one with the discrete latents they stand for.
      init: `init(arrays) -> TrainState`.
      epoch: `epoch(state, arrays, data) -> (state, metrics)` over data `[N, H, W, C]` in their own dtype.
      order, chunk: what `vae.streaming.Epoch` makes an epoch of all runs of, where the data are not on the device.
      steps_per_epoch: updates in an epoch.
    """

    model: models.VAE
    judged: models.VAE
    init: Any
    epoch: Any
    order: Any
    chunk: Any
    steps_per_epoch: int


def arrays(run: Settings) -> dict[str, Array]:
    """The array-valued settings of a run, which are arguments of its program and not part of it."""
    dtype = lambda value: jnp.int32 if isinstance(value, int) else jnp.float32
    return {name: jnp.asarray(getattr(run, name), dtype(getattr(run, name))) for name in ARRAYS}


@functools.cache
def _load(
    dataset: str, binarization: str, validation_size: int, data_dir: str | None, cache_dir: str | None, max_bytes: float
):
    data = datasets.load(dataset, data_dir, validation_size, cache_dir, max_bytes)
    if binarization in ("static", "threshold") and not isinstance(data.train, np.ndarray):
        raise ValueError(
            f"--binarization={binarization} needs the training images in memory, and those of --dataset={dataset} are "
            "too large for it; choose --binarization=dynamic, or --streaming=off"
        )
    return datasets.fix_binarization(data, binarization)


_mean_images: dict[str, tuple[float, ...]] = {}  # by checksum: of images on disk each takes a decoding of all of them


def _mean_image(data: datasets.Dataset) -> tuple[float, ...]:
    if data.checksum not in _mean_images:
        _mean_images[data.checksum] = datasets.mean_image(data)
    return _mean_images[data.checksum]


def forget_data() -> None:
    """Lets go of the data sets that `load_data` keeps for the next run."""
    _load.cache_clear()
    _mean_images.clear()


def load_data(
    run: Settings, data_dir: str | None, cache_dir: str | None = None, streaming: str = "auto"
) -> datasets.Dataset:
    """The data set with its held-out splits binarized as the run says, checked against the run's other settings."""
    size = max_bytes(streaming)
    data = _load(run.dataset, run.binarization, run.validation_size, data_dir, cache_dir, size)
    if run.batch_size > len(data.train):
        raise ValueError(f"--batch_size={run.batch_size} is larger than the {len(data.train)} training images")
    if run.likelihood == "discretized_logistic" and data.levels == 0:
        raise ValueError("--likelihood=discretized_logistic needs grey levels; save uint8 images or take gaussian")
    return data


def load_trained(run: Settings, data_dir: str | None, cache_dir: str | None = None) -> datasets.Dataset:
    """The data set of a run that was trained: images that are binarized for good were in memory, and are again."""
    return load_data(run, data_dir, cache_dir, "off" if run.binarization in ("static", "threshold") else "auto")


def max_bytes(streaming: str) -> float:
    """How large the training images may be to lie in the device's memory, and in the host's before.

    `streaming`: on (not at all), off (without a limit), auto (a part of both memories; states and activations need the
    rest).
    """
    if streaming != "auto":
        return 0 if streaming == "on" else math.inf
    device = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return RESIDENT * min(device, host_memory.limit())


def model(run: Settings, data: datasets.Dataset, judged: bool = False) -> models.VAE:
    """The VAE of the run for images of this data set; `judged`: with the latents that a relaxation stands for."""
    posterior = _posterior(run)
    slope = {"negative_slope": run.negative_slope} if run.activation == "leaky_relu" else {}
    return models.make_vae(
        data.train.shape[1:],
        latent_dim=run.latent_dim,
        hidden=run.hidden,
        layer_hidden=run.layer_hidden,
        architecture=run.architecture,
        activation=models.ACTIVATIONS[run.activation](**slope),
        likelihood=run.likelihood,
        posterior=posterior.hard or posterior if judged else posterior,
        prior="learned" if run.learn_prior else "standard",
        levels=data.levels,
        data_mean=_mean_image(data) if run.data_mean else (),
        compute_dtype=run.compute_dtype,
    )


def _posterior(run: Settings) -> models.Posterior:
    """The posterior of the run, with those of its options that the run sets."""
    make = models.POSTERIORS[run.posterior]
    options = {"categories": run.categories, "temperature": run.temperature, "signed": run.signed_bits}
    known = inspect.signature(make).parameters
    if run.signed_bits and "signed" not in known:
        raise ValueError("--signed_bits is for binary latents; choose --posterior=bernoulli or binary_concrete")
    return make(**{name: value for name, value in options.items() if name in known and value})


@functools.cache
def estimator(name: str, num_samples: int, temperature: float = 0.0, by_layer: bool = False) -> estimators.Estimator:
    """The estimator spelled so. A temperature is for those that have one, 0 is their own; `by_layer` is for those that
    can take layers one by one."""
    options, found = {"temperature": temperature} if temperature and has_temperature(name) else {}, entry(name)
    made = found.make(num_samples=num_samples, **options)
    return estimators.layerwise(made) if by_layer and not found.differentiates_f else made


def objective(run: Settings, values: dict[str, Array], epoch: Array):
    """The bound of the run at a (fractional) epoch, with array-valued settings from `values`."""
    if run.objective in ("elbo", "iwae"):
        return getattr(objectives, run.objective)
    if run.objective == "renyi":
        return objectives.renyi(run.alpha)
    if run.objective == "thermodynamic":
        return objectives.thermodynamic(partitions=run.partitions)
    beta = values["beta"]
    if run.kl_warmup:
        beta = beta * jnp.minimum(1.0, epoch / values["kl_warmup"])
    return objectives.elbo_analytic(beta, values["free_bits"] if run.free_bits else 0.0)


def optimizer(run: Settings, values: dict[str, Array], total_steps: int) -> optax.GradientTransformation:
    """Adam with the run's schedule, rates and clipping. Model and estimator are clipped apart: the gradient that a
    control variate learns by may be a thousand times the model's, and would scale it down."""
    adam = lambda name: optax.adam(learning_rate(run, values[name], total_steps), eps=run.adam_epsilon)
    parts = {"model": "model", "estimator": "estimator"}
    tx = adam("learning_rate")
    if run.cv_learning_rate:
        tx = optax.partition({"model": tx, "estimator": adam("cv_learning_rate")}, parts)
    if not run.clip_norm:
        return tx
    clip = optax.partition({part: optax.clip_by_global_norm(values["clip_norm"]) for part in parts}, parts)
    return optax.chain(clip, tx)


def learning_rate(run: Settings, peak: Array, total_steps: int):
    """The run's schedule, a function of the step, or the constant."""
    if run.schedule == "constant":
        return peak
    if run.schedule == "cosine":
        return optax.cosine_decay_schedule(peak, total_steps)
    if run.schedule == "linear":
        return optax.linear_schedule(peak, 0.0, total_steps)
    # Burda, Grosse & Salakhutdinov (2015), section 5: stage i = 0, ..., 7 has 3^i epochs at 10^(-i/7) of the peak.
    ends = {total_steps // run.epochs * (3**i // 2): 10 ** (-1 / 7) for i in range(1, 8)}
    return optax.piecewise_constant_schedule(peak, ends)


def program(run: Settings, data: datasets.Dataset) -> Program:
    """The program that trains `run` and every other run that differs from it in array-valued settings alone.

    Raises:
      ValueError, NotImplementedError: at once, by tracing a step, if the settings do not go together.
    """
    vae, estimate = model(run, data), estimator(run.estimator, run.num_samples, run.temperature, run.by_layer)
    steps_per_epoch = len(data.train) // run.batch_size
    x = jnp.zeros((run.batch_size, *data.train.shape[1:]))
    _check_estimator(run, vae, x)

    def keys(values):
        return jax.random.split(jax.random.key(values["seed"]), 2)

    def init(values) -> train.TrainState:
        return train.make_init(vae, estimate, optimizer(run, values, run.epochs * steps_per_epoch), x)(keys(values)[0])

    def make_step(values):
        tx = optimizer(run, values, run.epochs * steps_per_epoch)

        def step(state, key, batch):
            key_binarize, key_step = jax.random.split(key)
            x = datasets.pixels(batch, data.levels)
            x = datasets.binarize(key_binarize, x) if run.binarization == "dynamic" else x
            bound = objective(run, values, state.step / steps_per_epoch)
            return train.make_step(vae.apply, bound, estimate, tx)(state, key_step, x)

        return step

    def epoch(state, values, images):
        return train.make_epoch(make_step(values), run.batch_size)(state, keys(values)[1], images)

    def order(values, step):
        return train.make_order(len(data.train), run.batch_size)(keys(values)[1], step)

    def chunk(state, values, batches):
        return train.make_chunk(make_step(values))(state, keys(values)[1], batches)

    values = arrays(run)
    state = jax.eval_shape(init, values)
    jax.eval_shape(epoch, state, values, jax.ShapeDtypeStruct(data.train.shape, data.train.dtype))
    return Program(vae, model(run, data, judged=True), init, epoch, order, chunk, steps_per_epoch)


def expectations(bound: Callable) -> list[tuple[Any, estimators.Reduction, float]]:
    """What `bound(expect)` hands to its estimator: each q, the reduction of its samples, and its log_q_weight."""
    calls = []

    def expect(q, f, reduce=estimators.mean, log_q_weight=0.0):
        calls.append((q, reduce, log_q_weight))
        return estimators.Estimate(jnp.zeros(q.batch_shape), jnp.zeros(()), {})

    bound(expect)
    return calls


def _check_estimator(run: Settings, vae: models.VAE, x: Array) -> None:
    """Refuses an estimator that cannot differentiate the run's bound of its latents, and names those that can."""
    found, reductions, key = entry(run.estimator), [], jax.random.key(0)

    def encoded():
        params, bound = vae.init(key, x, key), objective(run, arrays(run), jnp.zeros(()))
        [(q, reduce, log_q_weight)] = expectations(lambda expect: bound(vae.apply, params, x, expect))
        reductions.append((reduce, log_q_weight))
        return q

    q = jax.eval_shape(encoded)
    [(reduce, log_q_weight)] = reductions
    if run.by_layer:
        q = q.first
    if refusal := found.refusal(q, reduce, log_q_weight):
        raise ValueError(
            f"--estimator={run.estimator} does not suit --posterior={run.posterior} with --objective={run.objective}: "
            f"{refusal}"
        )


def bits_per_dim(nats: float, data: datasets.Dataset, likelihood: str) -> float:
    """Bits per pixel and channel of `nats` per image.

    A Gaussian density of pixels in [0, 1] is converted to units of one grey level, the scale on which a density is
    comparable with the mass of the discretized logistic.
    """
    pixels = math.prod(data.train.shape[1:])
    offset = math.log2(max(data.levels - 1, 1)) if likelihood == "gaussian" else 0.0
    return nats / pixels / math.log(2) + offset
