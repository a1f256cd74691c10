"""Published numbers against those obtained here: the README's table of results, from the rows that scripts left.

    bash scripts/reproduce_flax_vae.sh DIR && python -m experiments.published

Every claim below names its script. What the scripts left in --results is read, written to published.csv, beside this
file, and put into README.md; a claim whose script was not run keeps its row of before. Nothing is measured here.
"""

import csv
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import cli, tables

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "experiments/published.csv"
README = ROOT / "README.md"
MARKS = ("<!-- published: made by python -m experiments.published -->\n", "<!-- /published -->\n")
COLUMNS = ("result", "published", "obtained", "K", "data", "precision", "machine", "minutes", "commit", "script")
TRUNCATED = ", TRUNCATED"

flags.DEFINE_string("results", "results", "folder in which the scripts left theirs")
FLAGS = flags.FLAGS


class Claim(NamedTuple):
    """A published number or order, and where its counterpart is found.

    Attributes:
      read: what it says of a folder of results: the row's columns from "obtained" on.
    """

    result: str
    published: str
    script: str
    folder: str
    read: Callable[[Path], dict[str, str]]

    def quick(self) -> "Claim":
        """The same of what the script's --quick leaves."""
        first, *rest = self.folder.split("/")
        folder = "/".join([f"{first}_quick", *rest])
        return self._replace(result=f"{self.result}{TRUNCATED}", script=f"{self.script} --quick", folder=folder)


def main() -> None:
    with cli.one_sentence():
        folder = Path(FLAGS.results)
        if not folder.is_dir():
            raise ValueError(f"--results={folder} is no folder; run a script of scripts/reproduce_*.sh first")
        rows = collect(folder, read_rows())
        README.write_text(in_readme(README.read_text(), rows))
        ROWS.write_text(tables.to_csv(rows))
    print(to_markdown(rows))


def collect(folder: Path, before: list[dict[str, str]]) -> list[dict[str, str]]:
    """A row for each claim that was ever tried, in the order of the claims; truncated where there is no whole one."""
    known = {row["result"]: row for row in before}
    for claim in CLAIMS:
        if (folder / claim.folder).exists():
            head = {"result": claim.result, "published": claim.published, "script": claim.script}
            try:
                row = head | claim.read(folder / claim.folder)
            except ValueError as error:  # a script that is not through
                print(f"left out: {claim.result}: {error}")
                continue
            known[claim.result] = {name: row[name] for name in COLUMNS}
    shown = [claim.result for claim in CLAIMS if claim.result in known]
    return [known[name] for name in shown if not (name.endswith(TRUNCATED) and name.removesuffix(TRUNCATED) in shown)]


def read_rows() -> list[dict[str, str]]:
    if not ROWS.exists():
        return []
    with open(ROWS, newline="") as file:
        return list(csv.DictReader(file))


def to_markdown(rows: list[dict[str, str]]) -> str:
    return tables.to_markdown([list(COLUMNS), *([row[name] for name in COLUMNS] for row in rows)])


def in_readme(text: str, rows: list[dict[str, str]]) -> str:
    """The text with the table between its marks.

    Raises:
      ValueError: if the marks are not there.
    """
    start, end = MARKS
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"README.md has no place for the table: it lacks the lines {start.strip()} and {end.strip()}")
    return text[: text.index(start) + len(start)] + to_markdown(rows) + "\n" + text[text.index(end) :]


def trained(figure: str, unit: str = "nats", sign: int = 1, units: bool = False, **chosen: Any) -> Callable:
    """Mean and standard error of a test figure over the seeds of the runs with the settings `chosen`; with `units`,
    the active units in brackets."""

    def read(path: Path) -> dict[str, str]:
        from experiments import report_contents, results

        contents = report_contents.read([path])
        runs = [run for run in contents.runs if all(str(run.row[key]) == str(value) for key, value in chosen.items())]
        runs = [run for run in runs if run.row.get("status") == "done"]
        if not runs:
            raise ValueError(f"{path} has no finished run with {chosen}; run the script again")
        values, row, config = [sign * run.row[figure] for run in runs], runs[0].row, runs[0].config
        mean, error = results.mean_and_error(values)
        obtained = f"{mean:.2f}" + (f" ± {error:.2f} ({len(values)} seeds)" if len(values) > 1 else "")
        if units:
            obtained += f" ({statistics.fmean(run.row['active_units'] for run in runs):.0f} units)"
        samples = (
            f"{row['num_samples']}; evaluated with {row['eval_samples'] if 'nll' in figure or 'bits' in figure else 10}"
        )
        seconds = max((run.seconds[-1] for run in runs if run.seconds), default=math.nan)
        return {
            "obtained": f"{obtained} {unit}".strip(),
            "K": samples,
            "data": f"{row['dataset']}, {row['binarization']}",
            "precision": row["compute_dtype"],
            **_made(config, seconds / 60),
        }

    return read


