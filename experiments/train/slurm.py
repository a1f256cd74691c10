"""Submits a sweep to a SLURM cluster: each program becomes a job of one array, through submitit.

A job runs the command line of the submission, with the number of its program added. A job that is preempted, or whose
time is over, saves and is requeued. Then the same command line continues the training.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import files
from experiments.train.flags import Options
from experiments.train.slurm_job import Command
from experiments.train.sweep import Program, Sweep

# So many seconds before the end of its time, a job is told to save.
SAVING_SECONDS = 120
# The number of times that a job may use up its time and be requeued, far more than any run needs.
MAX_REQUEUES = 1000


class Job(NamedTuple):
    """The job that trains the programs of one number.

    Attributes:
      name: The name of the job's first program, for the output.
      programs: The folders of its unfinished programs in the workdir.
      command: The command line.
    """

    name: str
    programs: list[str]
    command: Command


def submit_unfinished(sweep: Sweep, options: Options) -> bool:
    """Submits a job for each program that has unfinished runs. Returns whether there is such a program.

    Raises:
      ValueError: As `submit`, or if the folder of a run belongs to another run.
    """
    command = [sys.executable, *sys.orig_argv[1:], "--launcher=local", f"--workdir={sweep.workdir.resolve()}"]
    jobs = []
    by_number: dict[int, list[Program]] = {}
    for program in sweep.programs:
        if not program.folder.is_finished():
            by_number.setdefault(program.number, []).append(program)
    for number, programs in by_number.items():
        folders = [program.folder.path for program in programs]
        line = Command([*command, f"--program={number}"], [str(path.resolve()) for path in folders])
        name = programs[0].name or "the only program"
        jobs.append(Job(name, [str(path.relative_to(sweep.workdir)) for path in folders], line))
    parameters = {
        "timeout_min": options.slurm_time,
        "cpus_per_task": options.slurm_cpus,
        "gpus_per_node": options.slurm_gpus or None,
        "mem_gb": options.slurm_mem_gb,
        "slurm_partition": options.slurm_partition,
        "slurm_account": options.slurm_account,
    }
    if submit_missing(jobs, sweep.workdir / "slurm", parameters):
        sweep.record_command()  # before the jobs record theirs, because starting takes them seconds
    return bool(jobs)


def submit_missing(jobs: list[Job], folder: Path, parameters: dict[str, Any]) -> bool:
    """Submits the jobs none of whose programs has a job that is queued or running, and prints the id of each job.

    Args:
      folder: The folder of the jobs' output and of jobs.json, which has the last job of each program.
      parameters: As in `submit`.

    Raises:
      ValueError: As `submit`.
    """
    record = folder / "jobs.json"
    submitted_before = files.read_json(record) if record.exists() else {}
    alive = _queued() if submitted_before else set()
    missing = []
    for job in jobs:
        earlier = [submitted_before.get(program) for program in job.programs]
        if running := alive.intersection(earlier):
            print(f"{job.name}: job {min(running)} is queued or running, with the flags of its submission")
            if None in earlier:
                print(f"{job.name}: other runs have no job; give this command again when {min(running)} has ended")
        else:
            missing.append(job)
    if not missing:
        return False
    submitted = submit([job.command for job in missing], folder, parameters)
    for job, slurm_job in zip(missing, submitted, strict=True):
        submitted_before |= dict.fromkeys(job.programs, slurm_job.job_id)
        print(f"{job.name}: job {slurm_job.job_id}")
    files.write_json(record, submitted_before)
    print(f"output of the jobs: {folder}/*_log.out and *_log.err; the same command again says what is not finished")
    return True


def submit(commands: list[Command], folder: Path, parameters: dict[str, Any], cluster: str = "slurm") -> list:
    """Submits the command lines as one array, and returns the `submitit.Job`s.

    Args:
      folder: The folder of the jobs' output.
      parameters: Parameters of `submitit.AutoExecutor`.
      cluster: "local" starts the jobs on this machine, for tests.

    Raises:
      ValueError: If submitit or SLURM is not installed, or if SLURM refuses the jobs.
    """
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # read when submitit is imported; see common/interrupt.py
    try:
        import submitit
    except ImportError:
        raise ValueError("--launcher=slurm needs submitit; install it: pip install submitit") from None
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **{f"{cluster}_max_num_timeout": MAX_REQUEUES})
        executor.update_parameters(**parameters, slurm_signal_delay_s=SAVING_SECONDS)
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # sbatch's message is in the exception too
            jobs = [executor.submit(command) for command in commands]
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise ValueError(f"--launcher=slurm: {_last_line(error)}") from None
    return jobs


def _queued() -> set[str]:
    """The ids of all queued or running jobs. The id of an array's job is ARRAY_INDEX, such as 7_0."""
    try:
        command = ["squeue", "--noheader", "--array", "--format=%i"]
        return set(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split())
    except OSError:
        raise ValueError(
            "--launcher=slurm needs the commands of SLURM, but there is no squeue; run it on a node of the cluster"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"--launcher=slurm: {_last_line(error.stderr)}") from None


def _last_line(error: Any) -> str:
    """The last line of an error message, without the name of the command that printed it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("sbatch: error: ")
