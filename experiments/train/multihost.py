"""Several processes that train one sweep together: each computes its part, and process 0 reads and writes the workdir.

On a cluster that jax knows (SLURM's srun, TPU pods, Open MPI) the processes find each other. Elsewhere, tell each one:

    JAX_COORDINATOR_ADDRESS=HOST:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 python -m experiments.train --multihost

When a process is killed, the others end within `HEARTBEAT_SECONDS`, with a non-zero status. Where Python meets the loss
as an exception, they say so in a sentence; where jax's runtime notices first, it aborts the process with its own
message. Either way the same command for all processes continues the training.
"""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process from which nothing is heard for so long is lost to the others.
HEARTBEAT_SECONDS = 30
# The processes of one command may start at different times.
START_SECONDS = 120
# At the end the processes wait for process 0, which may evaluate and draw for hours after the last step.
END_SECONDS = 24 * 3600

LOST = (
    "error: lost the connection to another process of this run, which was killed or stopped (its own output may say"
    " why); the same command for all of them takes the run up again"
)
# Words in the exceptions that jax raises from a computation in which a process is missing.
SIGNS_OF_A_LOSS = ("Connection closed by peer", "Gloo", "coordination service", "NCCL", "heartbeat")


def is_one_of_several() -> bool:
    """Whether the environment reports several processes, as it does on SLURM, on a TPU pod and in Open MPI."""
    counts = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    is_pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return is_pod or any(count.isdigit() and int(count) > 1 for count in counts)


def addresses() -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize` that say where the processes are; none if jax finds them itself.

    Raises:
      ValueError: If the environment does not say who the other processes are.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, number, index = (os.environ.get(name) for name in names)
    if address is None or number is None and index is None:
        if not is_one_of_several():
            raise ValueError(f"--multihost needs {', '.join(names)} in the environment, or a cluster that jax knows")
        return {}
    if not (":" in address and str(number).isdigit() and str(index).isdigit() and int(index) < int(number)):
        raise ValueError(f"{', '.join(names)} must be HOST:PORT, a number, and an index below it")
    arguments = {"coordinator_address": address, "num_processes": int(number), "process_id": int(index)}
    host, port = address.rsplit(":", 1)
    if host in ("localhost", "127.0.0.1"):  # jax would listen at every address of the machine
        arguments["coordinator_bind_address"] = f"127.0.0.1:{port}"
    return arguments


@contextlib.contextmanager
def together(addresses: dict[str, Any] | None) -> Iterator[None]:
    """A context in which this process works with the others, and process 0 alone prints. With None it does nothing.

    Enter the context before jax looks for devices. A process that fails inside the context exits at once, and the
    others lose it. After the context each process waits for the others when it exits.
    """
    if addresses is None:
        yield
        return
    jax.distributed.initialize(
        **addresses,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        initialization_timeout=START_SECONDS,
        shutdown_timeout_seconds=END_SECONDS,
    )
    try:
        with contextlib.ExitStack() as stack:
            if not is_first():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    except SystemExit as exit:
        stopped_by_signal = isinstance(exit.code, int) and exit.code > 128
        if not stopped_by_signal:
            _exit_at_once()
        raise  # all processes stop after the same epoch, so they can wait for each other
    except Exception as error:
        if any(sign in str(error) for sign in SIGNS_OF_A_LOSS):
            print(LOST, file=sys.stderr)
        else:
            traceback.print_exc()
        _exit_at_once()


def _exit_at_once() -> NoReturn:
    # A normal exit would run jax's exit handler, which waits for the other processes, while they wait for this one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def own_workdir(workdir: Path) -> Iterator[Path]:
    """The workdir for process 0. A temporary folder for every other process, which writes only a few small files."""
    if is_first():
        yield workdir
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def is_first() -> bool:
    """Whether this process reads and writes the workdir."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The arrays of process 0, bit for bit. Every process calls this with arrays of the same shapes and dtypes."""
    if jax.process_count() == 1:
        return tree

    def broadcast(leaf):
        leaf = np.asarray(leaf)
        # As bytes: jax broadcasts by adding zeros from the other processes, and -0.0 + 0.0 is 0.0.
        sent = multihost_utils.broadcast_one_to_all(np.frombuffer(leaf.tobytes(), np.uint8))
        return np.frombuffer(np.asarray(sent, np.uint8).tobytes(), leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(broadcast, tree)


def asked_of_any(asked: signal.Signals | None) -> signal.Signals | None:
    """The signal that any of the processes received, the same in every process; None if there was no signal."""
    if jax.process_count() == 1:
        return asked
    number = int(multihost_utils.process_allgather(np.int32(asked or 0)).max())
    return signal.Signals(number) if number else None
