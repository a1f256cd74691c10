"""The report as one HTML file: tables, charts, pictures and what is needed to repeat it; no network, no other file.

Text from rows, settings and paths goes through `escape`. The style sheet and the script stand beside this file.
"""

import base64
import json
import math
import shlex
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import cli, results
from experiments.common.tables import number, plus_minus
from experiments.compare_estimators.verdicts import between
from experiments.report import charts as report_charts
from experiments.report.contents import Contents, Laboratory, Run, Toy, commands

HERE = Path(__file__).parent
# Of a page; plotly.js takes half of it. Pictures that do not fit are left out, and named; then points of curves.
MAX_BYTES = 10_000_000
PICTURES = ("reconstructions", "prior_samples", "interpolations", "latent_plane")
CAPTIONS = {
    "reconstructions": "test images above, reconstructions below",
    "prior_samples": "samples of the prior",
    "interpolations": "from one test image to another",
    "latent_plane": "latent plane",
}


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by: the row's own number, to its last digit. `interval`: of the number,
    below it."""

    text: str
    value: Any = None
    interval: str = ""


def page(contents: Contents, title: str) -> str:
    """The whole file; its curves have as many points as keep it small."""
    longest = max((len(run.rows) for run in contents.runs), default=0)
    for every in (2**n for n in range(longest.bit_length() + 1)):
        text = _page(contents, title, every)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _page(contents: Contents, title: str, every: int) -> str:
    """The file with one of `every` points of the curves."""
    from plotly.offline import get_plotlyjs  # and nothing else of it: 5 MB of JavaScript

    charts: list[report_charts.Chart] = []
    sections = _training(contents, charts, every) if contents.runs else []
    for i, laboratory in enumerate(contents.laboratories):
        heading = f"Gradient quality: {laboratory.rows[0]['problem']}"
        sections.append((f"laboratory-{i}", heading, _laboratory(laboratory, charts)))
    for i, toy in enumerate(contents.toys):
        heading = f"Toy problem: {toy.config['settings']['toy']}"
        sections.append((f"toy-{i}", heading, _toy(toy, charts)))
    sections.append(("reproduce", "How to repeat it", _reproduce(contents)))
    head = _head(contents, title)
    nav = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{escape(heading)}</h2>{text}</section>' for name, heading, text in sections
    )
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{(HERE / 'report.css').read_text()}</style></head>",
        f"<body><header>{head}<nav>{nav}</nav></header><main>{body}",
        "",  # the pictures, which have what is left
        f'</main><script type="application/json" id="charts">{_json(charts)}</script>',
        f"<script>{get_plotlyjs()}</script><script>{(HERE / 'report.js').read_text()}</script></body></html>\n",
    ]
    left = MAX_BYTES - sum(len(part.encode()) for part in parts)
    return "".join(parts).replace(_PICTURES_HERE, _pictures(contents, left - 20_000))


_PICTURES_HERE = "<!-- pictures -->"


def _head(contents: Contents, title: str) -> str:
    text = f'<p class="kind">Report</p><h1>{escape(title)}</h1>'
    if contents.finished:
        text += f"<p>{escape(results.heading(contents.finished))}</p>"
        text += _facts(contents) if _comparable(contents.finished) else ""
    for laboratory in contents.laboratories:
        text += f"<p>{escape(_protocol(laboratory))}</p>{_won(laboratory)}"
    for toy in contents.toys:
        text += f"<p>{escape(_toy_protocol(toy))}</p>{_reached(toy)}"
    waiting = len(contents.runs) - len(contents.finished)
    if waiting:
        text += (
            f'<p class="warning">{waiting} of {len(contents.runs)} runs not finished: their curves are shown alone.</p>'
        )
    return text


def _comparable(rows: list[dict[str, Any]]) -> bool:
    """Whether one of them may be called the best: nats of other pixels, and -log p(x) of another K, are no better and
    no worse, and what was chosen on a validation split is not what was chosen on the test set."""
    alike = ("dataset", "binarization", "likelihood", "eval_samples")
    done = [row for row in rows if row["status"] == "done"]
    return len({(*(row[name] for name in alike), "validation_elbo_nats" in row) for row in done}) == 1


def _facts(contents: Contents) -> str:
    """The figures of the best setting, large."""
    rows = results.aggregate(contents.finished, contents.names)
    best, facts = rows[0], []
    for key, name in _titles(contents).items():
        if key in best and key in results.FIGURES:
            unit = "nats" if key.endswith("_nats") else ""
            facts.append((name, _signed(results.cell(best, key)), unit))
    if not contents.names:
        return _large(facts)
    said, single = f"best: {contents.label(best)}", results.of_one_seed(rows)
    names = lambda rows: ", ".join(map(contents.label, rows))
    if level := results.level_with_best(rows):
        said += f"; within two standard errors of it: {names(level)}"
    if best in single:
        said += "; of one finished seed, so no difference is judged" if len(rows) > 1 else ""
    elif single:
        said += f"; of one finished seed, so not judged: {names(single)}"
    return _large(facts) + f'<p class="of">{escape(said)}</p>'


def _won(laboratory: Laboratory) -> str:
    """Which estimator was best for each group of parameters, or how often where there are several points or K."""
    facts = []
    for group in laboratory.groups:
        best = Counter(row["estimator"] for row in laboratory.rows if row[f"{group}_verdict"] == "best")
        shown = ", ".join(f"{name} ({n} of {best.total()})" for name, n in best.most_common())
        facts.append((f"{group}: least variance × FLOP", next(iter(best)) if len(best) == 1 else shown or "-", ""))
    return _large(facts)


def _reached(toy: Toy) -> str:
    """Which estimators reached the least loss at each point."""
    facts = []
    for point in dict.fromkeys(row["point"] for row in toy.rows):
        rows = [row for row in toy.rows if row["point"] == point]
        losses = {row["estimator"]: f"{row['final_loss']:.6f}" for row in rows if math.isfinite(row["final_loss"])}
        least = min(losses.values(), key=float, default="-")
        first = [name for name, loss in losses.items() if loss == least]
        facts.append((f"{point}: least loss", least, ", ".join(first)))
    return _large(facts)


def _large(facts: list[tuple[str, str, str]]) -> str:
    """Names, figures and units, as a line of large figures."""
    lines = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(figure)} <small>{escape(unit)}</small></dd></div>"
        for name, figure, unit in facts
    )
    return f'<dl class="facts">{"".join(lines)}</dl>'


def _titles(contents: Contents) -> dict[str, str]:
    """What the figures are called, with the K of -log p(x)."""
    samples = sorted({row["eval_samples"] for row in contents.finished})
    nll = f"{results.FIGURES['test_nll_nats']} (K = {', '.join(map(str, samples))})"
    return {"validation_elbo_nats": "validation ELBO"} | results.FIGURES | {"test_nll_nats": nll}


def _training(contents: Contents, charts: list, every: int) -> list[tuple[str, str, str]]:
    """The sections (anchor, heading, HTML) of trained runs."""
    sections = [("settings", "Settings", _settings(contents))]
    if contents.finished:
        sections.append(("results", "Results", _results(contents)))
    if any(run.evaluations for run in contents.runs):
        sections.append(("evaluations", "Evaluated again", _evaluations(contents)))
    curves, plane = report_charts.bound(contents, every), report_charts.rate_distortion(contents)
    if curves:
        thinned = f"<p>One of {every} evaluations is drawn, to keep the file small.</p>" if every > 1 else ""
        sections.append(("curves", "Bound along training", _chart(charts, curves, "bound") + thinned))
    if plane:
        sections.append(("plane", "Rate and distortion", _chart(charts, plane, "rate-distortion")))
    sections.append(("pictures", "Reconstructions and samples", _PICTURES_HERE))
    return sections


def _settings(contents: Contents) -> str:
    rows = [run.row for run in contents.runs]
    names = [*contents.names, *(["seed"] if len({row["seed"] for row in rows}) > 1 else [])]
    lines = []
    for name in names:
        values = sorted({row[name] for row in rows}, key=lambda v: (isinstance(v, str), v))
        lines.append([Cell(name), Cell(", ".join(map(str, values)))])
    text = _table(["differs", "values"], lines, "settings", sortable=False) if lines else "<p>One setting.</p>"
    alike = {name: value for name, value in contents.runs[0].folder.settings().json().items() if name not in names}
    lines = [[Cell(name), Cell(str(value))] for name, value in alike.items()]
    shown = _table(["setting", "value"], lines, "alike", sortable=False)
    summary = f"The {len(lines)} settings that {'all runs share' if names else 'made it'}"
    return f"{text}<details><summary>{summary}</summary>{shown}</details>"


def _results(contents: Contents) -> str:
    """Means and standard errors over seeds, and behind a fold every row of results.csv."""
    rows, names = results.aggregate(contents.finished, contents.names), contents.names
    titles = _titles(contents)
    keys = [key for key in titles if any(key in row for row in rows)]
    counts = [key for key in ("runs", "diverged") if any(row[key] > (key == "runs") for row in rows)]
    header = [*names, *counts, *(titles[key] for key in keys)]
    plain = lambda row, names: [Cell(str(row[name]), row[name]) for name in names]
    lines = [
        plain(row, [*names, *counts]) + [Cell(results.cell(row, key), row.get(key)) for key in keys] for row in rows
    ]
    text = _table(header, lines, "summary")
    every = [
        [Cell(_exact(row.get(key)), row.get(key)) for key in (*names, "seed", "status", "step", *keys)]
        for row in contents.finished
    ]
    whole = _table([*names, "seed", "status", "step", *keys], every, "rows")
    many = len(every) > 1
    return text + (
        f"<details><summary>Each of the {len(every)} runs, as in results.csv</summary>{whole}</details>" if many else ""
    )


def _evaluations(contents: Contents) -> str:
    """What `experiments.evaluate` found later, a line each, with the code that found it."""
    figures = {key: title for key, title in results.FIGURES.items() if key.startswith("test_")}
    found = [(run, row) for run in contents.runs for row in run.evaluations]
    figures = {key: title for key, title in figures.items() if any(key in row for _, row in found)}
    lines = []
    for run, row in found:
        line = [Cell(str(run.row[name]), run.row[name]) for name in (*contents.names, "seed")]
        line += [Cell(str(row[name]), row[name]) for name in ("epoch", "eval_samples")]
        line += [Cell(results.cell(row, key), row.get(key)) for key in figures]
        commit = row.get("git_commit", "")
        commit = commit[:7] + "+" * commit.endswith("+")
        lines.append(line + [Cell(commit or "-"), Cell(row.get("versions") or "-")])
    header = [*contents.names, "seed", "epoch", "K", *figures.values(), "commit", "versions"]
    return _table(header, lines, "evaluations")


def _pictures(contents: Contents, space: int) -> str:
    """Pictures of one run of each setting, best first, as long as they fit into so many bytes."""
    text, left_out = [], []
    for label, runs in contents.by_label().items():
        run = min(runs, key=lambda run: run.row["seed"])
        found = [(name, run.folder.figures / f"{name}.png") for name in PICTURES]
        found = [(name, path.read_bytes()) for name, path in found if path.exists()]
        size = sum(len(data) for _, data in found) * 4 // 3 + 500 * len(found)
        if not found or size > space:
            left_out += [run] if found else []
            continue
        space -= size
        figures = "".join(_picture(name, data) for name, data in found)
        heading = f"{escape(label)} <small>seed {escape(str(run.row['seed']))}</small>"
        text.append(f"<h3>{heading}</h3><div class='pictures'>{figures}</div>")
    if left_out:
        places = ", ".join(str(run.folder.figures) for run in left_out)
        text.append(f"<p>Not shown, to keep the file small: {escape(places)}</p>")
    return "".join(text) or f"<p>None were drawn; <code>{cli.module('evaluate')} --figures</code> draws them.</p>"


def _picture(name: str, data: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    caption = CAPTIONS[name]
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _laboratory(laboratory: Laboratory, charts: list) -> str:
    """The section of one result of the laboratory."""
    point, rows = laboratory.point, laboratory.rows
    text, last = f"<p>{_READING}</p>", rows
    if point:
        at = max(row[point] for row in rows)
        last = [row for row in rows if row[point] == at]
    pairs = {(row["estimator"], row["num_samples"]) for row in rows}
    several_k = len(pairs) > len({name for name, _ in pairs})
    for group in laboratory.groups:
        text += f"<h3>{escape(group)}{f' <small>{escape(point)} {at:g}</small>' if point else ''}</h3>"
        drawn = [(report_charts.variance_against_cost(last, group), "variance against cost")]
        drawn += [(report_charts.bias(last, group, laboratory.config["settings"]["confidence"]), "bias")]
        if several_k:
            drawn += [(report_charts.against(laboratory, group, "num_samples", "snr"), "signal-to-noise ratio")]
        if point and len({row[point] for row in rows}) > 1:
            drawn += [(report_charts.against(laboratory, group, point, "variance"), f"variance against {point}")]
        charts_of_group = "".join(_chart(charts, chart, f"{group} {what}") for chart, what in drawn if chart)
        text += f'<div class="pair">{charts_of_group}</div>{_estimators(laboratory, group)}'
    return text


def _protocol(laboratory: Laboratory) -> str:
    chosen = laboratory.config["settings"]
    truths = " and ".join(dict.fromkeys(str(row["truth"]).split(", K=")[0] for row in laboratory.rows))
    return (
        f"{laboratory.rows[0]['problem']}, {chosen['objective']}: {chosen['draws']} gradients of each estimator,"
        f" truth: {truths}; {100 * chosen['confidence']:g} % intervals."
    )


_READING = "Variance is the trace of the covariance; * biased by its paper."


def _estimators(laboratory: Laboratory, group: str) -> str:
    """Every row of the laboratory's results.csv, as far as it is of this group."""
    of = lambda row, key: row.get(f"{group}_{key}", math.nan)
    point = laboratory.point if len({row.get(laboratory.point) for row in laboratory.rows}) > 1 else None
    header = [*([point] if point else []), "estimator", "K", "verdict", "variance", "SNR", "cosine"]
    header += ["variance × FLOP, to best", "variance × time, to best", "bias along truth (%)", "max |z|", "FLOP", "s"]
    lines = []
    for row in laboratory.rows:
        line = [Cell(f"{row[point]:g}", row[point])] if point else []
        line += [Cell(row["estimator"] + (" *" if row["declared_biased"] else ""))]
        line += [Cell(str(row["num_samples"]), row["num_samples"]), Cell(str(of(row, "verdict")))]
        figures = ("variance", "snr", "cosine", "variance_x_flops_to_best", "variance_x_seconds_to_best")
        shown = {key: between(row, f"{group}_{key}") for key in figures}
        shown |= {"bias": plus_minus(100 * of(row, "bias"), 100 * of(row, "bias_stderr"))}
        for key, text in shown.items():
            figure, _, interval = text.partition(" ")
            line += [Cell(figure, of(row, key), interval)]
        line += [Cell(number(of(row, "max_abs_z"), 2), of(row, "max_abs_z"))]
        lines.append(line + [Cell(number(row[key]), row[key]) for key in ("flops", "seconds")])
    return _table(header, lines, f"estimators {group}")