def order(name: str, figure: str, sign: int = 1) -> Callable:
    """All finished settings by a figure, best first."""

    def read(path: Path) -> dict[str, str]:
        from experiments import report_contents, results

        contents = report_contents.read([path])
        if not contents.finished:
            raise ValueError(f"{path} has no finished run; let the script go on")
        rows = [row for row in results.aggregate(contents.finished, [name]) if figure in row]
        rows = sorted(rows, key=lambda row: sign * row[figure], reverse=True)
        whole = trained(figure, **{name: rows[0][name]})(path)
        return whole | {"obtained": ", ".join(f"{row[name]} {row[figure]:.2f}" for row in rows)}

    return read


def slope(group: str, estimator: str) -> Callable:
    """The slope of log SNR against log K, by least squares."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        x, y = ([math.log(row[key]) for row in rows] for key in ("num_samples", f"{group}_snr"))
        return _measured(laboratory, f"{statistics.linear_regression(x, y).slope:+.2f}", rows)

    return read


def variance(group: str, estimator: str, over: str | None = None, point: float | None = None) -> Callable:
    """The variance of a gradient with its interval at one point, the last by default; or its ratio to another's."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        at = (lambda row: row[laboratory.point]) if laboratory.point else lambda row: 0
        [row] = [row for row in rows if at(row) == (max(map(at, rows)) if point is None else point)]
        if over is None:
            ends = [tables.number(row[f"{group}_variance{end}"], 4) for end in ("", "_low", "_high")]
            return _measured(laboratory, f"{ends[0]} [{ends[1]}, {ends[2]}]", [row])
        [other] = [one for one in _laboratory(path, over)[1] if at(one) == at(row)]
        ratio = row[f"{group}_variance"] / other[f"{group}_variance"]
        return _measured(laboratory, f"{tables.number(ratio)} of {over}'s", [row])

    return read


def bias(group: str, estimator: str) -> Callable:
    """The bias along the exact gradient, in percent."""

    def read(path: Path) -> dict[str, str]:
        laboratory, rows = _laboratory(path, estimator)
        row = rows[-1]
        text = tables.plus_minus(100 * row[f"{group}_bias"], 100 * row[f"{group}_bias_stderr"])
        return _measured(laboratory, f"{text} %", [row])

    return read


def toy(point: str, figure: str, estimators: tuple[str, ...]) -> Callable:
    """The final loss or the variance at the start of some estimators at a point of a toy problem, least first."""

    def read(path: Path) -> dict[str, str]:
        from experiments import report_contents

        [found] = report_contents.read([path]).toys
        rows = [row for row in found.rows if row["point"] == point and row["estimator"] in estimators]
        rows.sort(key=lambda row: row[figure])
        error = lambda row: row.get(f"{figure}_stderr", math.nan)
        precise = lambda row: f"{row[figure]:.5f} ± {error(row):.5f}"
        shown = lambda row: tables.number(row[figure]) if math.isnan(error(row)) else precise(row)
        chosen = found.config["settings"]
        return {
            "obtained": ", ".join(f"{row['estimator']} {shown(row)}" for row in rows),
            "K": str(chosen["num_samples"]),
            "data": f"{chosen['toy']} toy, {chosen['steps']} steps, {chosen['seeds']} seeds",
            "precision": "float32",
            **_made(found.config, found.config["seconds"] / 60),
        }

    return read


def _laboratory(path: Path, estimator: str):
    from experiments import report_contents

    [laboratory] = report_contents.read([path]).laboratories
    rows = [row for row in laboratory.rows if row["estimator"] == estimator]
    if not rows:
        raise ValueError(f"{path} has no row of {estimator}; run the script again")
    return laboratory, rows


