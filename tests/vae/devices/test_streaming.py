"""A streamed run gets the same batches and the same numbers as a run whose images are in the device's memory."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import build
from experiments.common.program_folder import ProgramFolder
from experiments.common.settings import Settings
from tests.experiments.train.test_faults import assert_one_sentence
from tests.helpers.data_sets import some_images, write_tfds
from tests.helpers.entry_points import ROOT, run_all, train
from tests.helpers.entry_points import training as call
from tests.helpers.written_workdirs import forget_results
from vae import checkpoint
from vae import data as datasets
from vae import train as training
from vae.devices import mesh, streaming

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 1), dtype=np.uint8)
RUNS, STEPS, BATCH = 2, 5, 8
MNIST = ROOT.parent / "shared/data"


@pytest.mark.parametrize(("devices", "size"), [(1, 2), (2, 3), (8, 5)])
def test_the_chunks_hold_the_images_in_the_order_of_the_steps(devices, size):
    over = mesh.make(RUNS, BATCH, jax.devices()[:devices])
    order = np.stack([np.random.default_rng(seed).permutation(40).reshape(STEPS, BATCH) for seed in range(RUNS)])
    chunks = list(streaming.chunks(IMAGES, order, over, size))
    lengths = [chunk.shape[1] for chunk in chunks]
    assert lengths == {2: [2, 2, 1], 3: [3, 2], 5: [5]}[size]
    assert {chunk.sharding.num_devices for chunk in chunks} == {devices}
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), IMAGES[order])


def test_a_process_reads_only_the_parts_of_its_devices():
    over = mesh.make(RUNS, BATCH, jax.devices()[:8])
    parts = mesh.parts_of_batches(over, RUNS, BATCH)
    assert [(run.start, batch.start, batch.stop) for run, batch in parts] == [
        (run, start, start + 2) for run in range(RUNS) for start in range(0, BATCH, 2)
    ]


def _step(state, key, x):
    """A step whose bound is not finite if an image of its batch is all 255."""
    x = x.astype(jnp.float32).reshape(len(x), -1)
    weight = 0.5 * state.params + jnp.mean(x, axis=0) + 0.01 * jax.random.normal(key, x.shape[1:])
    bound = jnp.where(jnp.any(jnp.all(x == 255, axis=1)), jnp.nan, jnp.sum(weight))
    return state._replace(params=weight, step=state.step + 1), {"bound": bound}


@pytest.mark.parametrize(
    ("bad", "devices", "steps_at_once", "sizes"), [(False, 1, 2, {2, 1}), (True, 1, 2, {2, 1}), (False, 8, 0.5, {1})]
)
def test_a_streamed_epoch_equals_an_epoch_from_the_memory_of_the_device(
    bad, devices, steps_at_once, sizes, monkeypatch, caplog
):
    images = IMAGES.copy()
    images[7] = 255 if bad else images[7]
    monkeypatch.setattr(streaming, "CHUNK_BYTES", int(RUNS * BATCH * images[0].nbytes * steps_at_once))
    over = mesh.make(RUNS, BATCH, jax.devices()[:devices])
    key = lambda seed: jax.random.key(seed)
    order = lambda seed, step: training.make_order(len(images), BATCH)(key(seed), step)
    chunk = lambda state, seed, batches: training.make_chunk(_step)(state, key(seed), batches)
    whole = lambda state, seed, data: training.make_epoch(_step, BATCH)(state, key(seed), data)
    state = training.TrainState(jnp.ones((RUNS, 6)), (), (), jnp.zeros(RUNS, jnp.int32))
    state, seeds = mesh.over_runs_of(over, (state, np.arange(RUNS)))
    streamed = streaming.Epoch(order, chunk, images, "map", over, state, seeds)
    resident = jax.jit(training.over_runs(whole, "map", shared=1))
    assert set(streamed.chunks) == sizes
    ours = theirs = state
    for _ in range(2):
        with jax.log_compiles():
            ours, metrics = streamed(ours, seeds, images)
        assert not caplog.text  # nothing is compiled during an epoch, so its time is that of training
        theirs, expected = resident(theirs, seeds, images)
        assert np.all(metrics["failed_step"] > 0) == bad
        for a, b in zip(jax.tree.leaves((ours, metrics)), jax.tree.leaves((theirs, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert np.all(ours.step == (0 if bad else 2 * STEPS))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_streamed_epoch_needs_the_memory_of_two_chunks_and_four_states(runs):
    """One chunk is read while another is trained on. The states: the epoch's first, and three for the chunk. Each run
    has its own device."""
    over, images = mesh.make(runs, 1, jax.devices()[:runs]), np.zeros((STEPS * BATCH, 100, 100, 1), np.uint8)
    order = lambda _, step: training.make_order(len(images), BATCH)(jax.random.key(0), step)
    bound = lambda batches: jnp.max(batches, axis=(1, 2, 3, 4)).astype(jnp.float32)
    chunk = lambda state, _, batches: (state._replace(step=state.step + 5), {"bound": bound(batches)})
    shape = lambda dtype, *sizes: jax.ShapeDtypeStruct((runs, *sizes), dtype)
    state = training.TrainState(shape(jnp.float32, 300, 300), (), (), shape(jnp.int32))
    state, values = mesh.over_runs_of(over, (state, shape(jnp.float32)))
    needed, free = streaming.Epoch(order, chunk, images, "map", over, state, values).memory()
    assert needed == pytest.approx(2 * images.nbytes + 4 * 3.6e5, rel=0.05)
    assert needed < free


def test_an_image_that_cannot_be_read_raises_an_error_where_the_batches_are_consumed():
    class Images(np.ndarray):
        def __getitem__(self, indices):
            raise OSError("they are damaged") if 7 in indices else OSError(errno.EIO, "Input/output error", "/mnt")

    over = mesh.make(1, 1, jax.devices()[:1])
    for order, sentence in (([3, 4], "Input/output error: '/mnt'"), ([7, 8], "they are damaged")):
        with pytest.raises(OSError, match=sentence):
            list(streaming.chunks(IMAGES.view(Images), np.array(order).reshape(1, 2, 1), over, 2))


@pytest.mark.slow
def test_images_damaged_during_training_are_one_sentence_and_the_run_continues_when_they_are_mended(tmp_path):
    """The images are damaged in epoch 3, and the first planned checkpoint is that of epoch 4."""
    files, workdirs = tmp_path / "data/tiny/1.0.0", [tmp_path / name for name in ("undisturbed", "damaged")]
    write_tfds(files, {"train": some_images(200), "test": some_images(20)})
    shard = files / "tiny-train.array_record-00000-of-00001"
    content = shard.read_bytes()
    run = ["--dataset=tiny", f"--data_dir={tmp_path}/data", "--streaming=on", "--epochs=4", "--checkpoint_every=4"]
    first = [call(*run, f"--workdir={folder}") for folder in workdirs]
    first[1] = first[1]._replace(fault="training_images_are_damaged_in_epoch_3")
    undisturbed, damaged = run_all(first, tmp_path / "first")
    assert undisturbed.code == 0, undisturbed.err
    assert_one_sentence(damaged, f"the train images in {files} cannot be read", "repair the files")
    assert checkpoint.steps(workdirs[1] / "checkpoints") == [2]
    assert not ProgramFolder(workdirs[1]).is_finished()
    shard.write_bytes(content)
    [again] = run_all([call(*run, f"--workdir={workdirs[1]}")], tmp_path / "second")
    assert (again.code, again.err) == (0, "")
    for name in ("metrics.jsonl", "checkpoints/4/digest/metadata"):
        assert (workdirs[1] / name).read_bytes() == (workdirs[0] / name).read_bytes()
    assert _results(workdirs[1]) == _results(workdirs[0])


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _results(folder):
    """The results of a finished program."""
    assert ProgramFolder(folder).is_finished()
    return ProgramFolder(folder).results()


def _same(ours, theirs):
    for a, b in zip(_rows(ours), _rows(theirs), strict=True):
        assert a == {name: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for name, v in b.items()}


def test_a_run_continues_whether_its_images_are_in_memory_or_on_the_disk(tmp_path):
    here = datasets.load("digits")._replace(files_checksum="files")
    there = here._replace(checksum="files")

    def claim(name, data):
        folder = ProgramFolder(tmp_path / name)
        try:
            folder.claim([Settings()], data)
        finally:
            folder.close()

    for first, then in ((here, there), (there, here)):
        claim(first.checksum, first)
        claim(first.checksum, then)
        with pytest.raises(ValueError, match="other data"):
            claim(first.checksum, here._replace(checksum="pixels", files_checksum=""))


def test_the_mean_image_is_computed_once_for_a_data_set(monkeypatch):
    build.forget_data()
    calls = []
    monkeypatch.setattr(datasets, "mean_image", lambda data: calls.append(data) or (0.5,) * 64)
    run = Settings(data_mean=True)
    for _ in range(2):
        build.model(run, build.load_data(run, None), for_evaluation=True)
    assert len(calls) == 1
    build.forget_data()


@pytest.mark.slow
def test_a_streamed_run_equals_the_run_from_memory_and_continues_to_the_same_bytes(tmp_path):
    folders = [tmp_path / name for name in ("off", "on", "cut")]
    run = ["--epochs=3", "--checkpoint_every=1"]
    outcomes = train(tmp_path / "a", *([*run, f"--workdir={f}", f"--streaming={f.name}"] for f in folders[:2]))
    shutil.copytree(folders[1], folders[2])
    forget_results(folders[2])
    shutil.rmtree(folders[2] / "checkpoints/3")
    outcomes += train(tmp_path / "b", [*run, f"--workdir={folders[2]}", "--streaming=on"])
    assert [outcome.code for outcome in outcomes] == [0] * 3, [outcome.err for outcome in outcomes]
    assert len(_rows(folders[1])) == 3
    _same(folders[1], folders[0])
    assert (folders[2] / "metrics.jsonl").read_bytes() == (folders[1] / "metrics.jsonl").read_bytes()
    assert _results(folders[2]) == _results(folders[1])


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.exists(), reason="needs TFDS's mnist beside the checkout")
def test_training_on_mnist_from_the_disk_equals_training_from_memory(tmp_path):
    run = ["--dataset=mnist", f"--data_dir={MNIST}", f"--cache_dir={tmp_path}/cache", "--epochs=1", "--batch_size=100"]
    folders = [tmp_path / name for name in ("off", "on")]
    outcomes = train(tmp_path / "a", *([*run, f"--workdir={f}", f"--streaming={f.name}"] for f in folders))
    assert [outcome.code for outcome in outcomes] == [0] * 2, [outcome.err for outcome in outcomes]
    _same(folders[1], folders[0])
