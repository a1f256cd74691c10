"""From settings to the library's objects: data, model, estimator, objective, optimizer, and the program they make."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.common import grammar, settings
from experiments.common.grammar import Choice
from experiments.common.settings import Settings
from vae import data as datasets
from vae import models, objectives, train
from vae.devices import host_memory
from vae.diagnostics import expectations
from vae.diagnostics.expectations import Expectation

# The fraction of a memory that training images may fill. The rest is for states and activations, and for other
# processes on the same host.
RESIDENT_FRACTION = 0.25


class Functions(NamedTuple):
    """The pure functions that one compiled program is made of. They train every run of the program.

    The runs of a program differ only in the numbers that `arrays` returns, which are arguments of these functions. All
    other settings are part of the code. `jax.vmap` or `jax.lax.map` over stacked arguments therefore trains all runs of
    the program in one compiled function.

    Attributes:
      model: the linen VAE that is trained.
      evaluated: the VAE that is evaluated and drawn. It has discrete latents where `model` has their relaxations.
      state: the shapes of the state of one run.
      init: `init(arrays) -> TrainState`.
      epoch: `epoch(state, arrays, images) -> (state, metrics)` over images `[N, H, W, C]` of any dtype on the device.
      order: `order(arrays, step)`, the order of the images; for `vae.devices.streaming.Epoch`.
      chunk: `chunk(state, arrays, batches)`, a part of an epoch; for `vae.devices.streaming.Epoch`.
      steps_per_epoch: number of updates in an epoch.
    """

    model: models.VAE
    evaluated: models.VAE
    state: train.TrainState
    init: Any
    epoch: Any
    order: Any
    chunk: Any
    steps_per_epoch: int


def functions(run: Settings, data: datasets.Dataset) -> Functions:
    """The functions that train `run` and every other run of its program.

    Raises:
      ValueError, NotImplementedError: If the settings do not go together, which tracing an epoch shows.
    """
    vae = model(run, data)
    gradient = settings.build(run, "estimator", num_samples=run.num_samples)
    steps_per_epoch = len(data.train) // run.batch_size
    x = np.zeros((run.batch_size, *data.train.shape[1:]), np.float32)
    check_estimator(run, vae, x)
    like = _first_images(run, data) if settings.build(run, "prior").images_at_start else x

    def split_seed(values: dict[str, Array]) -> tuple[Array, Array]:
        key_init, key_epochs = jax.random.split(jax.random.key(values["seed"], impl=run.prng), 2)
        return key_init, key_epochs

    @jax.jit
    def init(values: dict[str, Array]) -> train.TrainState:
        key_init, _ = split_seed(values)
        return train.make_init(vae, gradient, optimizer(run, values, steps_per_epoch), like, run.ema)(key_init)

    def make_step(values: dict[str, Array]) -> Callable:
        tx = optimizer(run, values, steps_per_epoch)

        def step(state, key, batch):
            key_binarize, key_step = jax.random.split(key)
            x = training_pixels(run, data, key_binarize, batch)
            bound = objective(run, values, state.step / steps_per_epoch)
            return train.make_step(vae.apply, bound, gradient, tx, run.ema)(state, key_step, x)

        return step

    @jax.jit
    def epoch(state, values, images):
        _, key_epochs = split_seed(values)
        return train.make_epoch(make_step(values), run.batch_size)(state, key_epochs, images)

    def order(values, step):
        _, key_epochs = split_seed(values)
        return train.make_order(len(data.train), run.batch_size)(key_epochs, step)

    def chunk(state, values, batches):
        _, key_epochs = split_seed(values)
        return train.make_chunk(make_step(values))(state, key_epochs, batches)

    values = arrays(run)
    state = jax.eval_shape(init, values)
    jax.eval_shape(epoch, state, values, jax.ShapeDtypeStruct(data.train.shape, data.train.dtype))
    return Functions(vae, model(run, data, for_evaluation=True), state, init, epoch, order, chunk, steps_per_epoch)


def trained_functions(run: Settings, data: datasets.Dataset) -> Functions:
    """The functions of a run that was trained before, for its model. They have the default optimizer, because the code
    of the run's own may be missing."""
    return functions(dataclasses.replace(run, optimizer=Settings.optimizer), data)


