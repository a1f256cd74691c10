"""The sections about trained runs: verdict, settings, results, later evaluations, curves, rate and distortion."""

from html import escape
from typing import Any

from experiments.common import provenance, results
from experiments.common import verdict as verdicts
from experiments.common.charts import along_training
from experiments.common.comparison import Comparison
from experiments.common.workdirs import Contents, Run
from experiments.report import charts, words
from experiments.report.elements import (
    Cell,
    Charts,
    Fact,
    Section,
    cell_with_interval,
    folded,
    large_figures,
    listed,
    table,
    with_minus_signs,
    without_shared,
)

# If there are more pairs, only those with the best value are listed.
MOST_PAIRS = 500
_GRADIENT = (
    "Each point is measured at the run's parameters of that moment, for one fixed batch of training images. The bias is"
    " relative to the length of the true gradient, and its bars are two standard errors."
)
_AUTO = (
    "The estimator auto uses one of its candidates, and measures all of them from time to time. The first chart has the"
    " share of the steps since the previous evaluation."
)
_ADVICE = (
    "Whether it is better than the others is not tested. To test it, name a setting with --compare; if several settings"
    " were swept, the runs also need a validation split (--validation_size=200)."
)
_PLANE = (
    "Each point is a run. Along a grey line the ELBO is the same, and it is better towards the lower left. At a rate of"
    " 0 the latent variables are not used."
)


def sections(contents: Contents, page_charts: Charts, every: int, pictures_place: str) -> list[Section]:
    """All sections about trained runs.

    Args:
      every: Every how many points of a curve one is drawn. The last point is always drawn.
      pictures_place: Text in place of the pictures, which are chosen when the size of the rest of the page is known.
    """
    made = [Section("settings", "Settings", _settings(contents))]
    if contents.finished:
        made.append(Section("results", "Results", _results(contents)))
    if any(run.evaluations for run in contents.runs):
        made.append(Section("evaluations", "Evaluated again", _evaluations(contents)))
    if curves := charts.bound(contents, every):
        thinned = f"<p>Only one of {every} evaluations is drawn, to keep the file small.</p>" if every > 1 else ""
        made.append(
            Section(
                "curves", "Bound along training", page_charts.add(curves, "bound") + _about_curves(contents) + thinned
            )
        )
    if groups := along_training.groups([row for run in contents.runs for row in run.rows]):
        made.append(Section("gradient", "Gradient along training", _gradient(contents, page_charts, groups)))
    if schedule := charts.auto_schedule(contents):
        html = page_charts.add(schedule, "candidates in use")
        if errors := charts.auto_errors(contents):
            html += page_charts.add(errors, "errors of the candidates")
        made.append(Section("auto", "Choices of auto", f"{html}<p>{_AUTO}</p>"))
    if plane := charts.rate_distortion(contents):
        made.append(
            Section("plane", "Rate and distortion", page_charts.add(plane, "rate-distortion") + f"<p>{_PLANE}</p>")
        )
    return [*made, Section("pictures", "Reconstructions and samples", pictures_place)]


def verdict(comparison: Comparison, page_charts: Charts) -> Section:
    """The section with the answer of a comparison, the chosen settings and all pairs."""
    answer, warnings = verdicts.answer(comparison), verdicts.warnings(comparison)
    html = f"<p>{escape(answer)}.</p>"
    if warnings:
        html += "<ul>" + "".join(f"<li>{escape(warning)}</li>" for warning in warnings) + "</ul>"
    header, *lines = verdicts.table(comparison)
    html += table(header, [[Cell(text) for text in line] for line in lines], "chosen settings", sortable=False)
    for name in comparison.others:
        if chart := charts.candidates(comparison, name):
            html += page_charts.add(chart, f"validation bound against {name}")
    best = next(choice.value for choice in comparison.choices if choice.chosen)
    shown = comparison.pairs
    if len(shown) > MOST_PAIRS:
        shown = [pair for pair in shown if best in (pair.better, pair.worse)]
    header, *lines = verdicts.pairs(comparison._replace(pairs=shown))
    pairs = table(header, [[Cell(text) for text in line] for line in lines], "pairs", sortable=False)
    of_all = "All" if len(shown) == len(comparison.pairs) else f"The {len(shown)} pairs with {best}, of"
    html += folded(f"{of_all} {len(comparison.pairs)} pairs", pairs) if len(lines) > 10 else pairs
    html += f"<p>{escape(verdicts.note(comparison))}</p>"
    return Section("verdict", f"Which {comparison.setting.replace('_', ' ')} is best", html)


