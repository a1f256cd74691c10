"""The matrix of --problem=all: variance x cost and bias of every estimator on every problem that has an unbiased
estimator."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.common import candidates, cli, files, phases, problems, tables
from experiments.common.task import Task
from experiments.compare_estimators.flags import Options
from vae import diagnostics

Row = dict[str, Any]

# Every problem has an exact gradient of its first bound, but all estimators that fit `quantized` are biased.
PROBLEMS = tuple(name for name in problems.BY_NAME if name != "quantized")


def measure(options: Options, compare: Callable[[Options], None]) -> None:
    """Compares the estimators on every problem, in a folder for each, and writes matrix.csv and figures/matrix.

    `compare(options)` compares them on one problem, and measures nothing that its folder holds already.
    """
    folder, judge_by = options.folder, options.judge_by or "flops"
    with cli.one_sentence():
        named = options.estimators and candidates.check(options.estimators, "estimators")
    rows = []
    for number, name in enumerate(PROBLEMS, start=1):
        problem = problems.make(name)
        fits = Task(problem, next(iter(problem.bounds))).refusal
        estimators = named and [estimator for estimator in named if fits(estimator) is None]
        if estimators == []:
            continue
        phases.say(f"problem {number} of {len(PROBLEMS)}: {name}")
        compare(dataclasses.replace(options, problem=[name], output=str(folder / name), estimators=estimators))
        jax.clear_caches()  # the programs of one problem serve no other
        [group] = {"phi", "encoder"} & set(problem.params)  # the parameters of q
        rows += rows_of_problem(tables.read_csv(folder / name / "results.csv"), name, group, judge_by)
    with cli.one_sentence(OSError):
        files.write_text(folder / "matrix.csv", tables.to_csv(rows))
    with cli.drawing(folder / "figures"):
        from experiments.common import plots  # matplotlib takes memory that the measuring needs
        from experiments.compare_estimators import picture

        png, _ = plots.save(picture.draw(rows, judge_by), folder / "figures" / "matrix")
        print(f"figure: {png}")
    print(f"the matrix: {folder / 'matrix.csv'}")


def rows_of_problem(results: list[Row], problem: str, group: str, judge_by: str) -> list[Row]:
    """The rows of matrix.csv for one problem, from the rows of its results.csv.

    The intervals and the verdict belong to the cost that decides.
    """
    figure = lambda row, key: row[f"{group}_{key}"]
    is_unbiased = [not row["declared_biased"] and not row[f"{group}_biased"] for row in results]
    # An estimator whose draws are all zero has no rank.
    variances = [math.nan if "ALWAYS ZERO" in row[f"{group}_verdict"] else figure(row, "variance") for row in results]
    relative = {}
    for cost in dict.fromkeys(("flops", "evaluations", judge_by)):
        costs = [row[cost] for row in results]
        best = diagnostics.choose_best(variances, costs, is_unbiased)
        relative[cost] = np.multiply(variances, costs) / (variances[best] * costs[best])
    return [
        {
            "estimator": row["estimator"],
            "problem": problem,
            "group": group,
            **{key: row[key] for key in ("num_samples", "evaluations", "flops", "declared_biased")},
            **{f"variance_x_{cost}": ratios[i] for cost, ratios in relative.items()},
            **{
                f"variance_x_{judge_by}_{end}": figure(row, f"variance_x_{judge_by}_to_best_{end}")
                for end in ("low", "high")
            },
            **{key: figure(row, key) for key in ("bias", "bias_low", "bias_high", "max_abs_z", "relative_bias")},
            "biased": row[f"{group}_biased"],
            "verdict": row[f"{group}_verdict"],
        }
        for i, row in enumerate(results)
    ]
