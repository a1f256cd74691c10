"""A note about measured gradients for which evaluations of f and FLOP name different best estimators."""

from typing import Any


def note(rows: list[dict[str, Any]], group: str) -> str:
    """A sentence for each comparison whose best estimators by FLOP and by evaluations differ, and what follows.

    Args:
      rows: rows of the laboratory's results.csv. The column `GROUP_best_by` has the names of the costs by which an
        estimator is the best of its comparison. Each comparison has one best estimator for each cost.
      group: the group of parameters.

    Returns:
      The text; empty if the best estimators do not differ, or if FLOP are not counted.
    """
    by_flops, by_evaluations = (
        [row for row in rows if cost in str(row.get(f"{group}_best_by")).split()] for cost in ("flops", "evaluations")
    )
    sentences = [
        f"The best by FLOP is {_described(one)}; the best by evaluations is {_described(other)}."
        for one, other in zip(by_flops, by_evaluations, strict=False)
        if one is not other
    ]
    if sentences:
        sentences.append("If your own f is expensive, evaluations are the measure: --judge_by=evaluations.")
    return " ".join(sentences)


def _described(row: dict[str, Any]) -> str:
    evaluations = row["evaluations"]
    return f"{row['estimator']} (K={row['num_samples']}, {evaluations} evaluation{'s' * (evaluations != 1)} of f)"
