"""Executes a notebook without Jupyter: its code cells run in one namespace, and what they print and draw is stored.

python -m tests.helpers.notebook experiments/tour.ipynb
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock


def read(path: Path) -> dict:
    """The notebook as Python objects."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(notebook: dict, path: Path) -> None:
    """Writes the notebook with the spaces and line breaks that Jupyter would choose."""
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def code_cells(notebook: dict) -> list[dict]:
    """The code cells, from top to bottom."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook: dict) -> list[dict]:
    """The stored outputs of all code cells, from top to bottom."""
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def execute(notebook: dict) -> dict[str, Any]:
    """Runs the code cells from top to bottom, replaces their outputs, and returns the variables that they leave."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    variables: dict[str, Any] = {"__name__": "__main__"}
    with pyplot.rc_context():
        for count, cell in enumerate(code_cells(notebook), start=1):
            cell["outputs"] = _run(cell, variables)
            cell["execution_count"] = count
    return variables


def _run(cell: dict, variables: dict[str, Any]) -> list[dict]:
    from matplotlib import pyplot

    screen = _Screen()
    name = f"<cell {cell['id']}>"
    body = ast.parse("".join(cell["source"]), name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with mock.patch.object(pyplot, "show", screen.show), contextlib.redirect_stdout(screen):
        exec(compile(ast.Module(body, type_ignores=[]), name, "exec"), variables)
        value = last and eval(compile(ast.Expression(last.value), name, "eval"), variables)
        if value is not None:
            print(repr(value))
    for output in screen.outputs:
        if "text" in output:
            output["text"] = output["text"].splitlines(keepends=True)
    return screen.outputs


class _Screen(io.TextIOBase):
    """What a cell shows: printed text and figures, in their order, as a notebook stores them."""

    def __init__(self):
        self.outputs: list[dict] = []

    def write(self, text: str) -> int:
        if not self.outputs or self.outputs[-1]["output_type"] != "stream":
            self.outputs.append({"name": "stdout", "output_type": "stream", "text": ""})
        self.outputs[-1]["text"] += text
        return len(text)

    def show(self) -> None:
        """Stands in for `pyplot.show`: stores the open figures as PNG and closes them."""
        from matplotlib import pyplot

        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            drawing = io.BytesIO()
            figure.savefig(drawing, format="png", dpi="figure", bbox_inches="tight", metadata={"Software": None})
            pyplot.close(figure)
            data = {"image/png": base64.b64encode(drawing.getvalue()).decode(), "text/plain": ["<Figure>"]}
            self.outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})


def main() -> None:
    path = Path(sys.argv[1])
    notebook = read(path)
    execute(notebook)
    write(notebook, path)


if __name__ == "__main__":
    main()
