"""The files of a comparison: results.csv, layers.csv, pairs.csv, results.md, results.tex and figures/."""

import math
from pathlib import Path
from typing import Any

from experiments.common import cli, files, tables
from experiments.common.measuring import Protocol
from experiments.common.tables import number, plus_minus, with_interval
from experiments.common.task import Task
from experiments.compare_estimators.measure_all import Result
from experiments.compare_estimators.rows import Rows


def write(folder: Path, tasks: list[Task], results: list[Result], rows: Rows, protocol: Protocol) -> None:
    """Writes every file except config.json, and prints the tables."""
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
            table = cells(task_rows, group)
            markdown.append(f"**{title}**\n\n{tables.to_markdown(table)}\n")
            latex.append(tables.to_latex(table, title))
    text = "\n".join([*markdown, _note(protocol), ""])
    files.write_text(folder / "results.md", text)
    files.write_text(folder / "results.tex", "\n\n".join(latex) + "\n")
    with cli.drawing(folder / "figures"):
        _draw(folder / "figures", tasks, results, rows)
    print(text)
    print(f"figures: {', '.join(str(path) for path in sorted((folder / 'figures').glob('*.png')))}")
    print(f"every number: {folder / 'results.csv'}; by layer: layers.csv; every pair: pairs.csv; LaTeX: results.tex")


def _rows_of(task: Task, results: list[Result], rows: Rows) -> list[dict[str, Any]]:
    pairs = zip(rows.results, results, strict=True)
    return [row for row, result in pairs if result.task is task]


def _note(protocol: Protocol) -> str:
    return (
        f"{protocol.draws} draws of each estimator. Intervals have level {100 * protocol.confidence:g} % and come from"
        " a bootstrap over chunks of draws. The variance is the trace of the covariance. Variance x FLOP and variance x"
        " time are relative to the best unbiased estimator; their intervals hold for all estimators of a table at once."
        " The verdict compares variance x FLOP. * marks"
        " estimators that their papers call biased. Control variates were trained for"
        f" {protocol.cv_steps} steps here; a run's own estimator started from the checkpoint."
    )


def cells(rows: list[dict[str, Any]], group: str) -> list[list[str]]:
    """The header and a line for each row, for one group of parameters. Empty columns are left out."""
    unit, name = _time_unit([row["seconds"] for row in rows])
    header = ["estimator", "temperature", "K", "evaluations", "FLOP", f"time ({name})"]
    header += ["bias along truth (%)", "max |z| (critical)"]
    header += ["variance", "SNR", "DSNR", "cosine", "variance x FLOP", "variance x time", "verdict"]
    table = [header]
    for row in rows:
        figure = lambda key, row=row: row.get(f"{group}_{key}", math.nan)
        line = [row["estimator"] + (" *" if row["declared_biased"] else "")]
        line += [number(row["temperature"]) if row["temperature"] else "-"]
        line += [str(row["num_samples"]), str(row["evaluations"]), number(row["flops"])]
        line += [number(row["seconds"] * unit)]
        line += [plus_minus(100 * figure("bias"), 100 * figure("bias_stderr"))]
        line += [f"{number(figure('max_abs_z'), 2)} ({number(figure('critical_z'), 2)})"]
        line += [with_interval(row, f"{group}_variance")]
        line += [number(figure(key)) for key in ("snr", "dsnr", "cosine")]
        line += [with_interval(row, f"{group}_{key}_to_best") for key in ("variance_x_flops", "variance_x_seconds")]
        table.append([*line, str(figure("verdict"))])
    empty = [i for i in range(len(header)) if all(line[i] == "-" for line in table[1:])]
    return [[cell for i, cell in enumerate(line) if i not in empty] for line in table]


def _time_unit(seconds: list[float]) -> tuple[float, str]:
    """The factor and the name of the unit that suits these times."""
    typical = sorted(seconds)[len(seconds) // 2]
    units = ((1, 1, "s"), (1e-3, 1e3, "ms"), (0, 1e6, "us"))
    return next((factor, name) for limit, factor, name in units if typical >= limit)


def _draw(folder: Path, tasks: list[Task], results: list[Result], rows: Rows) -> None:
    from experiments.common import plots  # matplotlib takes memory that the measuring needs

    groups = list(tasks[0].problem.params)
    for task in tasks:
        task_rows = _rows_of(task, results, rows)
        point = task.problem.point.items() if len(tasks) > 1 else ()
        place = "".join(f"_{key}={value:g}" for key, value in point)
        plots.save(plots.bias_forest(task_rows, groups), folder / f"bias{place}")
        plots.save(plots.variance_against_cost(task_rows, groups), folder / f"variance_cost{place}")
        if len({result.case.slot for result in results}) > 1:
            plots.save(plots.against(task_rows, groups, "num_samples", "snr"), folder / f"snr{place}")
    if len(tasks) > 1:
        [name] = tasks[0].problem.point
        plots.save(plots.against(rows.results, groups, name, "variance"), folder / f"variance_{name}")
