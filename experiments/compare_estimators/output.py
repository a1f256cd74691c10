"""The files of a comparison: results.csv, layers.csv, pairs.csv, results.md, results.tex and figures/."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import best_by_cost, cli, files, grammar, phases, tables
from experiments.common.charts import gradients
from experiments.common.measuring import Protocol
from experiments.common.tables import number, plus_minus, with_interval
from experiments.common.task import Task
from experiments.compare_estimators.measure_all import Result
from experiments.compare_estimators.rows import Rows

Row = dict[str, Any]

# The figures of a group that have a best value: 1 if the largest is the best, -1 if the smallest is.
SIGNS = {"variance": -1, "snr": 1, "dsnr": 1, "cosine": 1}


def write(
    folder: Path, tasks: list[Task], results: list[Result], rows: Rows, protocol: Protocol, columns: list[str] | None
) -> None:
    """Writes every file except config.json, and prints the tables.

    `columns` are those of the tables; None for all in results.md and some in results.tex.
    """
    for name, table in rows._asdict().items():
        files.write_text(folder / f"{name}.csv", tables.to_csv(table))
    markdown = []
    latex = []
    for task in tasks:
        task_rows = _rows_of(task, results, rows)
        for group in task.problem.params:
            place = "".join(f", {key}={value:g}" for key, value in task.problem.point.items())
            truths = " and ".join(dict.fromkeys(row["truth"] for row in task_rows))
            title = f"{task.problem.name}{place}, {task.objective}: gradient of {group}; truth: {truths}"
            shown = _shown(task_rows, group, task, protocol.judge_by, columns)
            markdown.append(f"**{title}**\n\n{tables.to_markdown(_cells(task_rows, shown))}\n")
            if note := best_by_cost.note(task_rows, group):
                markdown.append(f"{note}\n")
            named = [row | {"estimator": grammar.paper_name(row["estimator"])} for row in task_rows]
            in_latex = _shown(task_rows, group, task, protocol.judge_by, columns or _latex_columns(protocol.judge_by))
            best = _best(task_rows, group, in_latex)
            caption = _caption(title, task_rows, group, protocol, has_bold=bool(best))
            latex.append(tables.to_latex(_cells(named, in_latex), caption, best))
    text = "\n".join([*markdown, _note(protocol, tasks[0]), ""])
    files.write_text(folder / "results.md", text)
    files.write_text(folder / "results.tex", "\n\n".join(latex) + "\n")
    phases.say("drawing")
    drawn: list[Path] = []
    with cli.drawing(folder / "figures"):
        drawn = _draw(folder / "figures", tasks, results, rows, protocol)
    print(text)
    if drawn:
        print(f"figures: {', '.join(str(path) for path in drawn if path.suffix == '.png')}")
    print(f"every number: {folder / 'results.csv'}; by layer: layers.csv; every pair: pairs.csv; LaTeX: results.tex")


def _rows_of(task: Task, results: list[Result], rows: Rows) -> list[Row]:
    pairs = zip(rows.results, results, strict=True)
    return [row for row, result in pairs if result.task is task]


def _note(protocol: Protocol, task: Task) -> str:
    judged, *others = (f"variance x {gradients.COST_NAMES[cost]}" for cost in gradients.costs(protocol.judge_by))
    calls = task.host_calls.names
    host = f", because f calls the host ({calls[0]}), where FLOP are not counted" if calls else ""
    return (
        f"{protocol.draws} draws of each estimator. Intervals have level {100 * protocol.confidence:g} % and come from"
        f" a bootstrap over chunks of draws; ± is one standard error. The verdict compares {judged}{host}. The variance"
        f" is the trace of the covariance. Figures of {' and '.join([judged, *others])} are relative to the best"
        " unbiased estimator; their intervals hold for all estimators of a table at once. * marks estimators that their"
        " papers call biased."
        ' "within 1 % of best" means that the whole interval of the ratio lies from 1 / 1.01 to 1.01.'
        f" Control variates were trained for {protocol.cv_steps} steps here; a run's own estimator started from the"
        " checkpoint."
    )


def _caption(title: str, rows: list[Row], group: str, protocol: Protocol, has_bold: bool) -> str:
    sentences = [
        f"{title}. {protocol.draws} draws of each estimator. Brackets are {100 * protocol.confidence:g} % intervals."
        f" Figures of variance x {gradients.COST_NAMES[protocol.judge_by]} are relative to the best unbiased estimator,"
        " and their intervals hold for all estimators at once. ± is one standard error."
    ]
    if any("within 1 %" in row[f"{group}_verdict"] for row in rows):
        sentences.append("Within 1 % of best: the whole interval lies from 1 / 1.01 to 1.01.")
    if any(row["declared_biased"] for row in rows):
        sentences.append("* is biased by its paper.")
    if has_bold:
        sentences.append("Bold: the best of the unbiased estimators.")
    return " ".join(sentences)


class Column(NamedTuple):
    """A column of a table: its title, and the text of a row's cell."""

    title: str
    text: Callable[[Row], str]


