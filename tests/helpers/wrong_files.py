"""Files of data and workdirs that are each wrong in their own way."""

import dataclasses
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
from absl import flags
from sklearn.datasets import load_digits

from experiments.common import build, foreign_files, program_folder, program_state, setting_flags
from experiments.common.files import write_json
from experiments.common.settings import Settings
from vae import checkpoint

# What a workdir of somebody else may lead to, were its links followed.
LINKS = {
    "linked": ("metrics.jsonl", "precious"),
    "linked_lock": (".lock", "precious"),
    "linked_rows": ("evaluations.jsonl", "precious"),
}
SETTINGS = ["--hidden=16", "--latent_dim=2", "--epochs=2", "--eval_samples=4"]


def unknown_names(*folders: Path) -> set[str]:
    """The files and folders that commands made in these folders, and that foreign_files does not know."""
    known = {*foreign_files.NAMES, *foreign_files.MAY_BE_LINKS}
    return {path.name for folder in folders for path in folder.iterdir()} - known


def write_data(folder: Path) -> None:
    """Files of arrays, each wrong in its own way."""
    digits = load_digits().images.astype(np.float32)[:20] / 16
    spoiled = digits.copy()
    spoiled[3, 2, 1] = np.nan
    arrays = {"nan": spoiled, "infinite": np.where(np.isnan(spoiled), np.inf, digits), "large": digits * 3}
    arrays |= {"vector": np.zeros(10, np.uint8), "rank5": np.zeros((2, 2, 2, 2, 2), np.uint8)}
    arrays |= {"none": np.zeros((0, 8, 8), np.uint8), "one": np.zeros((1, 8, 8), np.uint8)}
    arrays |= {"ints": np.zeros((10, 4, 4), np.int64), "complex": np.zeros((10, 4, 4), np.complex64)}
    arrays |= {"strings": np.array([["a", "b"]]), "objects": np.array([[None, 1]], dtype=object)}
    for name, array in arrays.items():
        np.savez(folder / f"{name}.npz", images=array)
    np.savez(folder / "other_names.npz", pictures=digits)
    np.savez(folder / "unlike.npz", train=digits, test=digits[:, :4])
    np.save(folder / "images.npy", digits)
    (folder / "text.npz").write_text("no archive")
    (folder / "cut.npz").write_bytes((folder / "nan.npz").read_bytes()[:900])
    with zipfile.ZipFile(folder / "pickle.npz", "w") as archive:  # would run a command, were it unpickled
        archive.writestr("images.npy", f"cos\nsystem\n(S'touch {folder}/executed'\ntR.")


def write_workdirs(folder: Path) -> None:
    """A run that has a checkpoint, as training leaves it, and copies that are each wrong in their own way."""
    values = flags.FlagValues()
    setting_flags.define_flags(values)
    values(["program", *SETTINGS])
    [run] = setting_flags.from_flags(values)
    data = build.load_data(run, None)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _shapes(run, data))
    other = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 1), leaf.dtype), state)
    started = program_folder.describe([run], data)
    figures = {f"test_{name}_nats": 1.0 for name in ("nll", "elbo", "rate", "distortion")}
    done = started | {"runs": [{"settings": {}, "result": {"status": "done", "step": 48, **figures}}]}
    seeds = [dataclasses.replace(run, seed=seed) for seed in (0, 1)]
    runs_json = lambda record: {"runs.json": json.dumps(record)}
    result = lambda **figures: runs_json(started | {"runs": [{"settings": {}, "result": figures}]})
    changes = {
        "run": runs_json(done),
        "sweep": runs_json(program_folder.describe(seeds, data)),
        "config": {"config.json": json.dumps({"command": "python"})},
        "config_text": {"config.json": '{"command": '},
        "other_data": runs_json(_changed(done, "data", checksum="0")),
        "no_json": {"runs.json": '{"settings": '},
        "list": {"runs.json": "[]"},
        "no_runs": runs_json(started | {"runs": []}),
        "hostile": runs_json(_changed(started, "settings", dataset="npz:/dev/zero;../../x", latent_dim="2; rm")),
        "newer": runs_json(_changed(started, "settings", cannot_be_known=1)),
        "no_result": result(status="done"),
        "torn": {"metrics.jsonl": 'garbage\n{"epoch": 2}\n'},
        "strange_row": runs_json(done)
        | {"evaluations.jsonl": '{"run": 1, "epoch": 2, "eval_samples": 5000, "test_nll_nats": 1.0}\n'},
        "hostile_result": result(**{"status": "diverged", "step": 3, "<script>": "=cmd()"}),
        "named_code": runs_json(_changed(started, "settings", estimator="os:system")),
        "no_checkpoint": runs_json(done),
        "other_net": {},
        **dict.fromkeys(LINKS, {}),
    }
    for name, files in changes.items():
        (folder / name).mkdir()
        command = {"command": "python", "settings": run.json(), "data": {}}
        write_json(folder / name / "config.json", command)
        for file, text in (runs_json(started) | files).items():
            (folder / name / file).write_text(text)
        if name != "no_checkpoint":
            with checkpoint.writer(folder / name / "checkpoints") as (save, _):
                save(2, other if name == "other_net" else state)
    (folder / "precious").write_text('{"epoch": 1}\n')
    for name, (link, target) in LINKS.items():
        (folder / name / link).unlink(missing_ok=True)
        (folder / name / link).symlink_to(folder / target)


def _shapes(run: Settings, data):
    """The shapes of the last checkpoint of a program with this one run."""
    shape = program_state.shape_of(build.functions(run, data), 1, validation=False)
    return shape.without_optimizer()


def _changed(record: dict, part: str, **values) -> dict:
    return record | {part: record[part] | values}