def _toy(toy: Toy, charts: list) -> str:
    """The section of one toy problem."""
    dashes = report_charts.toy_dashes(toy)
    text = f"<p>Lines: {escape(', '.join(f'{family} {dash}' for family, dash in dashes.items()))}.</p>"
    for point in dict.fromkeys(row["point"] for row in toy.rows):
        header, lines = ["estimator", "works with", "final loss", "variance at the start"], []
        for row in (row for row in toy.rows if row["point"] == point):
            loss, error = row["final_loss"], row["final_loss_stderr"]
            shown = f"{loss:.6f}" + ("" if math.isnan(error) else f" ± {error:.6f}")
            lines.append([Cell(row["estimator"]), Cell(row["family"]), Cell(shown, loss)])
            lines[-1].append(Cell(number(row["first_variance"]), row["first_variance"]))
        drawn = [(report_charts.toy(toy, point, figure), figure) for figure in ("loss", "variance")]
        text += f"<h3>{escape(point)}</h3>" + "".join(_chart(charts, c, f"{what}, {point}") for c, what in drawn if c)
        text += _table(header, lines, f"toy {point}")
    return text


def _toy_protocol(toy: Toy) -> str:
    chosen = toy.config["settings"]
    return (
        f"Toy problem {chosen['toy']}: {chosen['steps']} steps of Adam with each estimator, exact losses, mean ±"
        f" standard error of {chosen['seeds']} seeds; K = {chosen['num_samples']} or an estimator's least."
    )


