"""The settings of one training run: name, type, default and bounds in one place. setting_flags.py makes flags of them.

The settings that choose from a table take options after the name: `--objective=renyi:alpha=0.2,renyi:alpha=0.5`.
"""

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from experiments.common import grammar
from experiments.common.optimizers import OPTIMIZERS
from experiments.common.schedules import SCHEDULES
from vae import estimators, models, objectives
from vae.data import BINARIZATIONS, DATASETS
from vae.models import priors

MATMUL_PRECISIONS = ("default", "bfloat16", "tensorfloat32", "float32")
COMPUTE_DTYPES = ("float32", "bfloat16")
# jax's generators of random numbers. Only the first draws the same numbers under vmap as alone.
PRNGS = ("threefry2x32", "rbg", "unsafe_rbg")
# What follows the name of a likelihood of counts in the error about other data.
NEEDS_COUNTS = "needs counts; give --dataset=npz:FILE with int32 counts, and --binarization=none"


def _setting(default, help, *, table=None, choices=(), at_least=None, above=None):
    """A field of `Settings`: a choice from a table of factories, one of a few words, or a number within bounds."""
    metadata = {"help": help, "table": table, "choices": choices, "at_least": at_least, "above": above}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All hyperparameters and the seed of one run: everything that decides its numbers."""

    # Data
    dataset: str = _setting(
        "digits",
        "Data set: digits (8x8, shipped with scikit-learn), mnist or another TFDS image set, frey_faces, or npz:PATH,"
        " a file of your own.",
        table=DATASETS,
    )
    binarization: str = _setting(
        "dynamic",
        "Way to make grey pixels binary: dynamic (drawn anew in every step), static (drawn once), threshold (at one"
        " half), or none (pixels stay grey).",
        choices=BINARIZATIONS,
    )
    validation_size: int = _setting(
        0,
        "Number of training images to hold out for validation. 0 keeps the data set's own split; without a validation"
        " split, learning curves show the test set.",
        at_least=0,
    )
    data_mean: bool = _setting(
        False,
        "Whether to subtract the mean training image from the encoder's input and add its logits to the decoder's"
        " output.",
    )

    # Model
    likelihood: str = _setting("bernoulli", "Family of p(x|z) for one pixel.", table=models.LIKELIHOODS)
    posterior: str = _setting(
        "normal",
        "Family of q(z|x). Several families, joined by +, are independent blocks: categorical:categories=10+normal.",
        table=models.POSTERIORS,
    )
    prior: str = _setting(
        "standard",
        "Prior p(z): the posterior family's standard prior, a learned member of the family, a learned mixture, a"
        " VampPrior or a flow. The last three need --objective=elbo or a bound of importance weights.",
        table=models.PRIORS,
    )
    latent_dim: tuple[int, ...] = _setting(
        (8,),
        "Number of latent variables. Several numbers, joined by dashes, make several stochastic layers, from the image"
        " upwards. A posterior of several blocks has a number for each, joined by +: 1+8.",
        at_least=1,
    )
    architecture: str = _setting("mlp", "Kind of network in the encoder and the decoder.", table=models.ARCHITECTURES)
    hidden: tuple[int, ...] = _setting(
        (128, 64),
        "Widths (mlp) or channels (conv, stride 2) of the layers from the image to the latents, joined by dashes. none"
        " makes both networks linear.",
        at_least=1,
    )
    layer_hidden: tuple[int, ...] = _setting(
        (64,),
        "Widths of the layers between two stochastic layers, joined by dashes, or none. Needs several numbers in"
        " --latent_dim.",
        at_least=1,
    )
    inference: str = _setting(
        "bottom_up", "Order in which q(z|x) draws layers: upwards, downwards, or a ladder.", choices=models.INFERENCES
    )
    activation: str = _setting("relu", "Function between the layers of the networks.", table=models.ACTIVATIONS)
    compute_dtype: str = _setting(
        "float32",
        "Type of the numbers in the networks' layers. Parameters, log-densities and bounds are always float32.",
        choices=COMPUTE_DTYPES,
    )

    # Bound and gradient
    objective: str = _setting(
        "elbo_analytic",
        "Bound to maximise: elbo_analytic (KL in closed form), elbo (all Monte Carlo), or a bound of --num_samples"
        " importance weights: iwae, renyi (VR-IWAE), thermodynamic (TVO). siwae and selbo sample every component of a"
        " mixture, and ula and uha are annealed bounds.",
        table=objectives.BY_NAME,
    )
    estimator: str = _setting(
        "reparam",
        "Gradient estimator. num_samples=K gives an estimator its own number of samples. by_layer=true is for several"
        " stochastic layers: each layer has its own estimate, given the layers before. Several estimators, joined by +,"
        " apply to the blocks of --posterior, one to each.",
        table=estimators.BY_NAME,
    )
    num_samples: int = _setting(1, "Number K of samples of z for each image and step.", at_least=1)

    # Optimization
    optimizer: str = _setting(
        "adam",
        "Optimizer. cv_learning_rate is the learning rate of the estimator's own parameters; 0 means --learning_rate."
        " module:function is a function like those of optax: optax:lion:weight_decay=0.1.",
        table=OPTIMIZERS,
    )
    learning_rate: float = _setting(1e-3, "Learning rate of the optimizer, at its peak.", above=0)
    schedule: str = _setting(
        "constant",
        "Course of the learning rate: constant, falling to zero (cosine, linear), or in the stages of the IWAE paper."
        " Over warmup epochs it first rises from zero.",
        table=SCHEDULES,
    )
    clip_norm: float = _setting(0.0, "Largest global norm of the gradient; 0 for no clipping.", at_least=0)
    ema: float = _setting(
        0.0,
        "Decay in each step of an exponential moving average of the parameters, such as 0.999. The average is evaluated"
        " beside the parameters. 0 for no average.",
        at_least=0,
    )
    batch_size: int = _setting(64, "Number of images in a step.", at_least=1)
    epochs: int = _setting(200, "Number of passes over the training images.", at_least=1)
    seed: int = _setting(0, "Seed of the parameters, the data order, the noise and the binarization.", at_least=0)
    prng: str = _setting(
        "threefry2x32",
        "Generator of the random numbers. rbg and unsafe_rbg are faster on TPUs; the runs of a program are then trained"
        " one after the other. Evaluations always use threefry2x32.",
        choices=PRNGS,
    )
    matmul_precision: str = _setting(
        "default", "Precision of matrix products on GPU and TPU.", choices=MATMUL_PRECISIONS
    )

    # Evaluation
    eval_samples: int = _setting(
        500, "Number K of importance weights for -log p(x) of the finished model on the test set.", at_least=1
    )

    def json(self) -> dict[str, Any]:
        """The settings as JSON, in the order of this class."""
        values = dataclasses.asdict(self)
        return {name: _dashed(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def digest(self) -> str:
        """Eight hexadecimal digits that identify the run. Settings at their defaults do not change them."""
        default = Settings().json()
        chosen = {name: value for name, value in self.json().items() if value != default[name]}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]

    def choice(self, name: str) -> grammar.Choice:
        """The name and the options that a setting such as `objective` chooses from its table."""
        text = getattr(self, name)
        return grammar.choose(text, FIELDS[name].metadata["table"]) if _is_choice(name, text) else grammar.Choice(text)


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def digest_of(runs: list[Settings]) -> str:
    """Eight hexadecimal digits that identify a list of runs."""
    return hashlib.sha256(" ".join(run.digest() for run in runs).encode()).hexdigest()[:8]


def from_json(settings: dict[str, Any], others: Settings = Settings()) -> Settings:
    """The inverse of `Settings.json`. Settings that are not among `settings` are as in `others`.

    Raises:
      ValueError: If there is no such setting, or a value is wrong. The sentence names the setting.
    """
    for name in settings:
        if name not in FIELDS:
            raise ValueError(f"there is no setting {name}")
    return dataclasses.replace(others, **{name: parse(name, str(value)) for name, value in settings.items()})


def parse(name: str, text: str) -> Any:
    """The value of a setting that the text spells. A choice from a table is returned in its canonical spelling.

    Raises:
      ValueError: If the text spells no value; the sentence begins with the text.
    """
    field = FIELDS[name]
    if _is_choice(name, text):
        return str(grammar.choose(text, field.metadata["table"]))
    if field.type == tuple[int, ...]:
        return _parse_dashed(field, text)
    if field.type is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if field.type is str:
        choices = field.metadata["choices"]
        if choices and text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        if not grammar.is_printable(text):
            raise ValueError(f"{text!r} cannot be printed")
        return text
    return _parse_number(field, text, field.type)


# --- Checks


def check(run: Settings) -> None:
    """Refuses settings that contradict each other, before anything is computed.

    Raises:
      ValueError: One sentence that names the flags and says what would work.
    """
    pixels = build(run, "likelihood").pixels
    if pixels == "binary" and run.binarization == "none":
        able = ", ".join(name for name, make in models.LIKELIHOODS.items() if make().pixels in ("any", "grey levels"))
        raise ValueError(
            f"--likelihood={run.likelihood} needs binary pixels; choose --binarization=dynamic, static or threshold, or"
            f" --likelihood={able} for grey pixels"
        )
    needed = {"grey levels": "needs grey pixels; choose --binarization=none", "counts": NEEDS_COUNTS}.get(pixels)
    if needed and run.binarization != "none":
        raise ValueError(f"--likelihood={run.likelihood} {needed}")
    if pixels == "counts" and run.data_mean:
        raise ValueError(f"--likelihood={run.likelihood} takes no --data_mean, which is for pixels from 0 to 1")
    least_layers = build(run, "architecture").least_layers
    if len(run.hidden) < least_layers:
        raise ValueError(
            f"--architecture={run.architecture} needs {least_layers} or more layers in --hidden, got {len(run.hidden)}"
        )
    if len(run.latent_dim) == 1 and run.layer_hidden != FIELDS["layer_hidden"].default:
        raise ValueError("--layer_hidden needs several stochastic layers; choose several as in --latent_dim=8-4")
    _check_blocks(run)
    if run.ema >= 1:
        raise ValueError(f"--ema={run.ema} is not below 1; choose a decay such as 0.999")
    for name, value in array_values(run).items():
        if value < 0:
            setting, _, option = name.partition(".")
            raise ValueError(f"--{setting}={getattr(run, setting)}: {option}={value} is below 0")
    least_samples = grammar.least_samples(run.estimator)
    if run.num_samples < least_samples:
        raise ValueError(
            f"--estimator={run.estimator} needs --num_samples of at least {least_samples}, got {run.num_samples}"
        )
    build(run, "estimator", num_samples=run.num_samples)
    for name in ("activation", "optimizer", "schedule"):
        build(run, name)
    build(run, "objective", **epoch_argument(run, 0.0))
    refusal = models.refuse_inference(run.inference, build(run, "posterior"), len(run.latent_dim))
    refusal = refusal or priors.refusal(build(run, "prior"), build(run, "posterior"))
    if refusal:
        raise ValueError(re.sub("(inference|latent_dim|posterior|prior)(?==)", r"--\1", refusal))
    if build(run, "prior").reads_encoder and len(run.latent_dim) > 1:
        raise ValueError(f"--prior={run.prior} needs one stochastic layer; give --latent_dim one number")


def _check_blocks(run: Settings) -> None:
    """Refuses numbers of latent variables that are not those of the posterior's blocks."""
    number = build(run, "posterior").num_blocks
    given = [len(size) if isinstance(size, tuple) else 1 for size in run.latent_dim]
    if number == 1 and given != [1] * len(given):
        raise ValueError(
            f"--latent_dim={_dashed(run.latent_dim)} is for a posterior of several blocks, such as"
            f" --posterior=categorical+normal; --posterior={run.posterior} has one"
        )
    if number > 1 and given != [number]:
        raise ValueError(
            f"--posterior={run.posterior} has {number} blocks in one layer; give --latent_dim a number for each, as in"
            f" --latent_dim={'+'.join(['8'] * number)}"
        )


