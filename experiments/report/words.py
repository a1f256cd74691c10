"""What the words of the page mean, and which values are good where this project knows some."""

from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

from experiments.common.settings import Settings

# The figures of the laboratory, by the titles of its table.
LABORATORY = {
    "verdict": "whether the variance at equal cost is worse than the best one, by more than 1 %; one level for all.",
    "variance": "the trace of the gradient's covariance. Lower is better.",
    "SNR": "signal-to-noise ratio: the mean over the coordinates of |mean| / standard deviation. Higher is better.",
    "cosine": "the mean cosine of the angle between a gradient and the truth. 1 is perfect.",
    "variance × FLOP, to best": "the variance at equal cost, as a multiple of the best estimator's; the same for"
    " evaluations of f and for time.",
    "bias along truth (%)": "the relative error of the mean gradient along the truth, ± one standard error.",
    "max |z|": "the largest deviation of a coordinate from the truth, in standard errors. With many coordinates 4"
    " is normal.",
    "K": "samples of z for each datum.",
}

# The settings that make a data set and a network.
NETWORK = (
    *("dataset", "binarization", "data_mean", "likelihood", "posterior", "prior", "latent_dim"),
    *("architecture", "hidden", "layer_hidden", "inference", "activation"),
)


class Known(NamedTuple):
    """Values that are known for a data set and a network.

    Attributes:
      network: The settings of `NETWORK` that differ from their defaults.
      text: The values, how they were obtained, and their source.
    """

    network: dict[str, Any]
    text: str


_MNIST_500 = {"dataset": "mnist", "hidden": (500,), "latent_dim": (20,)}
_IWAE = {"dataset": "mnist", "data_mean": True, "hidden": (200, 200), "activation": "tanh"}
_BITS = {"dataset": "mnist", "data_mean": True, "posterior": "bernoulli:signed=true", "prior": "learned"}
_BITS |= {"latent_dim": (200,)}
KNOWN = (
    Known(
        {},
        "digits, 128-64-8: ELBO -23.12 ± 0.04 and -log p(x) 22.58 ± 0.03 nats with the default settings (200 epochs,"
        " 500 samples; README.md).",
    ),
    Known(
        _MNIST_500,
        "MNIST, 500-20: ELBO -102.23 ± 0.03 and -log p(x) 96.87 ± 0.07 nats after 10 epochs in batches of 128 (500"
        " samples; README.md).",
    ),
    Known(
        _MNIST_500 | {"binarization": "static"},
        "MNIST, 500-20, static binarization: published is an ELBO of about -104 nats after 10 epochs (README of flax's"
        " VAE example), and obtained here -103.22 ± 0.28 (scripts/README.md).",
    ),
    Known(
        _IWAE | {"latent_dim": (50,)},
        "MNIST, 200-200-50: published is -log p(x) of 86.76 nats (VAE, K = 1), 85.54 (IWAE, K = 5) and 84.78 (IWAE,"
        " K = 50) after 3280 epochs, with 19, 22 and 25 active units (5000 samples; Burda et al. 2015,"
        " arXiv:1509.00519, Table 1).",
    ),
    Known(
        _IWAE | {"latent_dim": (100, 50), "layer_hidden": (100, 100)},
        "MNIST, two stochastic layers of 100 and 50: published is -log p(x) of 85.33 nats (VAE, K = 1), 83.89 (IWAE,"
        " K = 5) and 82.90 (IWAE, K = 50) after 3280 epochs (5000 samples; Burda et al. 2015, arXiv:1509.00519,"
        " Table 1).",
    ),
    Known(
        _BITS | {"hidden": ()},
        "MNIST, 200 bits, linear: validation ELBO from -133.62 (vimco) to -123.28 nats (reinmax) after 1e5 steps of ten"
        " estimators with K = 4 (scripts/README.md).",
    ),
    Known(
        _BITS | {"hidden": (200, 200), "activation": "leaky_relu:negative_slope=0.3"},
        "MNIST, 200 bits, nonlinear: validation ELBO from -134.96 (vimco) to -118.33 nats (reinmax) after 3e4 steps of"
        " ten estimators with K = 4 (scripts/README.md).",
    ),
    Known(
        {"posterior": "bernoulli", "prior": "learned", "latent_dim": (32,)},
        "digits, 32 bits: ELBO from -26.84 (reinforce) to -24.43 nats (reinmax) after 60 epochs of twelve estimators"
        " with K = 4 (experiments/train/RESULTS.md).",
    ),
    Known(
        {"dataset": "frey_faces", "likelihood": "discretized_logistic", "binarization": "none", "hidden": (200,)}
        | {"latent_dim": (10,)},
        "Frey faces, 200-10: 4.95 ± 0.01 bits/dim after 500 epochs (500 samples; scripts/README.md).",
    ),
)


def known_values(runs: Iterable[Settings]) -> list[str]:
    """The texts of the known values whose data set and network are those of a run."""
    networks = {_network(run) for run in runs}
    return [known.text for known in KNOWN if _network(Settings(**known.network)) in networks]


def explained(words: dict[str, str]) -> str:
    """A list of words and their meanings, as HTML."""
    lines = (f"<div><dt>{escape(word)}</dt><dd>{escape(meaning)}</dd></div>" for word, meaning in words.items())
    return f'<dl class="words">{"".join(lines)}</dl>'


def _network(run: Settings) -> tuple:
    return tuple(getattr(run, name) for name in NETWORK)