def _measured(laboratory, obtained: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    samples = [row["num_samples"] for row in rows]
    draws = laboratory.config["settings"]["draws"]
    return {
        "obtained": obtained,
        "K": f"{samples[0]} to {samples[-1]}" if len(set(samples)) > 1 else str(samples[0]),
        "data": f"{rows[0]['problem']}, {draws} gradients",
        "precision": "float32",
        **_made(laboratory.config, laboratory.config.get("seconds", math.nan) / 60),
    }


def _made(config: dict[str, Any], minutes: float) -> dict[str, str]:
    commit = config.get("git_commit") or "-"
    return {
        "machine": config["platform"].replace(", x86_64", ""),
        "minutes": "-" if math.isnan(minutes) else tables.number(minutes, 2),
        "commit": commit[:7] + "+" * commit.endswith("+"),
    }


def _iwae(objective: str, layers: int, samples: int, published: str) -> Claim:
    """An entry of the table of arXiv:1509.00519."""
    name = {"elbo": "VAE", "iwae": "IWAE"}[objective]
    chosen = {"objective": objective, "num_samples": samples, "latent_dim": "50" if layers == 1 else "100-50"}
    title = f"{name}, {layers} layer{'s' * (layers > 1)}, K = {samples}, MNIST: -log p(x) (active units)"
    return Claim(title, published, "reproduce_iwae.sh", "iwae", trained("test_nll_nats", units=True, **chosen))


_SNR, _COSTS, _ALONG = "reproduce_snr.sh", "reproduce_stochastic_costs.sh", "reproduce_variance_along_training.sh"
_FREY, _REINMAX, _TOYS = "reproduce_frey_faces.sh", "reproduce_reinmax.sh", "reproduce_toys.sh"
_WHOLE = [
    Claim(
        "flax's VAE example, MNIST, 10 epochs: -ELBO",
        "about 104 (its README)",
        "reproduce_flax_vae.sh",
        "flax_vae",
        trained("test_elbo_nats", sign=-1),
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
            "rodeo, relax, rebar and arms before double_cv and disarm before leave_one_out, arXiv:2202.09497",
            "reproduce_discrete_vae.sh",
            f"discrete_vae_{network}",
            order("estimator", "validation_elbo_nats"),
        )
        for network in ("linear", "nonlinear")
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
        )
        for target, paper in ((0.45, "arXiv:1703.07370, arXiv:1711.00123"), (0.499, "arXiv:1711.00123"))
    ),
    *(
        Claim(
            f"128 coins, power {power:g}, after training: loss",
            "reinmax as good as the exact gradient, the others behind, arXiv:2304.08612",
            _TOYS,
            "toys/polynomial",
            toy(
                f"power {power:g}",
                "final_loss",
                ("local_expectation", "reinmax", "st_gumbel_softmax", "straight_through"),
            ),
        )
        for power in (1.5, 2, 3)
    ),
    Claim(
        "three bits as one of eight classes: variance at the start",
        "unordered_set below leave_one_out below reinforce, arXiv:2002.06043",
        _TOYS,
        "toys/categorical",
        toy("three_bits", "first_variance", ("unordered_set", "leave_one_out", "reinforce")),
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
    ),
    Claim(
        "Frey faces, full covariance: -log p(x)",
        "no worse than the diagonal",
        _FREY,
        "frey_faces",
        trained("test_bits_per_dim", "bits/dim", posterior="full_covariance"),
    ),
    Claim(
        "ELBO of the test set, VAE of 4 x 8 classes, MNIST",
        "reinmax before st_gumbel_softmax, arXiv:2304.08612",
        _REINMAX,
        "reinmax",
        order("estimator", "test_elbo_nats"),
    ),
    *(
        Claim(
            f"bias along the exact gradient, VAE of 4 x 8 classes: {name}",
            "ReinMax nearer than straight-through Gumbel-Softmax, arXiv:2304.08612",
            _REINMAX,
            "reinmax/gradients",
            bias("encoder", name),
        )
        for name in ("reinmax", "st_gumbel_softmax")
    ),
]
CLAIMS = [claim for whole in _WHOLE for claim in (whole, whole.quick())]


if __name__ == "__main__":
    cli.run(main)
