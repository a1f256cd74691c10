"""Sweeps as jobs: what is refused, submitit's own local executor, and a real SLURM of this machine."""

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

from experiments.common import run_folder as workdir
from experiments.common import settings
from experiments.common.run_folder import all_runs
from experiments.train import slurm as launch
from experiments.train import sweep as training
from tests.experiments.train.test_interruptions import ROOT, contents

SWEEP = ["--hidden=16,8", "--seed=0,1", "--latent_dim=2", "--eval_samples=2", "--nofigures", "--eval_every=20"]
LONG = [*SWEEP, "--epochs=400"]

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
    while len([run for run in all_runs(folder) if len(run.rows()) >= rows]) < 2 * programs:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_submitit_or_slurm_it_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        launch.submit([launch.Command(["true"], [])], tmp_path, {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no squeue"):
        launch._queued()


@needs_submitit
def test_without_a_cluster_it_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="srun"):
        launch.submit([launch.Command(["true"], [])], tmp_path, {})


@needs_submitit
@pytest.mark.parametrize(("saves", "came_on"), [(True, ""), (False, "own"), (False, ""), (False, "sibling")])
def test_a_job_is_requeued_unless_it_gets_nowhere(saves, came_on, monkeypatch, capfd, tmp_path):
    """However far others of the sweep have come."""
    monkeypatch.setattr(launch, "PATIENCE_SECONDS", 60 if saves else 0.5)
    script = f"trap '{'exit 138' if saves else ''}' USR1; echo ready; while true; do sleep 0.05; done"
    job = launch.Command(["bash", "-c", script, f"--workdir={tmp_path}"], [str(tmp_path / "runs/own/checkpoints")])
    with subprocess.Popen(job.words, stdout=subprocess.PIPE, text=True) as process:
        job._process, job._before = process, job._checkpoints()
        assert process.stdout.readline() == "ready\n"
        if came_on:
            (tmp_path / "runs" / came_on / "checkpoints" / "5").mkdir(parents=True)
        requeued = job.checkpoint()
        assert process.wait() == (138 if saves else -signal.SIGKILL)
        if saves or came_on == "own":
            assert vars(requeued.function) == {"words": job.words, "folders": job.folders}
            assert job.checkpoint().function.words == job.words  # it has ended already
    error = capfd.readouterr().err
    assert ("from the checkpoint before" in error) != saves
    assert (launch.STUCK in error) == (requeued is None) == (not saves and came_on != "own")


def test_a_queued_job_is_known_by_what_it_trains(monkeypatch, tmp_path, capsys):
    submitted = []

    def submit(commands, folder, parameters):
        submitted.append([command.words for command in commands])
        return [SimpleNamespace(job_id=f"7_{i}") for i in range(len(commands))]

    monkeypatch.setattr(launch, "submit", submit)
    monkeypatch.setattr(launch, "_queued", lambda: {"7_0"})
    for minutes in (5, 10):
        job = launch.Command(["train", f"--slurm_time={minutes}"], [])
        launch.submit_missing([launch.Job(name, name, job) for name in ("first", "second")], tmp_path, {})
    assert submitted == [[["train", "--slurm_time=5"]] * 2, [["train", "--slurm_time=10"]]]
    assert "first: job 7_0 is queued or running" in capsys.readouterr().out


def test_each_job_is_this_command_and_has_the_folders_of_its_own_runs(monkeypatch, tmp_path):
    """And the workdir's files, which a sweep of many programs has many of, are read once."""
    sizes = {"slurm_time": 60, "slurm_cpus": 1, "slurm_gpus": 0, "slurm_mem_gb": 1.0}
    sizes |= {"slurm_partition": None, "slurm_account": None}
    given = SimpleNamespace(data_dir=None, cache_dir=None, streaming="auto", profile_steps=None, **sizes)
    monkeypatch.setattr(training, "FLAGS", given)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mine.train", "--hidden=8,4"])
    submitted, found = [], []
    monkeypatch.setattr(launch, "submit_missing", lambda jobs, folder, parameters: submitted.extend(jobs))
    monkeypatch.setattr(workdir, "run_folders", lambda *a, of=workdir.run_folders: found.append(of(*a)) or found[-1])
    runs = [settings.Settings(hidden=(width,), seed=seed) for width in (8, 4) for seed in (0, 1)]
    training.submit_all(runs, tmp_path)
    assert len(found) == 1
    folders = [str(folder.checkpoints) for folder in found[0]]
    assert [job.command.folders for job in submitted] == [folders[:2], folders[2:]]
    words = [sys.executable, "-m", "mine.train", "--hidden=8,4", "--launcher=local", f"--workdir={tmp_path}"]
    assert [job.command.words for job in submitted] == [[*words, f"--program={number}"] for number in (1, 2)]


def test_several_processes_submit_nothing(tmp_path):
    """As under srun -n2, where each would."""
    refused = train(tmp_path, "--launcher=slurm", SLURM_STEP_NUM_TASKS="2")
    assert refused.returncode == 1
    assert "start it alone" in refused.stderr
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
    jobs = launch.submit(
        [launch.Command(line, []) for line in words], tmp_path / "jobs", {"timeout_min": 30}, cluster="local"
    )
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
def slurm(tmp_path_factory):
    """The environment of a SLURM with one node."""
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
def test_a_sweep_as_an_array_of_slurm_that_is_requeued(undisturbed, slurm, tmp_path):
    """One job by `scontrol requeue`, as after a preemption; the other by what SLURM sends when its time is over."""
    at = [*LONG, "--launcher=slurm", "--slurm_cpus=1", "--slurm_mem_gb=2"]
    scontrol = lambda *words: subprocess.run(words, env={**os.environ, **slurm}, check=True)
    refused = train(tmp_path, *at, "--slurm_partition=nowhere", **slurm)
    assert refused.returncode == 1
    assert "partition" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    submitted = train(tmp_path, *at, **slurm)
    assert submitted.returncode == 0, submitted.stderr
    jobs = list(json.loads((tmp_path / "slurm/jobs.json").read_text()).values())
    assert [job.split("_")[1] for job in jobs] == ["0", "1"]
    again = train(tmp_path, *at, "--slurm_time=600", "--keep=3", **slurm)
    await_rows(tmp_path)
    assert f"program 2 of 2, hidden=8: job {jobs[1]} is queued or running" in again.stdout
    scontrol("scontrol", "requeue", jobs[0])
    scontrol("scancel", "--signal=USR1", jobs[1])
    deadline = time.monotonic() + 600
    while any(run.result() is None for run in all_runs(tmp_path)) or not (tmp_path / "figures").exists():
        assert time.monotonic() < deadline, log(tmp_path)
        time.sleep(1)
    assert contents(tmp_path) == undisturbed, log(tmp_path)
    assert log(tmp_path).count("DUE TO JOB REQUEUE") >= 2
    assert "stopped by SIGUSR1 after epoch" in log(tmp_path)
    finished = train(tmp_path, *at, **slurm)
    assert "4 runs" in finished.stdout


def log(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "slurm").glob("*log*")))