def epoch_argument(run: Settings, epoch: Any) -> dict[str, Any]:
    """The epoch as an argument of the run's objective; empty if the objective takes none."""
    factory = objectives.BY_NAME[run.choice("objective").name]
    return {"epoch": epoch} if "epoch" in inspect.signature(factory).parameters else {}


def build(run: Settings, name: str, **arguments) -> Any:
    """Calls the factory that the setting chooses, with the setting's options and `arguments`; returns the result.

    Raises:
      ValueError: If the factory refuses the options. The sentence names the flag.
    """
    try:
        return grammar.build(run.choice(name), FIELDS[name].metadata["table"], **arguments)
    except ValueError as error:
        repeated = f": {name}={run.choice(name).name} "
        raise ValueError(f"--{name}={str(error).replace(repeated, ' ')}") from None


# --- Programs

# Numbers that are arguments of a compiled program and not part of its code: settings, and options of settings. An
# optimizer or an objective of your own whose options have these names must accept traced arrays for them.
ARRAYS = ("learning_rate", "clip_norm", "seed")
ARRAY_OPTIONS = {"objective": ("beta", "kl_warmup", "free_bits"), "optimizer": ("cv_learning_rate",)}
# The array values that switch a feature on. If such a value is zero, the program contains no code for the feature.
_SWITCHES = ("clip_norm", "objective.kl_warmup", "objective.free_bits", "optimizer.cv_learning_rate")