def _reproduce(contents: Contents) -> str:
    lines = commands(contents.runs) if contents.runs else []
    lines += [_quoted(one.config["command"]) for one in [*contents.laboratories, *contents.toys]]
    words = "\n".join(" ".join(f"<span>{escape(word)}</span>" for word in line.split(" ")) for line in lines)
    text = f'<pre tabindex="0">{words}</pre>'
    made: dict[str, list[Run | Laboratory | Toy]] = {}
    for one in [*contents.runs, *contents.laboratories, *contents.toys]:
        made.setdefault(json.dumps(_circumstances(one.config)), []).append(one)
    for circumstances, members in made.items():
        facts = [[Cell(key), Cell(value)] for key, value in json.loads(circumstances).items()]
        if len(made) > 1:
            text += f"<h3>{len(members)} of {sum(map(len, made.values()))} results</h3>"
        text += _table(["made with", ""], facts, "circumstances", sortable=False)
    return text


def _quoted(command: str) -> str:
    """A command line in which a shell sees nothing but words, whoever wrote it."""
    try:
        return shlex.join(shlex.split(command))
    except ValueError:  # a quotation without an end
        return shlex.quote(command)


def _circumstances(config: dict[str, Any]) -> dict[str, str]:
    facts = {key: str(config.get(key) or "not kept") for key in ("git_commit", "device", "platform")}
    if later := [str(one.get("git_commit") or "not kept") for one in config.get("continued", [])]:
        facts["git_commit"] += f", then {', '.join(later)}"
    if "project_commit" in config:
        facts["project_commit"] = str(config["project_commit"] or "not kept")
    facts |= {name: str(version) for name, version in config["versions"].items()}
    if "data" in config:
        data = config["data"]
        images = ", ".join(f"{split} {number}" for split, number in data["images"].items())
        facts["data"] = f"{data['name']}: {images} images, sha256 {data['checksum']}"
    return facts


