"""A run of 1e5 steps needs no more memory, files or threads at its end than at its beginning, and writes rows as it
goes."""

import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.common.program_folder import ProgramFolder
from tests.experiments.train.test_interruptions import start
from vae import checkpoint

# 100 steps in an epoch; an evaluation and a checkpoint every fifth.
RUN = ["--validation_size=100", "--batch_size=14", "--hidden=4", "--latent_dim=2", "--eval_samples=2"]
RUN += ["--eval_every=5", "--checkpoint_every=5", "--tensorboard"]
# The maximum of the last quarter may exceed the maximum of the second quarter by so many megabytes, files and threads,
# since the pages of an allocator and the files of a checkpoint come and go. Over 1000 epochs the test detects a leak of
# 16 kB in each epoch, or of one file or thread in every twelfth checkpoint.
SPREAD = 8


class Sample(NamedTuple):
    """The memory, open files and threads of a process when the run has so many rows."""

    rows: int
    megabytes: float
    files: int
    threads: int


def watch(process: subprocess.Popen, folder: Path) -> list[Sample]:
    found = []
    while process.poll() is None:
        try:
            rows = len(ProgramFolder(folder).rows())
            status = Path(f"/proc/{process.pid}/status").read_text()
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        except OSError:
            break
        if "VmRSS" not in status:  # it has just ended
            break
        field = lambda name, status=status: int(status.split(f"{name}:")[1].split()[0])
        found.append(Sample(rows, field("VmRSS") / 1024, files, field("Threads")))
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("way", "epochs"), [("--streaming=off", 1000), ("--streaming=on", 300)])
def test_memory_files_and_threads_are_flat(way, epochs, tmp_path):
    process = start(tmp_path, [*RUN, way, f"--epochs={epochs}"])
    samples = watch(process, tmp_path)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    rows = ProgramFolder(tmp_path).rows()
    assert len(rows) == epochs // 5
    assert rows[-1]["step"] == 100 * epochs
    assert {epochs, epochs - 5} <= set(checkpoint.steps(ProgramFolder(tmp_path).checkpoints))
    # Rows are there as soon as they are made.
    assert len({sample.rows for sample in samples}) > len(rows) / 2
    second, last = (
        [s for s in samples if len(rows) * part < 4 * s.rows <= len(rows) * (part + 1) and s.rows < len(rows)]
        for part in (1, 3)
    )
    worst = [Sample(*map(max, zip(*quarter, strict=True))) for quarter in (second, last)]
    print(f"{way}: second quarter {worst[0]}, last quarter {worst[1]}")
    assert worst[1].megabytes < worst[0].megabytes + SPREAD
    assert worst[1].files < worst[0].files + SPREAD
    assert worst[1].threads < worst[0].threads + SPREAD
