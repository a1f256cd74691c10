"""The laboratory's tables: one of cells, written as Markdown that also reads well on a terminal, and as LaTeX."""

import csv
import io
import math
from typing import Any


def to_csv(rows: list[dict[str, Any]]) -> str:
    """One line a row; what a row lacks or cannot say (None, NaN) is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    blank = lambda value: "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: blank(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def cells(rows: list[dict[str, Any]], group: str) -> list[list[str]]:
    """The header and a line for each row, of what was measured on one group of parameters."""
    of = lambda row, key: row.get(f"{group}_{key}", math.nan)
    unit, name = _time_unit([row["seconds"] for row in rows])
    header = ["estimator", "K", "evaluations", "FLOP", f"time ({name})", "bias along truth (%)", "max |z| (critical)"]
    header += ["variance", "SNR", "DSNR", "cosine", "variance x FLOP", "variance x time", "verdict"]
    table = [header]
    for row in rows:
        mark = " *" if row["declared_biased"] else ""
        line = [row["estimator"] + mark, str(row["num_samples"]), str(row["evaluations"]), number(row["flops"])]
        line += [number(row["seconds"] * unit)]
        line += [plus_minus(100 * of(row, "bias"), 100 * of(row, "bias_stderr"))]
        line += [f"{number(of(row, 'max_abs_z'), 2)} ({number(of(row, 'critical_z'), 2)})"]
        line += [between(row, f"{group}_variance")]
        line += [number(of(row, key)) for key in ("snr", "dsnr", "cosine")]
        line += [between(row, f"{group}_{key}_to_best") for key in ("variance_x_flops", "variance_x_seconds")]
        table.append([*line, str(of(row, "verdict"))])
    empty = [i for i in range(len(header)) if all(line[i] == "-" for line in table[1:])]
    return [[cell for i, cell in enumerate(line) if i not in empty] for line in table]


def to_markdown(table: list[list[str]]) -> str:
    """Columns aligned."""
    table = [[cell.replace("|z|", "abs z") for cell in line] for line in table]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def to_latex(table: list[list[str]], caption: str) -> str:
    """A `table` environment; needs booktabs, graphicx and amsmath's text mode only."""
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in table]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(caption)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 2)}l}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def number(value: float, digits: int = 3) -> str:
    """So many significant digits; powers of ten far from 1."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if not -3 <= exponent < 5:
        return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def plus_minus(value: float, error: float) -> str:
    """The error to two digits, and the value to the same place."""
    if math.isnan(value) or math.isnan(error):
        return "-"
    if error == 0 or math.isinf(error) or not 1e-3 <= error < 1e4:
        return f"{number(value)} ± {number(error, 2)}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"


def between(row: dict[str, Any], key: str) -> str:
    """A number and its interval."""
    value, low, high = (row.get(key + end, math.nan) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    return number(value) if math.isnan(low) else f"{number(value)} [{number(low)}, {number(high)}]"


def _time_unit(seconds: list[float]) -> tuple[float, str]:
    typical = sorted(seconds)[len(seconds) // 2]
    return next((s, n) for limit, s, n in ((1, 1, "s"), (1e-3, 1e3, "ms"), (0, 1e6, "us")) if typical >= limit)


def _tex(text: str) -> str:
    """Plain text with what LaTeX reads as a command escaped."""
    for plain, escaped in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("|z|", r"$|z|$"), (" x ", r" $\times$ ")):
        text = text.replace(plain, escaped)
    return text.replace(" us)", r" $\mu$s)").replace("(us)", r"($\mu$s)").replace("*", r"$^*$")
