"""The program of a SLURM job: it runs a command line in a process, and lets the process save before a requeue.

submitit pickles a `Command`, and unpickles it in a process beside the training. So that this process stays small, this
file imports neither jax nor any module that does.
"""

import contextlib
import glob
import os
import signal
import subprocess
import sys
import time

# A process that has not saved so many seconds after the signal is killed, which leaves time for the requeue.
PATIENCE_SECONDS = 90
KILLED = (
    f"the epoch did not end within {PATIENCE_SECONDS} seconds, so the process was killed; it continues from its last"
    " checkpoint"
)
STUCK = "the job reached no checkpoint, so it is not requeued; lower --checkpoint_minutes, or raise --slurm_time"


class Command:
    """A command line that submitit calls.

    Args:
      words: The command line.
      folders: The folders of the programs that this command trains. If the runs of a program do not fit into memory,
        the program is trained as two programs, whose folders have its name with a hyphen and a number behind it.
    """

    def __init__(self, words: list[str], folders: list[str]):
        self.words = words
        self.folders = folders

    def __call__(self) -> None:
        self._checkpoints_before = self._checkpoints()
        self._process = subprocess.Popen(self.words)
        status = self._process.wait()
        if status == 128 + signal.SIGUSR1:
            time.sleep(30)  # SLURM signalled this process too, and submitit is about to call `checkpoint`
        if status:
            raise RuntimeError(f"exit status {status}")

    def checkpoint(self):
        """Lets the process save, and returns the command for submitit to submit again.

        Returns None if the job reached no checkpoint, because the next job would not reach one either.

        submitit calls this method in a signal handler, which interrupts `Popen.wait` in `__call__`. So the method waits
        with `os.waitid`, because `Popen.wait` would wait for its own interrupted call.
        """
        import submitit

        process = self._process.pid
        has_ended = os.WEXITED | os.WNOWAIT
        deadline = time.monotonic() + PATIENCE_SECONDS
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGUSR1)
            while not os.waitid(os.P_PID, process, has_ended | os.WNOHANG):
                if time.monotonic() > deadline:
                    print(KILLED, file=sys.stderr, flush=True)
                    os.kill(process, signal.SIGKILL)
                    os.waitid(os.P_PID, process, has_ended)
                    if self._checkpoints() == self._checkpoints_before:
                        print(STUCK, file=sys.stderr, flush=True)
                        return None
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Command(self.words, self.folders))

    def _checkpoints(self) -> set[str]:
        paths = [f"{glob.escape(folder)}{half}/checkpoints/*" for folder in self.folders for half in ("", "-[12]*")]
        return {path for pattern in paths for path in glob.glob(pattern)}
