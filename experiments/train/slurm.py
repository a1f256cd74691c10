"""A sweep on a cluster: each of its programs is a job of one SLURM array, submitted by submitit.

A job is a command line: that of the submission with the number of its program added; submitit, which pickles what it is
given, gets its words, the names of folders, and nothing else. A job that is preempted or reaches its time saves, is
requeued, and the same command line takes it up again.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# Seconds before the end of a job's time at which it is told to save.
SAVING_SECONDS = 120
# How long it may take for that; it is then killed, which leaves time for the requeue.
PATIENCE_SECONDS = 90
STUCK = "no checkpoint in a whole job: not requeued; lower --checkpoint_every, or raise --slurm_time"
# How often a job may reach its time and be requeued; it is the run that ends it.
MAX_REQUEUES = 1000


class Command:
    """A command line as submitit calls it: in a process of its own, which is told to save before a requeue.

    `folders` are those in which its own runs, and no others, leave their checkpoints.
    """

    def __init__(self, words: list[str], folders: list[str]):
        self.words, self.folders = words, folders

    def __call__(self) -> None:
        self._before = self._checkpoints()
        self._process = subprocess.Popen(self.words)
        status = self._process.wait()
        if status == 128 + signal.SIGUSR1:
            time.sleep(30)  # the signal was to all of the job, and so is on its way to `checkpoint`
        if status:
            raise RuntimeError(f"exit status {status}")

    def checkpoint(self):
        """What submitit submits again, or None where a whole job came to no checkpoint, as the next one would. It is
        called in a signal handler, where `Popen.wait` would wait for itself."""
        import submitit

        child, ended = self._process.pid, os.WEXITED | os.WNOWAIT
        deadline = time.monotonic() + PATIENCE_SECONDS
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGUSR1)
            while not os.waitid(os.P_PID, child, ended | os.WNOHANG):
                if time.monotonic() > deadline:
                    late = (
                        f"no end of the epoch within {PATIENCE_SECONDS} seconds: killed, to go on from the checkpoint"
                    )
                    print(f"{late} before", file=sys.stderr, flush=True)
                    os.kill(child, signal.SIGKILL)
                    os.waitid(os.P_PID, child, ended)
                    if self._checkpoints() == self._before:
                        print(STUCK, file=sys.stderr, flush=True)
                        return None
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Command(self.words, self.folders))

    def _checkpoints(self) -> set[Path]:
        return {path for folder in self.folders for path in Path(folder).glob("*")}


class Job(NamedTuple):
    """A program of a sweep: `digest` says what is trained, and so is the same whatever flags of other kinds it has."""

    title: str
    digest: str
    command: Command


def submit_missing(jobs: list[Job], folder: Path, parameters: dict[str, Any]) -> None:
    """Submits those of the jobs that were not submitted from `folder` or are no longer queued or running; says which.

    Raises:
      ValueError: as `submit`.
    """
    from experiments.common import files  # jax is for the job's command, not for this file in its job

    record = folder / "jobs.json"
    known = files.read_json(record) if record.exists() else {}
    waiting = _queued() if known else set()
    missing = []
    for job in jobs:
        if known.get(job.digest) in waiting:
            print(
                f"{job.title}: job {known[job.digest]} is queued or running, with the flags that it was submitted with"
            )
        else:
            missing.append(job)
    if not missing:
        return
    submitted = submit([job.command for job in missing], folder, parameters)
    for job, of_slurm in zip(missing, submitted, strict=True):
        known[job.digest] = of_slurm.job_id
        print(f"{job.title}: job {of_slurm.job_id}")
    files.write_json(record, known)
    print(f"what the jobs print: {folder}/*_log.out and *_log.err; the same command again says what is left")


def submit(commands: list[Command], folder: Path, parameters: dict[str, Any], cluster: str = "slurm") -> list:
    """Submits the command lines as one array and returns its `submitit.Job`s; what they print goes into `folder`.

    `parameters` are those of `submitit.AutoExecutor`. `cluster="local"` starts them here, for tests.

    Raises:
      ValueError: if there is no submitit or no cluster, or if it refuses the jobs.
    """
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # what interrupt.py listens to; read where submitit is imported
    try:
        import submitit
    except ImportError:
        raise ValueError("--launcher=slurm needs submitit, so install it: pip install submitit") from None
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **{f"{cluster}_max_num_timeout": MAX_REQUEUES})
        executor.update_parameters(**parameters, slurm_signal_delay_s=SAVING_SECONDS)
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # sbatch's words, which the error has again
            jobs = [executor.submit(command) for command in commands]
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise ValueError(f"--launcher=slurm: {_last_line(error)}") from None
    return jobs


def _queued() -> set[str]:
    """The ids of all jobs that SLURM has queued or runs, those of arrays as ARRAY_INDEX."""
    try:
        command = ["squeue", "--noheader", "--array", "--format=%i"]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except OSError:
        raise ValueError("--launcher=slurm needs SLURM's commands, and there is no squeue") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"--launcher=slurm: {_last_line(error.stderr)}") from None


def _last_line(error: Any) -> str:
    """Of what a command said, without its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("sbatch: error: ")
