"""Sweeps as jobs: what is refused, submitit's local executor, and a real SLURM on this machine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.common import settings
from experiments.common.program_folder import programs_of
from experiments.train import slurm
from experiments.train.slurm_job import Command
from experiments.train.sweep import Sweep
from tests.experiments.train.test_interruptions import ROOT, contents
from tests.helpers.train_options import make_options
from vae import checkpoint

SWEEP = ["--hidden=16,8", "--seed=0,1", "--latent_dim=2", "--eval_samples=2", "--figures=none", "--eval_every=20"]
LONG = [*SWEEP, "--epochs=400", "--checkpoint_every=20"]

needs_submitit = pytest.mark.usefixtures("submitit")


@pytest.fixture(scope="module")
def submitit():
    """Imported before a test has a stderr of its own: it sets logging up, which ends absl's handler, and that closes a
    stream that is not `sys.stderr` then."""
    pytest.importorskip("submitit")


def environment() -> dict[str, str]:
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.train", *arguments, f"--workdir={folder}"]


def train(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    everything = {**environment(), **variables}
    return subprocess.run(command(folder, *arguments), cwd=ROOT, env=everything, capture_output=True, text=True)


def await_rows(folder: Path, programs: int = 2, rows: int = 2) -> None:
    """Until the runs of all programs have so many evaluations and a checkpoint."""
    deadline = time.monotonic() + 300
    saved = lambda folder: len(folder.rows()) >= 2 * rows and checkpoint.steps(folder.checkpoints)
    while len([program for program in programs_of(folder) if saved(program)]) < programs:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_submitit_or_slurm_it_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        slurm.submit([Command(["true"], [])], tmp_path, {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no squeue"):
        slurm._queued()


@needs_submitit
def test_without_a_cluster_it_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="srun"):
        slurm.submit([Command(["true"], [])], tmp_path, {})


def test_a_queued_job_is_known_by_what_it_trains(monkeypatch, tmp_path, capsys):
    submitted = []

    def submit(commands, folder, parameters):
        submitted.append([command.words for command in commands])
        return [SimpleNamespace(job_id=f"7_{i}") for i in range(len(commands))]

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "_queued", lambda: {"7_0"})
    for minutes in (5, 10):
        job = Command(["train", f"--slurm_time={minutes}"], [])
        slurm.submit_missing([slurm.Job(name, [name], job) for name in ("first", "second")], tmp_path, {})
    assert submitted == [[["train", "--slurm_time=5"]] * 2, [["train", "--slurm_time=10"]]]
    assert "first: job 7_0 is queued or running" in capsys.readouterr().out


def test_no_second_job_trains_the_programs_of_a_job_that_runs(monkeypatch, tmp_path, capsys):
    """The job of two halves runs. One half is finished, or the sweep has become larger."""
    submit = lambda commands, folder, parameters: [SimpleNamespace(job_id="7_0") for _ in commands]
    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "_queued", lambda: {"7_0"})
    printed = []
    for programs in (["first-1", "first-2"], ["first-2"], ["first-2", "new"]):
        slurm.submit_missing([slurm.Job("first", programs, Command(["train"], []))], tmp_path, {})
        printed.append(capsys.readouterr().out.splitlines())
    runs = "first: job 7_0 is queued or running, with the flags of its submission"
    assert printed[0][0] == "first: job 7_0"
    more = "first: other runs have no job; give this command again when 7_0 has ended"
    assert printed[1:] == [[runs], [runs, more]]


def test_each_job_is_this_command_and_has_the_folder_of_its_own_program(monkeypatch, tmp_path):
    options = make_options("--launcher=slurm")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mine.train", "--hidden=8,4"])
    jobs = []
    monkeypatch.setattr(slurm, "submit_missing", lambda new, folder, parameters: jobs.extend(new) or True)
    runs = [settings.Settings(hidden=(width,), seed=seed) for width in (8, 4) for seed in (0, 1)]
    sweep = Sweep(runs, tmp_path, options)
    assert slurm.submit_unfinished(sweep, options)
    assert [job.command.folders for job in jobs] == [[str(program.folder.path)] for program in sweep.programs]
    words = [sys.executable, "-m", "mine.train", "--hidden=8,4", "--launcher=local", f"--workdir={tmp_path}"]
    assert [job.command.words for job in jobs] == [[*words, f"--program={number}"] for number in (1, 2)]
    # The job finds the submitting command in config.json, and adds none.
    monkeypatch.setattr(sys, "orig_argv", jobs[0].command.words)
    with contextlib.closing(Sweep(runs, tmp_path, make_options("--program=1"))) as job:
        job.claim()
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["command"], "later" in config) == ("python -m mine.train --hidden=8,4", False)


def test_a_command_whose_jobs_are_refused_or_queued_is_not_recorded(monkeypatch, tmp_path):
    options = make_options("--launcher=slurm")
    sweep = Sweep([settings.Settings()], tmp_path, options)
    monkeypatch.setattr(slurm, "submit_missing", lambda *arguments: False)
    assert slurm.submit_unfinished(sweep, options)
    assert not (tmp_path / "config.json").exists()


def test_several_processes_submit_nothing(tmp_path):
    """As under srun -n2, where each would."""
    refused = train(tmp_path, "--launcher=slurm", SLURM_STEP_NUM_TASKS="2")
    assert refused.returncode == 1
    assert "start the command once" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = train(folder, *LONG)
    assert outcome.returncode == 0, outcome.stderr
    return contents(folder)


@pytest.mark.slow
@needs_submitit
def test_jobs_of_the_local_executor_save_and_go_on(undisturbed, tmp_path, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    words = [command(tmp_path, *LONG, f"--program={number}") for number in (1, 2)]
    jobs = slurm.submit([Command(line, []) for line in words], tmp_path / "jobs", {"timeout_min": 30}, cluster="local")
    await_rows(tmp_path)
    for task in children(jobs[1]._process.pid):  # as submitit's controller does when the time is over
        os.kill(task, signal.SIGUSR1)
    for job in jobs:
        job.result()
    assert contents(tmp_path) == undisturbed
    assert "stopped by SIGUSR1 after epoch" in jobs[1].stderr()
    assert (tmp_path / "figures/compare_runs.png").exists()


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment variables of a SLURM with one node."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)} (Debian's slurm-wlm and munge)")
    if os.geteuid():
        pytest.skip("SLURM's daemons must be started by root")
    folder, script = tmp_path_factory.mktemp("slurm"), ROOT / "scripts/start_slurm.sh"
    started = subprocess.run(["bash", script, folder], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    yield {"SLURM_CONF": started.stdout.strip()}
    subprocess.run(["bash", script, folder, "stop"], check=True)


@pytest.mark.slow
@needs_submitit
def test_a_sweep_as_an_array_of_slurm_that_is_requeued(undisturbed, cluster, tmp_path):
    """One job by `scontrol requeue`, as after a preemption; the other by what SLURM sends when its time is over."""
    at = [*LONG, "--launcher=slurm", "--slurm_cpus=1", "--slurm_mem_gb=2"]
    scontrol = lambda *words: subprocess.run(words, env={**os.environ, **cluster}, check=True)
    refused = train(tmp_path, *at, "--slurm_partition=nowhere", **cluster)
    assert refused.returncode == 1
    assert "partition" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    submitted = train(tmp_path, *at, **cluster)
    assert submitted.returncode == 0, submitted.stderr
    jobs = list(json.loads((tmp_path / "slurm/jobs.json").read_text()).values())
    assert [job.split("_")[1] for job in jobs] == ["0", "1"]
    again = train(tmp_path, *at, "--slurm_time=600", "--keep=3", **cluster)
    await_rows(tmp_path)
    assert f"program 2 of 2, hidden=8: job {jobs[1]} is queued or running" in again.stdout
    scontrol("scontrol", "requeue", jobs[0])
    scontrol("scancel", "--signal=USR1", jobs[1])
    deadline = time.monotonic() + 600
    while not all(program.is_finished() for program in programs_of(tmp_path)) or not (tmp_path / "figures").exists():
        assert time.monotonic() < deadline, log(tmp_path)
        time.sleep(1)
    assert contents(tmp_path) == undisturbed, log(tmp_path)
    assert log(tmp_path).count("DUE TO JOB REQUEUE") >= 2
    assert "stopped by SIGUSR1 after epoch" in log(tmp_path)
    finished = train(tmp_path, *at, **cluster)
    assert "4 runs" in finished.stdout


def log(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "slurm").glob("*log*")))
