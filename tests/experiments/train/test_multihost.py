"""Two processes on this machine train one run; one of them is killed, is asked to stop, or refuses its input."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments.common.program_folder import ProgramFolder, programs_of
from experiments.common.settings import Settings
from experiments.train import multihost
from tests.helpers import written_workdirs
from vae import checkpoint

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--eval_every=2", "--hidden=16", "--latent_dim=2", "--batch_size=128", "--eval_samples=4"]
RUN = ["--epochs=40", "--validation_size=256", *SMALL]


def start(folder: Path, arguments: list[str] = RUN, number: int = 2) -> list[subprocess.Popen]:
    """The processes of `experiments.train`, process 0 first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address}
    environment["JAX_NUM_PROCESSES"] = str(number)
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    command = [sys.executable, "-m", "experiments.train", *arguments, "--figures=none", f"--workdir={folder}"]
    command += ["--multihost"] if number > 1 else []
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(number)
    ]


def end(process: subprocess.Popen, timeout: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def await_rows(processes: list[subprocess.Popen], folder: Path, rows: int) -> None:
    deadline = time.monotonic() + 180
    while len(ProgramFolder(folder).rows()) < rows:
        assert [process.poll() for process in processes] == [None] * len(processes), [end(p) for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "results.csv")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    processes = start(folder)
    return folder, [end(process) for process in processes]


@pytest.mark.slow
def test_two_processes_train_to_the_bound_of_one(undisturbed, tmp_path):
    folder, outcomes = undisturbed
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert "2 devices, on each: 1 of 1 run, 64 of 128 images of each batch" in outcomes[0][1]
    assert "-log p(x)" in outcomes[0][1]
    assert "-log p(x)" not in outcomes[1][1]  # process 0 alone speaks
    assert not any("Traceback" in err or "error:" in err for _, _, err in outcomes), outcomes
    [process] = start(tmp_path, number=1)
    assert end(process)[0] == 0
    ours, theirs = ProgramFolder(folder).rows(), ProgramFolder(tmp_path).rows()
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in ("bound_nats", "elbo_nats"):
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-5)
        assert ours[-1][name] == pytest.approx(theirs[-1][name], abs=0.05)
    assert checkpoint.steps(folder / "checkpoints")[-1] == 40
    assert ProgramFolder(folder).results()[0]["validation_elbo_nats"] == ours[-1]["elbo_nats"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_ends_and_a_restart_goes_on(victim, undisturbed, tmp_path):
    processes = start(tmp_path)
    await_rows(processes, tmp_path, 3)
    processes[victim].kill()
    killed = time.monotonic()
    end(processes[victim])
    code, _, err = end(processes[1 - victim], timeout=2 * multihost.HEARTBEAT_SECONDS)
    assert time.monotonic() - killed < 2 * multihost.HEARTBEAT_SECONDS
    assert code != 0
    # Either Python meets the loss first, or jax's runtime, which aborts the process with its own message.
    assert "error: lost the connection to another process" in err or "fatal errors" in err, err
    assert len(ProgramFolder(tmp_path).rows()) < 20
    assert [end(process)[0] for process in start(tmp_path)] == [0, 0]
    assert contents(tmp_path) == contents(undisturbed[0])


@pytest.mark.slow
def test_when_one_is_asked_to_stop_both_save_and_a_restart_goes_on(undisturbed, tmp_path):
    processes = start(tmp_path)
    await_rows(processes, tmp_path, 3)
    processes[1].send_signal(signal.SIGTERM)
    outcomes = [end(process, timeout=60) for process in processes]
    assert [code for code, _, _ in outcomes] == [128 + signal.SIGTERM] * 2, outcomes
    assert all("stopped by SIGTERM after epoch" in err for _, _, err in outcomes), outcomes
    assert [end(process)[0] for process in start(tmp_path)] == [0, 0]
    assert contents(tmp_path) == contents(undisturbed[0])


@pytest.mark.slow
def test_a_larger_sweep_continues_in_two_processes(tmp_path):
    arguments = ["--epochs=4", *SMALL]
    small = [end(process) for process in start(tmp_path, [*arguments, "--seed=0,1"])]
    assert [code for code, _, _ in small] == [0, 0], small
    [first] = programs_of(tmp_path)
    before = (first.rows(), first.results())
    larger = [end(process) for process in start(tmp_path, [*arguments, "--seed=0,1,2"])]
    assert [code for code, _, _ in larger] == [0, 0], larger
    assert (first.rows(), first.results()) == before
    [second] = [folder for folder in programs_of(tmp_path) if folder.path != first.path]
    assert [run.seed for run in second.runs()] == [2]
    assert second.is_finished()


@pytest.mark.slow
def test_what_process_0_refuses_ends_the_others_too(tmp_path):
    written_workdirs.write_run(tmp_path, Settings(seed=5))
    outcomes = [end(process, timeout=120) for process in start(tmp_path)]
    assert all(code != 0 for code, _, _ in outcomes)
    assert "holds a run with other settings" in outcomes[0][2]
    assert "Traceback" not in outcomes[0][2]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "--multihost needs JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID in the environment"),
        ({"JAX_COORDINATOR_ADDRESS": "there:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "an index below it"),
        ({"JAX_COORDINATOR_ADDRESS": "there", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "there:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "a number"),
    ],
)
def test_without_others_it_is_refused_before_anything_is_started(environment, sentence, monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence):
        multihost.addresses()


def test_a_cluster_says_that_there_are_others(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert not multihost.is_one_of_several()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not multihost.is_one_of_several()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert multihost.is_one_of_several()


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ValueError("[0]: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:1"), 1, "lost the connection"),
        (KeyError("ours"), 1, "Traceback"),
        (SystemExit(1), 1, ""),
        (SystemExit(128 + signal.SIGTERM), None, ""),  # all processes agreed to stop, so this one waits for the others
    ],
)
def test_a_process_that_fails_does_not_wait_for_the_others(error, status, words, monkeypatch, capsys):
    class Exited(BaseException):
        """What `os._exit` does here, whose argument is the status."""

    def exit(status):
        raise Exited(status)

    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: None)
    monkeypatch.setattr(os, "_exit", exit)
    with pytest.raises((SystemExit, Exited)) as ended, multihost.together({}):
        raise error
    assert ended.value.args == (status,) if ended.type is Exited else ended.value is error and status is None
    assert words in capsys.readouterr().err
