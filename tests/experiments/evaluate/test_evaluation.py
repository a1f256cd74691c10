"""What the command says where a checkpoint cannot be read."""

from types import SimpleNamespace

import pytest

from experiments.common import build
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from experiments.evaluate import evaluation
from vae import checkpoint


@pytest.mark.parametrize(
    ("steps", "epoch", "sentence"),
    [
        ((1, 2, 3), 2, "checkpoints/2 cannot be read; choose one of 1, 3$"),
        ((2,), 2, "holds no checkpoint that can be read; delete .*run and train it again$"),
        ((1, 2), None, "holds no checkpoint that can be read; delete .*run and train it again$"),
    ],
)
def test_what_is_left_is_named(steps, epoch, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "functions", lambda run, data: SimpleNamespace(init=lambda values: values))
    monkeypatch.setattr(checkpoint, "restore", lambda *args: None)
    folder = RunFolder(tmp_path / "run")
    for step in steps:
        (folder.checkpoints / str(step)).mkdir(parents=True)
    with pytest.raises(ValueError, match=sentence):
        evaluation.restore(folder, Settings(), None, epoch)


@pytest.mark.parametrize(("given", "read"), [(None, "recorded"), ("given", "given")])
def test_the_data_are_read_from_the_folder_of_the_training_unless_another_is_given(given, read, monkeypatch):
    class Read(Exception):
        """Ends the evaluation when it reads the data."""

    def load_trained(run, data_dir, cache_dir):
        raise Read(data_dir)

    monkeypatch.setattr(build, "load_trained", load_trained)
    done = {"settings": Settings, "result": lambda: {"status": "done"}, "data_dir": lambda: "recorded"}
    options = SimpleNamespace(data_dir=given, cache_dir=None, checkpoint="latest")
    with pytest.raises(Read, match=f"^{read}$"):
        evaluation.evaluate(SimpleNamespace(**done), options)