def first_setting(contents: Contents, comparison: Comparison | None) -> str:
    """The figures of the first setting, in large type, and the answer of the comparison.

    Without a comparison, the text says how to make one: being first in a table is no evidence.

    The text is empty if the runs cannot be compared.
    """
    if not _are_comparable(contents.finished):
        return ""
    rows = results.aggregate(contents.finished, contents.names)
    facts = []
    for key, name in _titles(contents).items():
        if key in rows[0] and key != "validation_elbo_nats":
            unit = "nats" if key.endswith("_nats") else ""
            facts.append(Fact(name, with_minus_signs(results.cell(rows[0], key)), unit))
    if not contents.names:
        return large_figures(facts)
    first = f"{contents.label(rows[0])} is first by the {results.RANKINGS[results.ranked_by(rows)]}."
    if comparison:
        answer = f'<p class="verdict">{escape(verdicts.answer(comparison))}</p>'
        return f'{answer}{large_figures(facts)}<p class="best">{escape(first)}</p>'
    return f'{large_figures(facts)}<p class="best">{escape(f"{first} {_ADVICE}")}</p>'


def _are_comparable(rows: list[dict[str, Any]]) -> bool:
    """Whether one of the rows may be called the first.

    Nats of different data or likelihoods, and -log p(x) with different K, cannot be compared. Settings with a
    validation bound and settings without one cannot be compared either, because settings are chosen by that bound.
    """
    alike = ("dataset", "binarization", "likelihood", "eval_samples")
    done = [row for row in rows if row["status"] == "done"]
    return len({(*(row[name] for name in alike), "validation_elbo_nats" in row) for row in done}) == 1


def _titles(contents: Contents) -> dict[str, str]:
    """The titles of the figures; the title of -log p(x) says its K."""
    samples = sorted({row["eval_samples"] for row in contents.finished})
    titles = {key: figure.title for key, figure in results.FIGURES.items()}
    titles["test_nll_nats"] += f" (K = {', '.join(map(str, samples))})"
    return titles


def _settings(contents: Contents) -> str:
    """The settings that differ, followed by a folded table of the settings that all runs share."""
    rows = [run.row for run in contents.runs]
    names = [*contents.names, *(["seed"] if len({row["seed"] for row in rows}) > 1 else [])]
    lines = []
    for name in names:
        values = sorted({row[name] for row in rows}, key=lambda value: (isinstance(value, str), value))
        lines.append([Cell(name), Cell(_values(values))])
    differing = table(["setting", "values"], lines, "settings", sortable=False) if lines else "<p>One setting.</p>"
    alike = {name: value for name, value in contents.runs[0].settings.json().items() if name not in names}
    lines = [[Cell(name), Cell(str(value))] for name, value in alike.items()]
    summary = f"The {len(lines)} settings that all runs share" if names else f"The {len(lines)} settings of the run"
    return differing + folded(summary, table(["setting", "value"], lines, "alike", sortable=False))


