"""What a job of SLURM runs: the command line of its submission, in a process that is told to save before a requeue.

submitit pickles a `Command` and unpickles it in the job, in a process beside the training. So this file imports neither
jax nor anything that does.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# The seconds in which a process must save after the signal. Then it is killed, which leaves time for the requeue.
PATIENCE_SECONDS = 90
STUCK = "no checkpoint in a whole job: not requeued; lower --checkpoint_every, or raise --slurm_time"


class Command:
    """A command line that submitit calls.

    Args:
      words: The command line.
      folders: The checkpoint folders of the runs that this command trains.
    """

    def __init__(self, words: list[str], folders: list[str]):
        self.words = words
        self.folders = folders

    def __call__(self) -> None:
        self._checkpoints_before = self._checkpoints()
        self._process = subprocess.Popen(self.words)
        status = self._process.wait()
        if status == 128 + signal.SIGUSR1:
            time.sleep(30)  # SLURM signalled the whole job, so submitit is about to call `checkpoint`
        if status:
            raise RuntimeError(f"exit status {status}")

    def checkpoint(self):
        """Lets the process save. Returns what submitit submits again, or None if the whole job reached no checkpoint:
        the next job would not either.

        submitit calls this in a signal handler that interrupted `Popen.wait`, which therefore cannot be used here.
        """
        import submitit

        process = self._process.pid
        has_ended = os.WEXITED | os.WNOWAIT
        deadline = time.monotonic() + PATIENCE_SECONDS
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGUSR1)
            while not os.waitid(os.P_PID, process, has_ended | os.WNOHANG):
                if time.monotonic() > deadline:
                    print(
                        f"no end of the epoch within {PATIENCE_SECONDS} seconds: killed, to go on from the checkpoint"
                        " before",
                        file=sys.stderr,
                        flush=True,
                    )
                    os.kill(process, signal.SIGKILL)
                    os.waitid(os.P_PID, process, has_ended)
                    if self._checkpoints() == self._checkpoints_before:
                        print(STUCK, file=sys.stderr, flush=True)
                        return None
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Command(self.words, self.folders))

    def _checkpoints(self) -> set[Path]:
        return {path for folder in self.folders for path in Path(folder).glob("*")}
