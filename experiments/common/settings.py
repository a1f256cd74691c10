"""The settings of one training run, and the flags made from them: name, type, default, unit and bounds in one place.

Every setting is a flag, and every flag takes a comma-separated list: `--seed=0,1 --latent_dim=8,16` is four runs.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import pkgutil
from collections.abc import Iterator
from typing import Any

from absl import flags

from experiments.common import options

MATMUL_PRECISIONS = ("default", "bfloat16", "tensorfloat32", "float32")
COMPUTE_DTYPES = ("float32", "bfloat16")
OBJECTIVES = ("elbo_analytic", "elbo", "iwae", "renyi", "thermodynamic")
SCHEDULES = ("constant", "cosine", "linear", "stages")


def _setting(default, help, *, choices=None, at_least=None, above=None, array=False):
    """A field of `Settings`.

    `choices`: the values that it can have, or "module:name" of the table whose names they are: it is imported where a
    value is checked, since `--help` shall not wait for jax. `array`: runs that differ in it alone share one compiled
    program.
    """
    return dataclasses.field(
        default=default,
        metadata={"help": help, "choices": choices, "at_least": at_least, "above": above, "array": array},
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the numbers of one run."""

    dataset: str = _setting(
        "digits",
        "digits (8x8, shipped with scikit-learn), mnist or another TFDS image set, frey_faces, or your own npz:PATH",
    )
    binarization: str = _setting(
        "dynamic",
        "of grey pixels: dynamic (drawn anew in every step), static (drawn once), threshold (at one half), none",
        choices="vae.data:BINARIZATIONS",
    )
    validation_size: int = _setting(
        0,
        "training images held out; 0 keeps the data set's own split. Without any, curves are of the test set",
        at_least=0,
    )
    likelihood: str = _setting("bernoulli", "p(x|z) of a pixel", choices="vae.models:LIKELIHOODS")
    architecture: str = _setting("mlp", "of encoder and decoder", choices="vae.models:ARCHITECTURES")
    hidden: tuple[int, ...] = _setting(
        (128, 64),
        "widths (mlp) or channels (conv, stride 2) from the image to the latents, joined by dashes; none: a linear map",
        at_least=1,
    )
    activation: str = _setting("relu", "between layers", choices="vae.models:ACTIVATIONS")
    negative_slope: float = _setting(0.01, "of leaky_relu; the papers on discrete latents take 0.3", at_least=0)
    latent_dim: tuple[int, ...] = _setting(
        (8,),
        "number of latent dimensions; joined by dashes, of several stochastic layers from the image up",
        at_least=1,
    )
    layer_hidden: tuple[int, ...] = _setting(
        (64,),
        "widths between two stochastic layers, joined by dashes, or none; only where --latent_dim has several",
        at_least=1,
    )
    posterior: str = _setting("normal", "family of q(z|x), with its standard prior", choices="vae.models:POSTERIORS")
    categories: int = _setting(
        10, "classes of each latent variable; only for --posterior=categorical and concrete", at_least=2
    )
    learn_prior: bool = _setting(False, "learn the prior's parameters, from the standard prior on")
    signed_bits: bool = _setting(
        False,
        "networks see latent bits as -1 and 1, not as 0 and 1; only for --posterior=bernoulli and binary_concrete",
    )
    data_mean: bool = _setting(
        False,
        "subtract the training images' mean from the encoder's input and add its logits to the decoder's output",
    )
    objective: str = _setting(
        "elbo_analytic",
        "the bound: elbo_analytic (KL in closed form), elbo (all Monte Carlo), or of --num_samples weights iwae"
        " (importance-weighted), renyi (VR-IWAE), thermodynamic (TVO), which with one sample are elbo",
        choices=OBJECTIVES,
    )
    alpha: float = _setting(
        0.5, "order of the Renyi bound, in [0, 1): 0 is iwae, towards 1 elbo; only for renyi", at_least=0
    )
    partitions: int = _setting(5, "terms of the thermodynamic bound; only for thermodynamic", at_least=1)
    beta: float = _setting(1.0, "weight of the KL term (elbo_analytic)", at_least=0, array=True)
    kl_warmup: float = _setting(
        0.0, "epochs over which beta grows linearly from 0 (elbo_analytic); 0 for none", at_least=0, array=True
    )
    free_bits: float = _setting(
        0.0, "nats of KL free to each latent dimension (elbo_analytic); 0 for none", at_least=0, array=True
    )
    estimator: str = _setting(
        "reparam",
        "gradient estimator; its own options stand behind its name, as in gumbel_rao:inner_samples=100",
        choices="vae.estimators:BY_NAME",
    )
    temperature: float = _setting(
        0.0, "of the relaxation, for estimators and posteriors that have one; 0 for their own default", at_least=0
    )
    by_layer: bool = _setting(
        False,
        "take stochastic layers one by one, each given those below, also where the estimator could take all at once;"
        " only for --objective=elbo and estimators that do not use df/dz",
    )
    num_samples: int = _setting(1, "K, samples of z for each image and step", at_least=1)
    learning_rate: float = _setting(1e-3, "of Adam, at its peak", above=0, array=True)
    cv_learning_rate: float = _setting(
        0.0, "of Adam, of what the estimator learns; 0 for --learning_rate", at_least=0, array=True
    )
    adam_epsilon: float = _setting(1e-8, "of Adam: what it adds to the root of the second moment", above=0)
    schedule: str = _setting(
        "constant",
        "of the learning rate: cosine and linear fall to zero over the whole run; stages, the IWAE paper's, are of 1,"
        " 3, 9, ... epochs, each 10^(1/7) lower than the one before",
        choices=SCHEDULES,
    )
    clip_norm: float = _setting(0.0, "largest global norm of the gradient; 0 for no clipping", at_least=0, array=True)
    batch_size: int = _setting(64, "images in a step", at_least=1)
    epochs: int = _setting(200, "passes over the training images", at_least=1)
    seed: int = _setting(0, "of parameters, data order, noise and binarization", at_least=0, array=True)
    eval_samples: int = _setting(
        500, "K of the importance-weighted -log p(x) of the finished model on the test set", at_least=1
    )
    matmul_precision: str = _setting("default", "of matrix products; matters on GPU and TPU", choices=MATMUL_PRECISIONS)
    compute_dtype: str = _setting(
        "float32",
        "of the networks' layers; parameters, log-densities and bounds are float32 in any case",
        choices=COMPUTE_DTYPES,
    )

    def json(self) -> dict[str, Any]:
        """The settings as JSON knows them, in the order of this class."""
        return {n: _dashed(v) if isinstance(v, tuple) else v for n, v in dataclasses.asdict(self).items()}

    def digest(self) -> str:
        """Eight hexadecimal digits that name this run among all others; the same when a setting is added later. For
        that, defaults must not change."""
        default = Settings().json()
        chosen = {name: value for name, value in self.json().items() if value != default[name]}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