def _results(contents: Contents) -> str:
    """Means and standard errors over seeds, followed by a folded table with a line for every row of results.csv."""
    names = contents.names
    means = results.aggregate(contents.finished, names)
    titles = {key: title for key, title in _titles(contents).items() if any(key in row for row in means)}
    titles |= {key: cost.title for key, cost in results.COSTS.items() if all(key in row for row in means)}
    counts = [key for key in ("runs", "diverged") if any(row[key] > (key == "runs") for row in means)]
    lines = []
    for row in means:
        line = [Cell(results.starred(row, name), row[name]) for name in [*names, *counts]]
        lines.append(line + [cell_with_interval(results.cell(row, key), row.get(key)) for key in titles])
    costs = [cost.title for cost in results.COSTS.values()]
    header, lines, shared = without_shared([*names, *counts, *titles.values()], lines, costs)
    summary = shared + table(header, lines, "summary")
    columns = results.FIGURES | results.COSTS
    summary += words.explained({title: columns[key].meaning for key, title in titles.items()})
    if any(cell.text.endswith(" *") for line in lines for cell in line):
        summary += "<p>A star marks estimators whose papers call them biased.</p>"
    if known := words.known_values(run.settings for run in contents.runs):
        values = "".join(f"<li>{escape(text)}</li>" for text in known)
        summary += f"<p>Good values for the same data and network:</p><ul>{values}</ul>"
    if len(contents.finished) == 1:
        return summary
    about = ["seed", "status", "step"]
    lines = [
        [Cell(results.cell(row, key), row.get(key)) for key in [*names, *about, *titles]] for row in contents.finished
    ]
    header, lines, shared = without_shared([*names, *about, *titles.values()], lines, about + costs)
    every = shared + table(header, lines, "rows")
    return summary + folded(f"Each of the {len(lines)} runs; results.csv has every digit", every)


def _evaluations(contents: Contents) -> str:
    """A table of later evaluations by `experiments.evaluate`, with the commit and the versions of each."""
    evaluated = [(run, row) for run in contents.runs for row in run.evaluations]
    tested = {key: figure for key, figure in results.FIGURES.items() if key.removeprefix("ema_").startswith("test_")}
    figures = {key: figure.title for key, figure in tested.items()} | results.ANNEALED
    figures = {key: title for key, title in figures.items() if any(key in row for _, row in evaluated)}
    header = [*contents.names, "seed", "epoch", "K", *figures.values(), "commit", "versions"]
    lines = [_evaluation(contents, run, row, list(figures)) for run, row in evaluated]
    header, lines, shared = without_shared(header, lines, ["seed", "epoch", "K", "commit", "versions"])
    return shared + table(header, lines, "evaluations")


def _evaluation(contents: Contents, run: Run, row: dict[str, Any], figures: list[str]) -> list[Cell]:
    line = [Cell(str(run.row[name]), run.row[name]) for name in (*contents.names, "seed")]
    line += [Cell(str(row[name]), row[name]) for name in ("epoch", "eval_samples")]
    line += [Cell(results.cell(row, key), row.get(key)) for key in figures]
    return [*line, Cell(provenance.short(row.get("git_commit", ""))), Cell(row.get("versions") or "-")]


def _gradient(contents: Contents, page_charts: Charts, groups: list[str]) -> str:
    """A chart for each group of parameters and each figure of the gradient."""
    html = ""
    for group in groups:
        for figure in along_training.TITLES:
            if chart := charts.gradient(contents, group, figure):
                html += page_charts.add(chart, f"{figure} of the gradient, {group}")
    return html + f"<p>{_GRADIENT}</p>"


def _about_curves(contents: Contents) -> str:
    """A line that says what the curves are."""
    seeds = " Faint lines are single seeds, and lines with points are their means."
    several = any(len(group) > 1 for group in contents.runs_by_label().values())
    return f"<p>The ELBO of images that are not trained on, after each evaluation.{seeds if several else ''}</p>"


def _values(values: list[Any]) -> str:
    """The values of a setting; many integers in a row are shortened."""
    if len(values) > 10 and all(isinstance(value, int) for value in values):
        if values == list(range(values[0], values[-1] + 1)):
            return f"{values[0]} to {values[-1]}"
    return listed(map(str, values), 40)