def _columns(group: str, judge_by: str, time: "TimeUnit") -> dict[str, Column]:
    """Every column for one group of parameters, by the name that --columns gives it."""
    value = lambda row, key: row.get(f"{group}_{key}", math.nan)
    figure = lambda title, key: Column(title, lambda row: number(value(row, key)))
    bias = lambda row: plus_minus(100 * value(row, "bias"), 100 * value(row, "bias_stderr"))
    worst = lambda row: f"{number(value(row, 'max_abs_z'), 2)} ({number(value(row, 'critical_z'), 2)})"
    product = lambda cost: Column(
        f"variance x {gradients.COST_NAMES[cost]}",
        lambda row: with_interval(row, f"{group}_variance_x_{cost}_to_best"),
    )
    return {
        "estimator": Column("estimator", lambda row: row["estimator"] + (" *" if row["declared_biased"] else "")),
        "temperature": Column("temperature", lambda row: number(row["temperature"]) if row["temperature"] else "-"),
        "num_samples": Column("K", lambda row: str(row["num_samples"])),
        "evaluations": Column("evaluations", lambda row: str(row["evaluations"])),
        "flops": Column("FLOP", lambda row: number(row["flops"])),
        "seconds": Column(f"time ({time.name})", lambda row: number(row["seconds"] * time.factor)),
        "bias": Column("bias along truth (%)", bias),
        "max_abs_z": Column("max |z| (critical)", worst),
        "variance": Column("variance", lambda row: with_interval(row, f"{group}_variance")),
        "snr": figure("SNR", "snr"),
        "dsnr": figure("DSNR", "dsnr"),
        "cosine": figure("cosine", "cosine"),
        **{f"variance_x_{cost}": product(cost) for cost in gradients.costs(judge_by)},
        "verdict": Column("verdict", lambda row: str(value(row, "verdict"))),
    }


def _latex_columns(judge_by: str) -> list[str]:
    """The columns of results.tex without --columns: few enough for a page."""
    return ["estimator", "num_samples", "evaluations", "bias", "variance", f"variance_x_{judge_by}", "verdict"]


def check_columns(columns: list[str] | None, judge_by: str) -> None:
    """Refuses names that are no columns of a table.

    Raises:
      ValueError: if there is such a name.
    """
    known = _columns("", judge_by, TimeUnit(0, 1, ""))
    tables.check_columns(columns or [], known, f"choose some of {', '.join(known)}")


def _shown(rows: list[Row], group: str, task: Task, judge_by: str, names: list[str] | None) -> dict[str, Column]:
    """The columns of a table. By default those that are not empty, and FLOP only if f does not call the host."""
    columns = _columns(group, judge_by, _time_unit([row["seconds"] for row in rows]))
    if names is not None:
        return {name: columns[name] for name in names}
    if task.host_calls.names:
        del columns["flops"]
    return {name: column for name, column in columns.items() if any(column.text(row) != "-" for row in rows)}


def _cells(rows: list[Row], columns: dict[str, Column]) -> list[list[str]]:
    """The header and a line for each row."""
    return [
        [column.title for column in columns.values()],
        *([column.text(row) for column in columns.values()] for row in rows),
    ]


def _best(rows: list[Row], group: str, columns: dict[str, Column]) -> set[tuple[int, int]]:
    """The places of the best figures among the estimators that are unbiased, by their papers and in all groups."""
    is_unbiased = lambda row: not any(value for name, value in row.items() if name.endswith("_biased"))
    products = {name: f"{name}_to_best" for name in columns if name.startswith("variance_x_")}
    figures = [
        {name: row[f"{group}_{products.get(name, name)}"] for name in (*SIGNS, *products)} if is_unbiased(row) else {}
        for row in rows
    ]
    return tables.best_places(figures, list(columns), SIGNS | dict.fromkeys(products, -1))


class TimeUnit(NamedTuple):
    """A unit of time: it suits times of `least` seconds or more; seconds times `factor` are numbers in this unit."""

    least: float
    factor: float
    name: str


def _time_unit(seconds: list[float]) -> TimeUnit:
    """The unit that suits these times."""
    typical = sorted(seconds)[len(seconds) // 2]
    units = (TimeUnit(1, 1, "s"), TimeUnit(1e-3, 1e3, "ms"), TimeUnit(0, 1e6, "us"))
    return next(unit for unit in units if typical >= unit.least)


def _draw(folder: Path, tasks: list[Task], results: list[Result], rows: Rows, protocol: Protocol) -> list[Path]:
    """Draws every picture, and returns the paths of the files."""
    from experiments.common import plots  # matplotlib takes memory that the measuring needs

    drawn: list[Path] = []
    groups = list(tasks[0].problem.params)
    for task in tasks:
        task_rows = _rows_of(task, results, rows)
        point = task.problem.point.items() if len(tasks) > 1 else ()
        place = "".join(f"_{key}={value:g}" for key, value in point)
        drawn += plots.save(plots.bias_forest(task_rows, groups, protocol.confidence), folder / f"bias{place}")
        against_cost = plots.variance_against_cost(task_rows, groups, gradients.costs(protocol.judge_by))
        drawn += plots.save(against_cost, folder / f"variance_cost{place}")
        if len({result.case.slot for result in results}) > 1:
            drawn += plots.save(plots.against(task_rows, groups, "num_samples", "snr"), folder / f"snr{place}")
    if len(tasks) > 1:
        [name] = tasks[0].problem.point
        drawn += plots.save(plots.against(rows.results, groups, name, "variance"), folder / f"variance_{name}")
    return drawn
