"""The table of claims: published numbers and rankings, and where the scripts leave this project's numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.published.controls import Control, above, away_from, below, nearer_to_the_others, out_of_order
from experiments.published.readers import distances, figure_over_seeds, inside, ranking, slope, toy_ranking, variance

TRUNCATED = ", TRUNCATED"

# The tables of scripts/README.md, by the names in the comments that mark their places.
TABLES = (
    "flax_vae",
    "iwae",
    "discrete_vae",
    "snr",
    "toys_bernoulli",
    "toys_polynomial",
    "toys_categorical",
    "stochastic_costs",
    "along_training",
    "frey_faces",
    "reinmax",
)


class Claim(NamedTuple):
    """A published number or ranking, and the folder that holds this project's number.

    Attributes:
      table: The table of scripts/README.md that shows the claim.
      name: A short name, for the first column of that table.
      result: The whole name of the result, for published.csv. No two claims have the same.
      published: The published number or ranking, and its source.
      script: The script and its arguments, without the folder of the data.
      folder: The folder in which the script leaves its results.
      read: Reads the folder and returns the columns of published.csv from "obtained" to "commit", and the number
        of "seeds" for results of several seeds.
      seeds: Number of seeds with which the whole script trains. A truncated script trains with one seed.
      ranks: Whether "obtained" lists several estimators, the best first.
      truncated: The arguments that make the script shorter, the longest run first. Each is a pair: the argument, and a
        phrase about the length that is added to `result`.
      control: The negative control of the claim, if it has one.
    """

    table: str
    name: str
    result: str
    published: str
    script: str
    folder: str
    read: Callable[[Path], dict[str, Any]]
    seeds: int = 1
    ranks: bool = False
    truncated: tuple[tuple[str, str], ...] = (("--quick", ""),)
    control: Control | None = None

    @property
    def control_folder(self) -> str:
        """The folder in which the script leaves the results of the control. The whole and the short IWAE share it."""
        return _with_suffix(self.folder.replace("_short", ""), "_control")

    def forms(self) -> "list[Claim]":
        """The claim for the whole script, followed by the claims for the shorter scripts, the longest run first."""
        return [self, *(self._shortened_by(argument, length) for argument, length in self.truncated)]

    def _shortened_by(self, argument: str, length: str) -> "Claim":
        """The claim for the script with an argument of `truncated`, which writes into a folder of its own."""
        return self._replace(
            result=f"{self.result}{length}{TRUNCATED}",
            script=f"{self.script} {argument}",
            folder=_with_suffix(self.folder, f"_{argument.removeprefix('--')}"),
            seeds=1,
        )


def _with_suffix(folder: str, suffix: str) -> str:
    """The folder whose first part ends in the suffix: "snr_quick/phi" for "snr/phi"."""
    first, *rest = folder.split("/")
    return "/".join([f"{first}{suffix}", *rest])


def _flax_vae() -> list[Claim]:
    return [
        Claim(
            table="flax_vae",
            name="-ELBO after 10 epochs",
            result="flax's VAE example, MNIST, 10 epochs: -ELBO",
            published="about 104 (its README)",
            script="reproduce_flax_vae.sh",
            folder="flax_vae",
            read=figure_over_seeds("test_elbo_nats", sign=-1),
            seeds=3,
            control=Control(
                "reparam_without_scale", figure_over_seeds("test_elbo_nats", sign=-1), away_from(104, tolerance=2)
            ),
        )
    ]


def _iwae() -> list[Claim]:
    """The entries of Table 1 of arXiv:1509.00519."""
    entries = (
        ("elbo", 1, 1, "86.76 (19)"),
        ("elbo", 1, 5, "86.47 (20)"),
        ("iwae", 1, 5, "85.54 (22)"),
        ("elbo", 1, 50, "86.35 (20)"),
        ("iwae", 1, 50, "84.78 (25)"),
        ("elbo", 2, 1, "85.33 (16+5)"),
        ("elbo", 2, 5, "85.01 (17+5)"),
        ("iwae", 2, 5, "83.89 (21+5)"),
        ("elbo", 2, 50, "84.78 (17+5)"),
        ("iwae", 2, 50, "82.90 (26+7)"),
    )
    # After 121 passes, the right estimators are less than 3 nats from the paper's numbers, and IWAE with one layer and
    # K = 5 is ahead of the VAE, which has 88.61 nats. With two layers IWAE is not ahead yet.
    controls = {
        ("elbo", 1, 1): ("reparam_without_scale", away_from(86.76, tolerance=5)),
        ("elbo", 1, 5): ("reparam_without_scale", away_from(86.47, tolerance=5)),
        ("iwae", 1, 5): ("reparam_with_1_sample", above(88.61)),
        ("elbo", 2, 1): ("stl_with_frozen_samples", away_from(85.33, tolerance=5)),
        ("elbo", 2, 5): ("stl_with_frozen_samples", away_from(85.01, tolerance=5)),
        ("iwae", 2, 5): ("dreg_with_frozen_samples", away_from(83.89, tolerance=5)),
    }
    claims = []
    for objective, layers, samples, published in entries:
        model = {"elbo": "VAE", "iwae": "IWAE"}[objective]
        name = f"{model}, {layers} layer{'s' * (layers > 1)}, K = {samples}"
        latent_dim = "50" if layers == 1 else "100-50"
        settings = {"objective": objective, "num_samples": samples, "latent_dim": latent_dim}
        control_folder = f"{objective}_k{samples}_{'one_layer' if layers == 1 else 'two_layers'}"
        read = figure_over_seeds("test_nll_nats", units=True, **settings)
        slip, contradicts = controls.get((objective, layers, samples), ("", None))
        claims.append(
            Claim(
                table="iwae",
                name=name,
                result=f"{name}, MNIST: -log p(x) (active units)",
                published=published,
                script="reproduce_iwae.sh",
                folder="iwae",
                read=read,
                truncated=() if samples == 50 else (("short", " after 121 passes"), ("--quick", "")),
                control=Control(slip, inside(control_folder, read), contradicts) if slip else None,
            )
        )
    return claims


def _discrete_vae() -> list[Claim]:
    estimators = ("leave_one_out", "disarm", "arms", "double_cv", "rodeo", "rebar", "relax", "st_gumbel_softmax")
    estimators += ("reinmax", "vimco")
    claims = []
    for network, argument, more in (
        ("linear", "", "relax before rebar, arXiv:1711.00123; "),
        ("nonlinear", " nonlinear", ""),
    ):
        claims.append(
            Claim(
                table="discrete_vae",
                name=f"{network} network",
                result=f"ELBO of the validation split, {network} Bernoulli VAE, MNIST, K = 4",
                published=(
                    f"arms before disarm before leave_one_out, arXiv:2105.14141, arXiv:2006.10680; {more}rodeo before"
                    " double_cv, arXiv:2202.09497; reinmax before st_gumbel_softmax, arXiv:2304.08612"
                ),
                script=f"reproduce_discrete_vae.sh{argument}",
                folder=f"discrete_vae_{network}",
                read=ranking("estimator", "validation_elbo_nats", estimators),
                seeds=3,
                ranks=True,
                control=_disarm_with_a_slip(),
            )
        )
    return claims


def _disarm_with_a_slip() -> Control:
    slip = "disarm_without_average"
    read = ranking("estimator", "validation_elbo_nats", ("leave_one_out", "disarm", "arms", slip))
    # The larger bound is the better one, so the estimators stand in the reverse order.
    return Control(slip, read, out_of_order("leave_one_out", "disarm", "arms"), replaces="disarm")


def _snr() -> list[Claim]:
    claims = []
    for name, published, group, estimator, slip in (
        ("theta", "+0.5, arXiv:1802.04537", "theta", "reparam", "reparam_with_4_samples"),
        ("phi", "-0.5, arXiv:1802.04537", "phi", "reparam", "reparam_of_a_frozen_density"),
        ("phi, DReG", "+0.5 for large K, arXiv:1810.04152", "phi", "dreg", "dreg_with_4_samples"),
        ("phi, VIMCO", "-0.5, arXiv:2602.01412", "phi", "vimco", "vimco_without_direct_term"),
        ("phi, VIMCO-star", "+0.5, arXiv:2602.01412", "phi", "vimco_star", "vimco_star_over_k_minus_1"),
    ):
        away = away_from(float(published[:4]), tolerance=0.2)
        claims.append(
            Claim(
                table="snr",
                name=name,
                result=f"slope of log SNR over log K: {name}",
                published=published,
                script="reproduce_snr.sh",
                folder="snr",
                read=slope(group, estimator),
                control=Control(slip, slope(group, slip), away),
            )
        )
    return claims


def _toys() -> list[Claim]:
    claims = []
    for target, papers in ((0.45, "arXiv:1703.07370, arXiv:1711.00123"), (0.499, "arXiv:1711.00123")):
        claims.append(
            Claim(
                table="toys_bernoulli",
                name=f"t = {target:g}",
                result=f"one coin, E (b - {target:g})^2, after training: loss",
                published=f"rebar and relax near the optimum, {target**2:.4f}, before reinforce, {papers}",
                script="reproduce_toys.sh",
                folder="toys/bernoulli",
                read=toy_ranking(f"target {target:g}", "final_loss", ("rebar", "relax", "reinforce")),
                seeds=5,
                ranks=True,
                control=_rebar_with_a_slip() if target == 0.45 else None,
            )
        )
    polynomial = ("local_expectation", "reinmax", "st_gumbel_softmax", "straight_through")
    for power in (1.5, 2, 3):
        claims.append(
            Claim(
                table="toys_polynomial",
                name=f"power {power:g}",
                result=f"128 coins, power {power:g}, after training: loss",
                published="reinmax near the exact gradient, the others behind, arXiv:2304.08612",
                script="reproduce_toys.sh",
                folder="toys/polynomial",
                read=toy_ranking(f"power {power:g}", "final_loss", polynomial),
                seeds=5,
                ranks=True,
                control=_reinmax_with_a_slip(power),
            )
        )
    claims.append(
        Claim(
            table="toys_categorical",
            name="variance at the start",
            result="three bits as one of eight classes: variance at the start",
            published="unordered_set below leave_one_out, at two evaluations of f, below reinforce, arXiv:2002.06043",
            script="reproduce_toys.sh",
            folder="toys/categorical",
            read=toy_ranking("three_bits", "first_variance", ("unordered_set", "leave_one_out", "reinforce")),
            seeds=5,
            ranks=True,
            control=_leave_one_out_with_a_slip(),
        )
    )
    return claims


def _rebar_with_a_slip() -> Control:
    slip = "rebar_with_a_wrong_sign"
    read = toy_ranking("target 0.45", "final_loss", (slip, "reinforce"))
    return Control(slip, read, out_of_order("rebar", "reinforce"), replaces="rebar")


def _reinmax_with_a_slip(power: float) -> Control:
    slip = "reinmax_without_midpoint"
    read = toy_ranking(f"power {power:g}", "final_loss", ("local_expectation", slip, "st_gumbel_softmax"))
    contradicts = nearer_to_the_others("reinmax", "local_expectation", "st_gumbel_softmax")
    return Control(slip, read, contradicts, replaces="reinmax")


def _leave_one_out_with_a_slip() -> Control:
    slip = "leave_one_out_shrunk"
    read = toy_ranking("three_bits", "first_variance", ("unordered_set", slip, "reinforce"))
    contradicts = out_of_order("unordered_set", "leave_one_out", "reinforce")
    return Control(slip, read, contradicts, replaces="leave_one_out")


def _stochastic_costs() -> list[Claim]:
    at_minus_3 = lambda estimator: variance("phi", estimator, point=-3)
    ratio_at_minus_3 = lambda estimator: variance("phi", estimator, over="reparam", point=-3)
    ratio = lambda estimator: variance("phi", estimator, over="reparam")
    lower = "below the pathwise one's, arXiv:1906.10652"
    near = "near the pathwise one's, arXiv:1906.10652"
    far_above = "far above the pathwise one's, arXiv:1906.10652"
    square, score = "E (z + 3)^2", "score function"
    lost, uncoupled = "reparam_without_scale", "measure_valued_uncoupled"
    summed, on_the_path = "reinforce_summed", "reinforce_on_the_path"
    claims = []
    for cost, folder, name, published, read, estimator, slip, contradicts in (
        (square, "quadratic", "pathwise", "76, closed form", at_minus_3, "reparam", lost, away_from(76)),
        (square, "quadratic", score, "2041, closed form", at_minus_3, "reinforce", on_the_path, away_from(2041)),
        (square, "quadratic", "measure-valued", near, ratio_at_minus_3, "measure_valued", uncoupled, above(2)),
        ("E exp(-10 z^2)", "exponential", score, lower, ratio, "reinforce", summed, above(1)),
        ("E cos 5z", "cosine", score, lower, ratio, "reinforce", summed, above(1)),
        ("a logistic regression", "logistic_regression", score, far_above, ratio, "reinforce", on_the_path, below(10)),
    ):
        claims.append(
            Claim(
                table="stochastic_costs",
                name=f"{cost.removeprefix('a ')}: {name}",
                result=f"variance of the gradient of {cost}: {name}",
                published=published,
                script="reproduce_stochastic_costs.sh",
                folder=f"costs/{folder}",
                read=read(estimator),
                control=Control(slip, read(slip), contradicts),
            )
        )
    return claims


def _along_training() -> list[Claim]:
    claims = []
    for name, paper, objective, estimator, slip in (
        ("sticking the landing", "arXiv:1703.09194", "elbo", "stl", "stl_with_frozen_samples"),
        ("DReG", "arXiv:1810.04152", "iwae", "dreg", "dreg_with_frozen_samples"),
    ):
        claims.append(
            Claim(
                table="along_training",
                name=name,
                result=f"variance of the encoder's gradient after training: {name}",
                published=f"below the pathwise one's, {paper}",
                script="reproduce_variance_along_training.sh",
                folder=f"along_training/{objective}/variance",
                read=variance("encoder", estimator, over="reparam"),
                control=Control(slip, variance("encoder", slip, over="reparam"), above(1)),
            )
        )
    return claims


def _frey_faces() -> list[Claim]:
    claims = []
    for covariance, posterior in (("diagonal", "normal"), ("full", "full_covariance")):
        claims.append(
            Claim(
                table="frey_faces",
                name=f"-log p(x), {covariance} covariance",
                result=f"Frey faces, {covariance} covariance: -log p(x)",
                published="none for this net",
                script="reproduce_frey_faces.sh",
                folder="frey_faces",
                read=figure_over_seeds("test_bits_per_dim", "bits/dim", posterior=posterior),
                seeds=3,
            )
        )
    return claims


def _reinmax() -> list[Claim]:
    claims = [
        Claim(
            table="reinmax",
            name="validation ELBO",
            result="ELBO of the validation split, VAE of 4 x 8 classes, MNIST, each at its better temperature",
            published="reinmax before st_gumbel_softmax, arXiv:2304.08612",
            script="reproduce_reinmax.sh",
            folder="reinmax",
            read=ranking("estimator", "validation_elbo_nats", ("reinmax", "st_gumbel_softmax", "gumbel_softmax")),
            seeds=3,
            ranks=True,
        )
    ]
    relaxed = ("gumbel_softmax", "gumbel_rao", "gapped_st", "reinmax_rao", "generalized_st", "straight_through")
    gradient = Claim(
        table="reinmax",
        name="distance from the exact gradient",
        result="distance from the exact gradient over its length, VAE of 4 x 8 classes, each at its better temperature",
        published="reinmax before st_gumbel_softmax, arXiv:2304.08612",
        script="reproduce_reinmax.sh",
        folder="reinmax/gradients",
        read=distances("encoder", ("reinmax", "st_gumbel_softmax", *relaxed)),
        ranks=True,
        control=_reinmax_gradient_with_a_slip(),
    )
    return [*claims, gradient]


def _reinmax_gradient_with_a_slip() -> Control:
    slip = "reinmax_without_midpoint"
    read = distances("encoder", ("reinmax", "st_gumbel_softmax", slip))
    return Control(slip, read, out_of_order("reinmax", "st_gumbel_softmax"), replaces="reinmax")


CLAIMS = [
    *_flax_vae(),
    *_iwae(),
    *_discrete_vae(),
    *_snr(),
    *_toys(),
    *_stochastic_costs(),
    *_along_training(),
    *_frey_faces(),
    *_reinmax(),
]
