"""Published numbers and orders, with their papers, and where the scripts leave what was obtained of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.published.obtained import distance, order, slope, toy, trained, variance

TRUNCATED = ", TRUNCATED"


class Claim(NamedTuple):
    """A published number or order, and where its counterpart is found.

    Attributes:
      read: what it says of a folder of results: the row's columns from "obtained" on, and the seeds behind it.
      seeds: that the script trains with; its truncated forms with one.
      truncated: the words that make the script stop earlier, longest first, each with what it is called in the table.
    """

    result: str
    published: str
    script: str
    folder: str
    read: Callable[[Path], dict[str, Any]]
    seeds: int = 1
    truncated: tuple[tuple[str, str], ...] = (("--quick", ""),)

    def forms(self) -> "list[Claim]":
        """The claim, and what the script leaves of it where it is truncated; longest first."""
        return [self, *(self.after(*form) for form in self.truncated)]

    def after(self, word: str, length: str) -> "Claim":
        """The same of what the script leaves after `word`, which truncates it to `length`."""
        first, *rest = self.folder.split("/")
        folder = "/".join([f"{first}_{word.removeprefix('--')}", *rest])
        return self._replace(
            result=f"{self.result}{length}{TRUNCATED}", script=f"{self.script} {word}", folder=folder, seeds=1
        )


def _iwae(objective: str, layers: int, samples: int, published: str) -> Claim:
    """An entry of the table of arXiv:1509.00519."""
    name = {"elbo": "VAE", "iwae": "IWAE"}[objective]
    chosen = {"objective": objective, "num_samples": samples, "latent_dim": "50" if layers == 1 else "100-50"}
    title = f"{name}, {layers} layer{'s' * (layers > 1)}, K = {samples}, MNIST: -log p(x) (active units)"
    forms = () if samples == 50 else (("cpu", " after 121 passes"), ("--quick", ""))
    read = trained("test_nll_nats", units=True, **chosen)
    return Claim(title, published, "reproduce_iwae.sh", "iwae", read, truncated=forms)


_SNR, _COSTS, _ALONG = "reproduce_snr.sh", "reproduce_stochastic_costs.sh", "reproduce_variance_along_training.sh"
_FREY, _REINMAX, _TOYS = "reproduce_frey_faces.sh", "reproduce_reinmax.sh", "reproduce_toys.sh"
_DISCRETE = ("leave_one_out", "disarm", "arms", "double_cv", "rodeo", "rebar", "relax", "st_gumbel_softmax", "reinmax")
_DISCRETE += ("vimco",)
CLAIMS = [
    Claim(
        "flax's VAE example, MNIST, 10 epochs: -ELBO",
        "about 104 (its README)",
        "reproduce_flax_vae.sh",
        "flax_vae",
        trained("test_elbo_nats", sign=-1),
        seeds=3,
    ),
    _iwae("elbo", 1, 1, "86.76 (19)"),
    _iwae("elbo", 1, 5, "86.47 (20)"),
    _iwae("iwae", 1, 5, "85.54 (22)"),
    _iwae("elbo", 1, 50, "86.35 (20)"),
    _iwae("iwae", 1, 50, "84.78 (25)"),
    _iwae("elbo", 2, 1, "85.33 (16+5)"),
    _iwae("elbo", 2, 5, "85.01 (17+5)"),
    _iwae("iwae", 2, 5, "83.89 (21+5)"),
    _iwae("elbo", 2, 50, "84.78 (17+5)"),
    _iwae("iwae", 2, 50, "82.90 (26+7)"),
    *(
        Claim(
            f"ELBO of the validation split, {network} Bernoulli VAE, MNIST, K = 4",
            f"arms before disarm before leave_one_out, arXiv:2105.14141, arXiv:2006.10680; {more}rodeo before"
            " double_cv, arXiv:2202.09497",
            f"reproduce_discrete_vae.sh{word}",
            f"discrete_vae_{network}",
            order("estimator", "validation_elbo_nats", _DISCRETE),
            seeds=3,
        )
        for network, word, more in (
            ("linear", "", "relax before rebar, arXiv:1711.00123; "),
            ("nonlinear", " nonlinear", ""),
        )
    ),
    Claim("slope of log SNR over log K: theta", "+0.5, arXiv:1802.04537", _SNR, "snr", slope("theta", "reparam")),
    Claim("slope of log SNR over log K: phi", "-0.5, arXiv:1802.04537", _SNR, "snr", slope("phi", "reparam")),
    Claim(
        "slope of log SNR over log K: phi, DReG",
        "+0.5 for large K, arXiv:1810.04152",
        _SNR,
        "snr",
        slope("phi", "dreg"),
    ),
    *(
        Claim(
            f"one coin, E (b - {target:g})^2, after training: loss",
            f"rebar and relax near the optimum, {target**2:.4f}, before reinforce, {paper}",
            _TOYS,
            "toys/bernoulli",
            toy(f"target {target:g}", "final_loss", ("rebar", "relax", "reinforce")),
            seeds=5,
        )
        for target, paper in ((0.45, "arXiv:1703.07370, arXiv:1711.00123"), (0.499, "arXiv:1711.00123"))
    ),
    *(
        Claim(
            f"128 coins, power {power:g}, after training: loss",
            "reinmax near the exact gradient, the others behind, arXiv:2304.08612",
            _TOYS,
            "toys/polynomial",
            toy(
                f"power {power:g}",
                "final_loss",
                ("local_expectation", "reinmax", "st_gumbel_softmax", "straight_through"),
            ),
            seeds=5,
        )
        for power in (1.5, 2, 3)
    ),
    Claim(
        "three bits as one of eight classes: variance at the start",
        "unordered_set below leave_one_out, at two evaluations of f, below reinforce, arXiv:2002.06043",
        _TOYS,
        "toys/categorical",
        toy("three_bits", "first_variance", ("unordered_set", "leave_one_out", "reinforce")),
        seeds=5,
    ),
    Claim(
        "variance of the gradient of E (z + 3)^2: pathwise",
        "76, closed form",
        _COSTS,
        "costs/quadratic",
        variance("phi", "reparam", point=-3),
    ),
    Claim(
        "variance of the gradient of E (z + 3)^2: score function",
        "2041, closed form",
        _COSTS,
        "costs/quadratic",
        variance("phi", "reinforce", point=-3),
    ),
    Claim(
        "variance of the gradient of E (z + 3)^2: measure-valued",
        "near the pathwise one's, arXiv:1906.10652",
        _COSTS,
        "costs/quadratic",
        variance("phi", "measure_valued", over="reparam", point=-3),
    ),
    Claim(
        "variance of the gradient of E exp(-10 z^2): score function",
        "below the pathwise one's, arXiv:1906.10652",
        _COSTS,
        "costs/exponential",
        variance("phi", "reinforce", over="reparam"),
    ),
    Claim(
        "variance of the gradient of E cos 5z: score function",
        "below the pathwise one's, arXiv:1906.10652",
        _COSTS,
        "costs/cosine",
        variance("phi", "reinforce", over="reparam"),
    ),
    Claim(
        "variance of the gradient of a logistic regression: score function",
        "far above the pathwise one's, arXiv:1906.10652",
        _COSTS,
        "costs/logistic_regression",
        variance("phi", "reinforce", over="reparam"),
    ),
    Claim(
        "variance of the encoder's gradient after training: sticking the landing",
        "below the pathwise one's, arXiv:1703.09194",
        _ALONG,
        "along_training/elbo/variance",
        variance("encoder", "stl", over="reparam"),
    ),
    Claim(
        "variance of the encoder's gradient after training: DReG",
        "below the pathwise one's, arXiv:1810.04152",
        _ALONG,
        "along_training/iwae/variance",
        variance("encoder", "dreg", over="reparam"),
    ),
    Claim(
        "Frey faces, diagonal covariance: -log p(x)",
        "none for this net",
        _FREY,
        "frey_faces",
        trained("test_bits_per_dim", "bits/dim", posterior="normal"),
        seeds=3,
    ),
    Claim(
        "Frey faces, full covariance: -log p(x)",
        "none for this net",
        _FREY,
        "frey_faces",
        trained("test_bits_per_dim", "bits/dim", posterior="full_covariance"),
        seeds=3,
    ),
    Claim(
        "ELBO of the validation split, VAE of 4 x 8 classes, MNIST, each at its better temperature",
        "reinmax before st_gumbel_softmax, arXiv:2304.08612",
        _REINMAX,
        "reinmax",
        order(
            "estimator",
            "validation_elbo_nats",
            ("reinmax", "st_gumbel_softmax", "gumbel_softmax"),
            within="temperature",
        ),
        seeds=3,
    ),
    *(
        Claim(
            f"distance from the exact gradient over its length, VAE of 4 x 8 classes: {name} at {temperature}",
            published,
            _REINMAX,
            f"reinmax/gradients_{temperature}",
            distance("encoder", name),
        )
        for name, temperature, published in (
            ("gumbel_softmax", 0.5, "not stated"),
            ("reinmax", 1.3, "nearer than st_gumbel_softmax's, arXiv:2304.08612"),
            ("st_gumbel_softmax", 0.5, "farther than reinmax's, arXiv:2304.08612"),
        )
    ),
]
