"""Functions that tests give to --on_evaluation."""

import json
from pathlib import Path
from typing import Any

import jax

from vae.train import TrainState


def append(row: dict[str, Any], state: TrainState) -> None:
    """Appends the row, the step of the state and the number of its parameters to hook.jsonl in the program's folder."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    line = {"row": row, "step": int(state.step), "parameters": parameters}
    with open(Path(row["folder"]) / "hook.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def fail(row: dict[str, Any], state: TrainState) -> None:
    raise RuntimeError("no connection.\nTry again later.")
