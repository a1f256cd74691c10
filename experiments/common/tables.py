"""Tables as text: rows to CSV and back, and cells to LaTeX and to Markdown, which also reads well on a terminal."""

import csv
import io
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

# How a text begins that a spreadsheet would read as a formula.
_FORMULA = re.compile(r"[=@\t\r]|[+-].*[(|!]")
# The digits of a float64.
MOST_DIGITS = 16


def to_csv(rows: list[dict[str, Any]]) -> str:
    """One line for each row. A value that is missing, None or NaN is an empty cell.

    A text that a spreadsheet would read as a formula gets an apostrophe in front, which marks it as text.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value

    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def read_csv(path: Path, texts: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows that `to_csv` wrote into a file, with True, False and numbers as such. An empty cell is NaN.

    Args:
      texts: Columns whose cells stay texts, even those that look like numbers. An empty cell is then an empty text.

    Raises:
      ValueError: If the file is not a table.
    """
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [
                {key: _text(cell) if key in texts else _value(cell) for key, cell in row.items()}
                for row in csv.DictReader(file, restval="")
            ]
        except (csv.Error, ValueError, TypeError):  # bytes that are not text, or a line that is longer than the header
            raise ValueError(f"{path} is not a table") from None


def _value(cell: str) -> Any:
    if cell in ("True", "False"):
        return cell == "True"
    for kind in (int, float):
        try:
            return kind(cell or "nan")
        except ValueError:
            continue
    return _text(cell)


def _text(cell: str) -> str:
    """The text without the apostrophe that `to_csv` put in front."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell, 1) else cell


def to_markdown(table: list[list[str]]) -> str:
    """A header and lines of cells, with aligned columns."""
    table = [[cell.replace("|z|", "abs z").replace("|", r"\|") for cell in line] for line in table]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def to_latex(
    table: list[list[str]], caption: str, bold: Collection[tuple[int, int]] = (), text_columns: int = 1
) -> str:
    """A `table` environment, which needs the package booktabs.

    Args:
      table: A header and lines of cells.
      bold: The places, line and column counted from 0, of the cells in bold.
      text_columns: The number of columns of text, which are aligned at their left.
    """
    cells = [
        [rf"\textbf{{{_tex(cell)}}}" if (i, j) in bold else _tex(cell) for j, cell in enumerate(line)]
        for i, line in enumerate(table)
    ]
    lines = [" & ".join(line) + r" \\" for line in cells]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * text_columns}{'r' * (len(table[0]) - text_columns)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def best_places(rows: list[dict[str, Any]], columns: list[str], signs: dict[str, int]) -> set[tuple[int, int]]:
    """The places of the best values of each column, for `to_latex`.

    Args:
      rows: The values of each line. A value that is missing or NaN is no candidate.
      columns: The columns of the table.
      signs: The columns that have a best value: 1 if the largest is the best, -1 if the smallest is.
    """
    places = set()
    for column, key in enumerate(columns):
        if key in signs:
            values = [signs[key] * row.get(key, math.nan) for row in rows]
            best = max((value for value in values if not math.isnan(value)), default=None)
            places |= {(line, column) for line, value in enumerate(values, 1) if value == best}
    return places


def check_columns(columns: Iterable[str], known: Collection[str], advice: str) -> None:
    """Refuses names that are no columns of a table.

    Raises:
      ValueError: If there is such a name; the sentence names --columns and ends with the advice.
    """
    if unknown := [name for name in columns if name not in known]:
        raise ValueError(f"--columns={unknown[0]}: there is no such column; {advice}")


def number(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, in scientific notation if it is far from 1."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if not -3 <= exponent < 5:
        return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def with_error(value: float, error: float, digits: int) -> str:
    """A value and its error, with `digits` digits after the point; the value alone if the error is NaN."""
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def plus_minus(value: float, error: float) -> str:
    """A value and its error: the error with two digits, the value to the same decimal place.

    If the error is NaN, as that of a single number, the value stands alone.
    """
    if math.isnan(value) or math.isnan(error):
        return number(value)
    if error == 0 or math.isinf(error):
        return f"{number(value)} ± {number(error, 2)}"
    places = 1 - math.floor(math.log10(error))
    if 1e-6 <= error < 1e5:
        return f"{value:.{max(0, places)}f} ± {error:.{max(0, places)}f}"
    before = math.floor(math.log10(abs(value))) + 1 if value and math.isfinite(value) else 0  # digits before the point
    return f"{number(value, min(max(1, before + places), MOST_DIGITS))} ± {number(error, 2)}"


def with_interval(row: dict[str, Any], key: str) -> str:
    """The number row[key] and, if it is known, the interval from row[key + "_low"] to row[key + "_high"]."""
    value, low, high = (row.get(key + end, math.nan) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    return number(value) if math.isnan(low) else f"{number(value)} [{number(low)}, {number(high)}]"


# What LaTeX does not print after a backslash.
_ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _tex(text: str) -> str:
    """The text as LaTeX prints it: its special characters are escaped, and symbols are in math mode."""
    text = re.sub(r"[&%$#_{}\\~^]", lambda special: _ESCAPED.get(special[0], rf"\{special[0]}"), text)
    text = re.sub("[<>]", r"$\g<0>$", text)  # in the old font encoding, they would be printed as other characters
    text = re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)  # a minus sign, which is wider than a hyphen
    for plain, symbol in (("±", r"$\pm$"), ("|z|", r"$|z|$"), ("-log p(x)", r"$-\log p(x)$"), (" x ", r" $\times$ ")):
        text = text.replace(plain, symbol)
    return text.replace(" us)", r" $\mu$s)").replace("(us)", r"($\mu$s)").replace("*", r"$^*$")