def digest_of(runs: list[Settings]) -> str:
    """Eight hexadecimal digits that name a sweep."""
    return hashlib.sha256(" ".join(run.digest() for run in runs).encode()).hexdigest()[:8]


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
ARRAYS = tuple(name for name, field in FIELDS.items() if field.metadata["array"])


def from_json(settings: dict[str, Any]) -> Settings:
    """The inverse of `Settings.json`.

    Raises:
      ValueError: naming a setting that is not known, or what is wrong with its value.
    """
    for name in settings:
        if name not in FIELDS:
            raise ValueError(f"there is no setting {name}")
    return Settings(**{name: _parse(FIELDS[name], str(value)) for name, value in settings.items()})


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """One absl flag for each field of `Settings`, each a comma-separated list."""
    for name, field in FIELDS.items():
        text = field.metadata["help"] + (" (sweeps share one program)" if field.metadata["array"] else "")
        flags.DEFINE(_ListParser(field), name, (field.default,), text, flag_values, _Serializer())
        flag_values[name].boolean = field.type is bool  # --name and --noname, and still --name=true,false


def from_flags(values: flags.FlagValues) -> list[Settings]:
    """The product of all lists on the command line, in order, without duplicates."""
    names = list(FIELDS)
    product = itertools.product(*(values[name].value for name in names))
    runs = [Settings(**dict(zip(names, point, strict=True))) for point in product]
    for run in runs:
        check(run)
    return list(dict.fromkeys(runs))


