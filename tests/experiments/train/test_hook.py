"""The hooks that the page of the command shows, and names that are refused. Whole runs are in test_train_command.py."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.common import build, trained_run
from experiments.common.settings import Settings
from experiments.train import hook
from tests.helpers.written_workdirs import Written, write_program
from vae.train import TrainState

PAGE = Path(hook.__file__).with_name("README.md")
STATE = TrainState({"model": {"params": {"w": np.arange(6.0)}}, "estimator": {}}, None, None, np.int32(7))
RESULT = {"estimator": "reparam", "seed": 0, "run": 0, "step": 7, "status": "done", "test_nll_nats": 22.5}


def example(imported: str) -> dict[str, Any]:
    """The names that the example with this import defines."""
    [block] = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if imported in text]
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_the_example_writes_histograms_for_tensorboard(tmp_path):
    code = example("tensorboardX")
    code["tensorboard"](RESULT | {"folder": str(tmp_path)}, STATE)
    code["writer"](str(tmp_path), RESULT["run"]).close()  # as at the end of the command
    [events] = (tmp_path / "tensorboard/run0").iterdir()
    assert b"params/w" in events.read_bytes()


def test_the_example_writes_a_log_for_weights_and_biases(tmp_path):
    pytest.importorskip("wandb")
    example("wandb")["offline"](RESULT | {"folder": str(tmp_path)}, STATE)
    [log] = tmp_path.rglob("*.wandb")
    assert b"test_nll_nats" in log.read_bytes()


def test_the_example_reconstructs_images_by_the_state_of_the_run(tmp_path):
    settings = [Settings(hidden=(4,), latent_dim=(width,)) for width in (2, 3)]
    write_program(tmp_path, [Written(run, status=None) for run in settings])
    functions = build.trained_functions(settings[1], build.load_trained(settings[1], None))
    state = functions.init(build.arrays(settings[1]))
    pictures = example("trained_run")["reconstructions"]({"folder": str(tmp_path), "run": 1, "epoch": 1}, state)
    x = trained_run.from_hook({"folder": str(tmp_path), "run": 1, "epoch": 1}, state).images()[:8]
    q = functions.evaluated.apply(state.params["model"], x, method="encode")
    p = functions.evaluated.apply(state.params["model"], q.sample(jax.random.key(0), 1), method="decode")
    np.testing.assert_allclose(pictures, p.mean[0].reshape(8, 8, 8, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere:log", "--on_evaluation=nowhere:log cannot be imported: No module named 'nowhere'"),
        ("sys:argv", "--on_evaluation=sys:argv cannot be called with a row and a state alone; give a function"),
        ("json:loads", "--on_evaluation=json:loads cannot be called with a row and a state alone; give a function"),
    ],
)
def test_what_is_no_function_is_refused(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        hook.load(name)