def array_values(run: Settings) -> dict[str, int | float]:
    """The numeric arguments of the run's program by name, such as "objective.beta", without switches that are zero."""
    values = {name: getattr(run, name) for name in ARRAYS}
    for setting, names in ARRAY_OPTIONS.items():
        if _is_choice(setting, getattr(run, setting)):
            given = grammar.values(run.choice(setting), FIELDS[setting].metadata["table"])
            values |= {f"{setting}.{name}": given[name] for name in names if name in given}
    return {name: value for name, value in values.items() if value or name not in _SWITCHES}


def program_settings(run: Settings) -> dict[str, Any]:
    """The settings that all runs of a program share, as JSON: all settings except `array_values`."""
    common = {name: value for name, value in run.json().items() if name not in ARRAYS}
    for setting, names in ARRAY_OPTIONS.items():
        choice = run.choice(setting)
        others = tuple((name, value) for name, value in choice.options if name not in names)
        common[setting] = str(grammar.Choice(choice.name, others))
    return common


def programs(runs: list[Settings]) -> Iterator[list[Settings]]:
    """The runs of each program: those that differ in nothing but the numbers of `array_values`."""
    groups: dict[Any, list[Settings]] = {}
    for run in runs:
        key = (tuple(program_settings(run).items()), tuple(array_values(run)))
        groups.setdefault(key, []).append(run)
    yield from groups.values()