def check(settings: Settings) -> None:
    """Refuses settings that contradict each other, in one sentence.

    Raises:
      ValueError: naming the flag and what would work.
    """
    from vae import models

    for objective, names in _OPTIONS.items():
        for name in names:
            if settings.objective != objective and getattr(settings, name) != FIELDS[name].default:
                raise ValueError(f"--{name} changes {objective} alone; leave it out or take --objective={objective}")
    if settings.alpha >= 1:
        raise ValueError(f"--alpha={settings.alpha} must be below 1; at 1 the bound is that of --objective=elbo")
    if settings.likelihood == "bernoulli" and settings.binarization == "none":
        raise ValueError(
            "--likelihood=bernoulli is of binary pixels only; choose --binarization=dynamic, static or threshold,"
            " or for grey pixels --likelihood=discretized_logistic or gaussian"
        )
    if settings.likelihood == "discretized_logistic" and settings.binarization != "none":
        raise ValueError("--likelihood=discretized_logistic is for grey pixels; choose --binarization=none")
    if settings.architecture == "conv" and not settings.hidden:
        raise ValueError("--architecture=conv needs at least one layer; --hidden=none is for --architecture=mlp")
    if settings.activation != "leaky_relu" and settings.negative_slope != FIELDS["negative_slope"].default:
        raise ValueError("--negative_slope changes leaky_relu alone; leave it out or take --activation=leaky_relu")
    if settings.posterior not in ("categorical", "concrete") and settings.categories != FIELDS["categories"].default:
        raise ValueError("--categories changes categorical latents alone; leave it out or take --posterior=categorical")
    if len(settings.latent_dim) == 1 and settings.layer_hidden != FIELDS["layer_hidden"].default:
        raise ValueError(
            "--layer_hidden is between stochastic layers; leave it out or take several, as --latent_dim=8-4 does"
        )
    entry = options.entry(settings.estimator)
    if settings.by_layer and (len(settings.latent_dim) == 1 or settings.objective != "elbo" or entry.differentiates_f):
        raise ValueError(
            "--by_layer is for several stochastic layers, --objective=elbo and estimators that do not differentiate the"
            " bound in z; for example --latent_dim=16-8 --objective=elbo --estimator=leave_one_out"
        )
    relaxed = [name for name, make in models.POSTERIORS.items() if make().hard]
    if settings.temperature and not options.has_temperature(settings.estimator) and settings.posterior not in relaxed:
        raise ValueError(
            f"--temperature is not for --estimator={settings.estimator}; leave it out or take "
            f"{', '.join(options.tempered())}, or --posterior={' or '.join(relaxed)}"
        )
    if settings.num_samples < entry.min_samples:
        raise ValueError(
            f"--estimator={settings.estimator} needs --num_samples of at least {entry.min_samples}, "
            f"got {settings.num_samples}"
        )
    try:
        entry.make(num_samples=settings.num_samples)
    except ValueError as error:  # of an option that cannot be
        raise ValueError(f"--estimator={settings.estimator}: {error}") from None


def programs(runs: list[Settings]) -> Iterator[list[Settings]]:
    """Groups of runs that one compiled program can train: alike but for array-valued settings."""

    def shape(run: Settings):
        switched_off = tuple(name for name in _SWITCHES if getattr(run, name) == 0)
        return dataclasses.replace(run, **{name: FIELDS[name].default for name in ARRAYS}), switched_off

    groups: dict[Any, list[Settings]] = {}
    for run in runs:
        groups.setdefault(shape(run), []).append(run)
    yield from groups.values()


# Settings that one objective alone reads.
_OPTIONS = {
    "elbo_analytic": ("beta", "kl_warmup", "free_bits"),
    "renyi": ("alpha",),
    "thermodynamic": ("partitions",),
}
# Array-valued settings whose zero means that the code is not there at all.
_SWITCHES = ("free_bits", "clip_norm", "kl_warmup", "cv_learning_rate")


class _ListParser(flags.ArgumentParser):
    """`a,b,c` to a tuple of the field's type, each element checked."""

    def __init__(self, field: dataclasses.Field):
        self.field = field

    @property
    def syntactic_help(self):
        choices = _choices(self.field)
        return (f"one of {', '.join(choices)}; " if choices else "") + "a comma-separated list is swept"

    def parse(self, argument):
        if isinstance(argument, tuple):  # the default
            return argument
        elements = [element.strip() for element in str(argument).split(",")]
        if not all(elements):
            raise ValueError(f"an empty element in {argument!r}; give one value or several joined by single commas")
        return tuple(dict.fromkeys(_parse(self.field, element) for element in elements))

    def flag_type(self):
        return f"list of {'dashed int' if self.field.type == tuple[int, ...] else self.field.type.__name__}"


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(_text, value))


def _choices(field: dataclasses.Field) -> tuple[str, ...]:
    """What the field's value is one of; nothing where it is free."""
    choices = field.metadata["choices"] or ()
    return tuple(pkgutil.resolve_name(choices) if isinstance(choices, str) else choices)


def _dashed(numbers: tuple[int, ...]) -> str:
    return "-".join(map(str, numbers)) or "none"


def _text(value) -> str:
    """A value as it is written on the command line."""
    return _dashed(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def _parse(field: dataclasses.Field, text: str):
    if field.type == tuple[int, ...] and text == "none" and field.name != "latent_dim":
        return ()
    if field.type is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if field.type == tuple[int, ...]:
        if not all(text.split("-")):
            raise ValueError(f"{text!r} is not a positive integer, nor several joined by single dashes")
        return tuple(_number(field, part, int) for part in text.split("-"))
    if field.type is str:
        choices = _choices(field)
        if field.name == "estimator":
            return str(options.choose(text, options.ESTIMATORS))
        elif choices and text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        if not options.is_printable(text):
            raise ValueError(f"{text!r} cannot be printed")
        return text
    return _number(field, text, field.type)


def _number(field: dataclasses.Field, text: str, kind: type):
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {'an integer' if kind is int else 'a number'}") from None
    at_least, above = field.metadata["at_least"], field.metadata["above"]
    if kind is float and not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    if at_least is not None and number < at_least:
        raise ValueError(f"{text} is below {at_least}")
    if above is not None and number <= above:
        raise ValueError(f"{text} is not above {above}")
    if kind is int and number >= 2**31:
        raise ValueError(f"{text} does not fit into 32 bits")
    return number