def _first_images(run: Settings, data: datasets.Dataset) -> np.ndarray:
    """The training images at which the parameters of the run's prior start, evenly spaced in the training split."""
    count = min(settings.build(run, "prior").images_at_start, len(data.train))
    return datasets.pixels(data.train[np.arange(count) * len(data.train) // count], data.levels)


def arrays(run: Settings) -> dict[str, Array]:
    """The numbers of the run that are arguments of its program: int32 or float32 scalars."""
    dtype = lambda value: jnp.int32 if isinstance(value, int) else jnp.float32
    return {name: jnp.asarray(value, dtype(value)) for name, value in settings.array_values(run).items()}


# --- Data


@functools.cache
def _load(
    dataset: Choice,
    binarization: str,
    validation_size: int,
    data_dir: str | None,
    cache_dir: str | None,
    max_bytes: float,
) -> datasets.Dataset:
    data = datasets.load(dataset.name, data_dir, validation_size, cache_dir, max_bytes, **dict(dataset.options))
    if binarization in ("static", "threshold") and not isinstance(data.train, np.ndarray):
        raise ValueError(
            f"--binarization={binarization} cannot be used while --dataset={dataset} is streamed; choose"
            " --binarization=dynamic, or load the images into memory with --streaming=off"
        )
    return datasets.fix_binarization(data, binarization)


# The mean image of each data set, by its checksum. For images on disk, computing the mean decodes all of them.
_mean_images: dict[str, tuple[float, ...]] = {}


def _mean_image(data: datasets.Dataset) -> tuple[float, ...]:
    if data.checksum not in _mean_images:
        _mean_images[data.checksum] = datasets.mean_image(data)
    return _mean_images[data.checksum]


def forget_data() -> None:
    """Releases the data sets that `load_data` keeps in memory for the next run."""
    _load.cache_clear()
    _mean_images.clear()


def load_data(
    run: Settings, data_dir: str | None, cache_dir: str | None = None, streaming: str = "auto"
) -> datasets.Dataset:
    """The data set of the run, with its held-out splits binarized; streaming is on, off or auto.

    Raises:
      ValueError: If the data do not suit the run's other settings.
    """
    size = resident_bytes(streaming)
    data = _load(run.choice("dataset"), run.binarization, run.validation_size, data_dir, cache_dir, size)
    if run.batch_size > len(data.train):
        raise ValueError(f"--batch_size={run.batch_size} is larger than the {len(data.train)} training images")
    pixels = settings.build(run, "likelihood").pixels
    if data.has_counts and pixels != "counts":
        raise ValueError(
            f"--dataset={run.dataset} has counts; choose --likelihood={_for_counts()}, or save bits as"
            " bool and grey levels as uint8"
        )
    if pixels == "counts" and not data.has_counts:
        raise ValueError(f"--likelihood={run.likelihood} {settings.NEEDS_COUNTS}")
    if pixels == "grey levels" and data.levels == 0:
        raise ValueError(
            f"--likelihood={run.likelihood} needs grey levels; save uint8 images or choose --likelihood=gaussian"
        )
    return data


def _for_counts() -> str:
    return " or ".join(name for name, make in models.LIKELIHOODS.items() if make().pixels == "counts")


def training_pixels(run: Settings, data: datasets.Dataset, key: Array, images: Array | np.ndarray) -> Array:
    """The images as a training step of the run sees them, with values in [0, 1]. `key` draws their binarization."""
    x = jnp.asarray(datasets.pixels(images, data.levels))
    return jax.jit(datasets.binarize)(key, x) if run.binarization == "dynamic" else x


def first_batch(run: Settings, data: datasets.Dataset, split: str, batch_size: int) -> Array:
    """The first images of a split, as a training step sees them.

    Raises:
      ValueError: If the split has fewer images.
    """
    images = getattr(data, split)
    if not len(images):
        raise ValueError(f"--split={split}: the run has no {split} images; choose --split=test or train")
    if batch_size > len(images):
        raise ValueError(f"--batch_size={batch_size} is larger than the {len(images)} {split} images")
    return training_pixels(run, data, jax.random.key(0), images[:batch_size])


def load_trained(run: Settings, data_dir: str | None, cache_dir: str | None = None) -> datasets.Dataset:
    """The data set of a run that was trained before. Images that are binarized once are loaded into memory, as they
    were for the training."""
    return load_data(run, data_dir, cache_dir, "off" if run.binarization in ("static", "threshold") else "auto")


def resident_bytes(streaming: str) -> float:
    """The largest size of training images that are held in the memory of the host and of the device.

    Args:
      streaming: on (zero bytes), off (no limit), or auto (a part of the smaller memory).
    """
    if streaming == "on":
        return 0
    if streaming == "off":
        return math.inf
    device = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return RESIDENT_FRACTION * min(device, host_memory.limit())


def bits_per_dim(nats: float, data: datasets.Dataset, likelihood: models.Likelihood) -> float:
    """Bits for each pixel and channel, from nats for each image of grey levels or counts.

    The unit of length of a density of pixels in [0, 1] is converted to one grey level, so that the density can be
    compared with probabilities of grey levels. Floats have no grey level, so a density of them has no such bits.
    """
    pixels = math.prod(data.train.shape[1:])
    offset = math.log2(data.levels - 1) if likelihood.is_density else 0.0
    return nats / pixels / math.log(2) + offset


# --- Model, objective, optimizer


def model(run: Settings, data: datasets.Dataset, for_evaluation: bool = False) -> models.VAE:
    """The VAE of the run for images of this data set. `for_evaluation` replaces relaxed latents by discrete ones."""
    posterior = settings.build(run, "posterior")
    if for_evaluation and posterior.hard:
        posterior = posterior.hard
    return models.make_vae(
        data.train.shape[1:],
        latent_dim=run.latent_dim[0] if len(run.latent_dim) == 1 else run.latent_dim,
        hidden=run.hidden,
        layer_hidden=run.layer_hidden,
        inference=run.inference,
        architecture=settings.build(run, "architecture"),
        activation=settings.build(run, "activation"),
        likelihood=settings.build(run, "likelihood"),
        posterior=posterior,
        prior=settings.build(run, "prior"),
        levels=data.levels,
        data_mean=_mean_image(data) if run.data_mean else (),
        compute_dtype=run.compute_dtype,
    )


def objective(run: Settings, values: dict[str, Array], epoch: Array) -> objectives.Objective:
    """The bound of the run at a (fractional) epoch.

    Args:
      run: the settings.
      values: the result of `arrays(run)`.
      epoch: `[]`, the number of epochs before the present step.
    """
    arguments = _option_arrays("objective", values) | settings.epoch_argument(run, epoch)
    return settings.build(run, "objective", **arguments)


def bound(run: Settings, apply: Callable) -> Callable:
    """The bound of the run as a problem of the laboratory has it: `bound(groups, data, expect) -> Estimate`.

    `groups` are the model's parameters, and `data` has the images "x" and the epoch.
    """

    def bound(groups, data, expect):
        return objective(run, arrays(run), data["epoch"])(apply, {"params": groups}, data["x"], expect)

    return bound


def optimizer(run: Settings, values: dict[str, Array], steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of the run, with schedule, learning rates and clipping; `values` is the result of `arrays(run)`.

    Raises:
      ValueError: If an optimizer of the user is none, or the warm-up is as long as the run.
    """
    make = settings.build(run, "optimizer", **_option_arrays("optimizer", values))
    if not callable(make):
        kind = type(make).__name__
        raise ValueError(
            f"the factory of --optimizer={run.optimizer} returned a {kind}; return a function"
            " make(learning_rate, schedule) that returns it, as vae/README.md shows"
        )
    schedule = settings.build(run, "schedule")
    steps = run.epochs * steps_per_epoch
    tx = make(values["learning_rate"], lambda peak: schedule(peak, steps, steps_per_epoch))
    if not isinstance(tx, optax.GradientTransformation):
        kind = type(tx).__name__
        raise ValueError(f"--optimizer={run.optimizer} returned a {kind}; return an optax.GradientTransformation")
    return train.clip(tx, values["clip_norm"]) if run.clip_norm else tx


def _option_arrays(setting: str, values: dict[str, Array]) -> dict[str, Array]:
    """The array-valued options of a setting, without its name: "objective.beta" becomes "beta"."""
    prefix = f"{setting}."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def expectations_of(run: Settings, vae: models.VAE, x: Array | np.ndarray) -> list[Expectation]:
    """The expectations in the run's bound. Their distributions have shapes in place of arrays."""
    recorded: list[Expectation] = []

    def posteriors(x: Array) -> list[Any]:
        key = jax.random.key(0, impl=run.prng)  # nothing is drawn with this key: only shapes are computed
        params = vae.init(key, x, key)
        bound = objective(run, arrays(run), jnp.zeros(()))
        recorded.extend(expectations.record(lambda expect: bound(vae.apply, params, x, expect)))
        return [expectation.q for expectation in recorded]

    shapes = jax.eval_shape(posteriors, x)
    return [expectation._replace(q=q) for q, expectation in zip(shapes, recorded, strict=True)]


def check_estimator(run: Settings, vae: models.VAE, x: Array | np.ndarray) -> None:
    """Refuses an estimator that cannot differentiate the run's bound.

    Raises:
      ValueError: A sentence that names the flags and the estimators that fit.
    """
    choice = run.choice("estimator")
    for expectation in expectations_of(run, vae, x):
        refusal = grammar.refusal(choice, expectation)
        if refusal:
            raise ValueError(
                f"--estimator={run.estimator} does not suit --posterior={run.posterior} with"
                f" --objective={run.objective}: {refusal}"
            )
