"""Runs that are stopped, killed or started twice: the same command continues them, and they end with the same bytes."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.common.program_folder import ProgramFolder, programs_of
from tests.helpers.entry_points import train
from tests.helpers.written_workdirs import forget_results
from vae import checkpoint

ROOT = Path(__file__).resolve().parents[3]
RUN = ["--epochs=60", "--eval_every=2", "--hidden=4", "--latent_dim=2", "--batch_size=256", "--eval_samples=2"]
RUN += ["--checkpoint_every=2"]
SWEEP = [*RUN, "--seed=0,1,2,3,4,5,6,7"]


def start(folder: Path, arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    command = [sys.executable, "-m", "experiments.train", *arguments, "--figures=none", f"--workdir={folder}"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def await_rows(process: subprocess.Popen, folder: Path, rows: int) -> None:
    """Waits until the first run of the first program has so many evaluations."""
    deadline = time.monotonic() + 120
    while not (programs := programs_of(folder)) or len(programs[0].rows_by_run()[0]) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def contents(folder: Path) -> dict[str, object]:
    """What must be the same after interruptions: rows and results as bytes, and the digests of the last states."""
    found = {"results": (folder / "results.csv").read_bytes()}
    for program in programs_of(folder):
        name = program.path.relative_to(folder)
        found[name] = (program.path / "metrics.jsonl").read_bytes()
        last = checkpoint.steps(program.checkpoints)[-1]
        found[name, last] = (program.checkpoints / str(last) / "digest" / "metadata").read_bytes()
    return found


def listening(pid: int) -> list[str]:
    """The addresses at which a process listens, as the kernel writes them."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        lines = [line.split() for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
        waiting = [line for line in lines if line[3] == ("0A" if "tcp" in kind else "07")]  # LISTEN, unconnected
        found += [line[1] for line in waiting if f"socket:[{line[9]}]" in links]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, RUN))
    return contents(folder)


def test_a_run_asked_to_stop_saves_and_no_other_disturbs_it(tmp_path):
    process = start(tmp_path, [*RUN, "--tensorboard"])
    await_rows(process, tmp_path, 3)
    process.send_signal(signal.SIGSTOP)  # so that it still runs when the other starts
    assert listening(process.pid) == []
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening(os.getpid())) == 1  # the control
    other = start(tmp_path, RUN)
    _, refusal = other.communicate(timeout=120)
    assert other.returncode == 1
    assert f"is in use by process {process.pid}" in refusal
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped by SIGTERM after epoch" in err
    assert "the same command continues" in err
    assert "Traceback" not in err
    done = checkpoint.steps(ProgramFolder(tmp_path).checkpoints)[-1]
    assert f"after epoch {done} of 60" in err


# A run in the middle of an epoch that does not end.
BUSY = """
import os, signal
from experiments.common import interrupt
interrupt.stop_at_once(resumes=RESUMES)
with interrupt.Watch() as watch:
    for number in NUMBERS:
        os.kill(os.getpid(), number)
        print(watch.asked.name, flush=True)
"""


@pytest.mark.parametrize(("numbers", "code"), [([2, 2], 130), ([15, 2, 2], 130), ([2, 15, 10], 0)])
def test_a_second_ctrl_c_leaves_at_once(numbers, code):
    """A Ctrl-C after another signal counts as a second one; no other signal does. The sentence says that the command
    can be continued only where it can."""
    resumes = numbers[0] == signal.SIGINT
    command = [sys.executable, "-c", BUSY.replace("NUMBERS", repr(numbers)).replace("RESUMES", repr(resumes))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    first = signal.Signals(numbers[0]).name
    assert done.stdout.splitlines() == [first] * (3 if code == 0 else 1)
    how = "continues" if resumes else "starts again"
    assert done.stderr == ("" if code == 0 else f"stopped by SIGINT; the same command {how}\n")


@pytest.mark.slow
def test_a_run_asked_to_stop_before_it_trains_says_so_at_once(tmp_path):
    """The signal comes while XLA compiles, or directly after."""
    process = start(tmp_path, RUN)
    await_rows(process, tmp_path, 0)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.startswith("stopped by SIGTERM")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_run_asked_to_stop_ends_with_the_same_bytes(number, undisturbed, tmp_path):
    for rows in (2, 9):
        process = start(tmp_path, RUN)
        await_rows(process, tmp_path, rows)
        process.send_signal(number)
        process.communicate()
        assert process.returncode == 128 + number
    finish(start(tmp_path, RUN))
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [RUN, SWEEP], ids=["run", "sweep"])
def test_twenty_kills_at_random_moments(arguments, tmp_path):
    arguments = [*arguments, "--epochs=200"]  # on a busy machine a run comes far between two kills
    started, process = time.monotonic(), start(tmp_path / "undisturbed", arguments)
    await_rows(process, tmp_path / "undisturbed", 1)
    of_start = time.monotonic() - started
    finish(process)
    rng, folder, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 20:
        process = start(folder, arguments)
        if kills % 3 and programs_of(folder):  # else the kill would mostly come before the first epoch
            await_rows(process, folder, len(programs_of(folder)[0].rows_by_run()[0]) + 1)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, of_start))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
    finish(start(folder, arguments))
    assert kills == 20
    assert contents(folder) == contents(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_larger_sweep_takes_nobody_back(tmp_path):
    """A sweep that was cut off continues from its last epoch although a seed is added, and ends with the same bytes."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    length = ["--epochs=4", "--checkpoint_every=1"]
    train(
        tmp_path / "first", [*length, "--seed=0,1", f"--workdir={whole}"], [*length, "--seed=0,1", f"--workdir={cut}"]
    )
    [begun] = [program.path for program in programs_of(cut)]
    [finished] = [program.path for program in programs_of(whole)]
    forget_results(begun)
    shutil.rmtree(begun / "checkpoints/4")
    inode = (begun / "checkpoints/3").stat().st_ino
    [again] = train(tmp_path / "second", [*length, "--seed=0,1,2", f"--workdir={cut}"])
    assert again.code == 0, again.err
    assert (begun / "checkpoints/3").stat().st_ino == inode  # not written again
    for file in ("metrics.jsonl", "runs.json", "checkpoints/4/digest/metadata"):
        assert (begun / file).read_bytes() == (finished / file).read_bytes()
    assert sorted(len(program.runs()) for program in programs_of(cut)) == [1, 2]