# --- Text


def text(value: Any) -> str:
    """A value of a setting as the command line spells it."""
    if isinstance(value, tuple):
        return _dashed(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _dashed(numbers: tuple[int | tuple[int, ...], ...]) -> str:
    spell = lambda number: "+".join(map(str, number)) if isinstance(number, tuple) else str(number)
    return "-".join(map(spell, numbers)) or "none"


def _is_choice(name: str, text: str) -> bool:
    """Whether the text chooses from the table of the setting. A data set can also be a file or a set of TFDS, and the
    optimizer in a file can be a function that no flag has loaded: a name in a file imports nothing."""
    table = FIELDS[name].metadata["table"]
    if table is OPTIMIZERS:
        optimizer = grammar.parse(text, with_functions=True).name
        return optimizer in table or ":" not in optimizer
    return table is not None and (name != "dataset" or text.partition(":")[0] in table)


def _parse_dashed(field: dataclasses.Field, text: str) -> tuple[int, ...]:
    if text == "none" and field.name != "latent_dim":
        return ()
    if not all(text.split("-")):
        raise ValueError(f"{text!r} is not a positive integer, nor several joined by single dashes")
    if field.name != "latent_dim":
        return tuple(_parse_number(field, part, int) for part in text.split("-"))
    sizes = [tuple(_parse_number(field, number, int) for number in part.split("+")) for part in text.split("-")]
    return tuple(size if len(size) > 1 else size[0] for size in sizes)


def _parse_number(field: dataclasses.Field, text: str, kind: type) -> int | float:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {'an integer' if kind is int else 'a number'}") from None
    at_least = field.metadata["at_least"]
    if at_least is not None and number < at_least:
        raise ValueError(f"{text} is below {at_least}")
    above = field.metadata["above"]
    if above is not None and number <= above:
        raise ValueError(f"{text} is not above {above}")
    grammar.check_range(number, text)
    return number