def _table(header: list[str], lines: list[list[Cell]], name: str, sortable: bool = True) -> str:
    """`name` is the table's label for those who do not see it. Numbers stand right, and sort by their value."""
    numeric = [_is_numeric([line[i].value for line in lines]) for i in range(len(header))]
    head = []
    for title, right in zip(header, numeric, strict=True):
        kind = ' class="number"' if right else ""
        content = f'<button type="button">{escape(title)}</button>' if sortable else escape(title)
        head.append(f'<th scope="col"{kind}{" aria-sort=none" if sortable else ""}>{content}</th>')
    body = []
    for line in lines:
        cells = []
        for cell, right in zip(line, numeric, strict=True):
            kind = ' class="number"' if right else ""
            value = f' data-value="{cell.value!r}"' if right and cell.value is not None else ""
            text = escape(cell.text) + (f" <small>{escape(cell.interval)}</small>" if cell.interval else "")
            cells.append(f"<td{kind}{value}>{_signed(text) if right else text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    kind = "sortable" if sortable else "plain"
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}" aria-label="{escape(name)}">'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _chart(charts: list, chart: report_charts.Chart, name: str) -> str:
    """The place of a chart, which is added to `charts`, and its buttons."""
    charts.append(chart)
    buttons = "".join(
        f'<button type="button" aria-pressed="{"false" if i else "true"}">{escape(choice["label"])}</button>'
        for i, choice in enumerate(chart["choices"])
    )
    choices = f'<div class="choices" role="group" aria-label="horizontal axis">{buttons}</div>' if buttons else ""
    place = f'<div class="plot" role="img" aria-label="{escape(name)}"></div>'
    return f'<div class="chart" data-chart="{len(charts) - 1}">{choices}{place}</div>'


def _is_numeric(values: list[Any]) -> bool:
    """Whether a column is of numbers, some of which may be missing."""
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)


def _exact(value: Any) -> str:
    """A number as results.csv has it."""
    return "-" if value is None else str(value)


def _signed(text: str) -> str:
    """With the typographer's minus, which is as wide as a plus; exponents too."""
    return text if text == "-" else text.replace("-", "\N{MINUS SIGN}")


def _json(content: Any) -> str:
    """JSON that no HTML parser takes for a tag."""
    text = json.dumps(_drawn(content), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _drawn(content: Any) -> Any:
    """Numbers as a chart needs them: with the digits of a float32. JavaScript's JSON has no NaN and no infinity: null,
    which plotly leaves out."""
    if isinstance(content, dict):
        return {key: _drawn(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_drawn(value) for value in content]
    if not isinstance(content, float):
        return content
    if not math.isfinite(content):
        return None
    number = float(f"{content:.7g}")
    return int(number) if number.is_integer() else number
