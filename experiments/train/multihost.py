"""Several processes train one sweep together: each computes its part, and process 0 reads and writes the workdir.

On a cluster that jax knows (SLURM's srun, TPU pods, Open MPI) the processes find each other. Elsewhere, start each
process with its own number:

    JAX_COORDINATOR_ADDRESS=HOST:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 python -m experiments.train --multihost

When a process is killed, the others end within `HEARTBEAT_SECONDS`, with a non-zero status. If the loss reaches Python
as an exception, they print one sentence. If jax's runtime notices the loss first, it aborts the process with a message
of its own. Either way, the same command in all processes continues the training.
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

# A process that is silent for so many seconds counts as lost.
HEARTBEAT_SECONDS = 30
# The processes may start so many seconds apart.
START_SECONDS = 120
# At the end, the other processes wait at most so many seconds for process 0, which may evaluate and draw for hours.
END_SECONDS = 24 * 3600

LOST = (
    "error: lost the connection to another process of this run, which was killed or stopped (its output may say why);"
    " start the same command in all processes again to continue"
)
# Phrases by which jax's exceptions about a lost process are recognized.
SIGNS_OF_A_LOSS = ("Connection closed by peer", "Gloo", "coordination service", "NCCL", "heartbeat")


def is_one_of_several() -> bool:
    """Whether the environment reports several processes, as it does on SLURM, on a TPU pod and in Open MPI."""
    counts = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    is_pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return is_pod or any(count.isdigit() and int(count) > 1 for count in counts)


def addresses() -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize` that describe the processes; empty if jax finds them.

    Raises:
      ValueError: If the environment does not describe the processes, or describes them wrongly.
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
    if host in ("localhost", "127.0.0.1"):  # by default jax would listen at every address of the machine
        arguments["coordinator_bind_address"] = f"127.0.0.1:{port}"
    return arguments


@contextlib.contextmanager
def together(addresses: dict[str, Any] | None) -> Iterator[None]:
    """A context in which this process works together with the others, and only process 0 prints.

    Enter the context before jax looks for devices. A process that fails inside the context exits at once, and the other
    processes then end too. A process that leaves the context waits at its exit for the other processes. With None as
    addresses, the context does nothing.
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
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    except SystemExit as exit:
        stopped_by_signal = isinstance(exit.code, int) and exit.code > 128
        if not stopped_by_signal:
            _exit_at_once()
        raise  # after a signal all processes stop after the same epoch, so they can wait for each other
    except Exception as error:
        if any(sign in str(error) for sign in SIGNS_OF_A_LOSS):
            print(LOST, file=sys.stderr)
        else:
            traceback.print_exc()
        _exit_at_once()


def _exit_at_once() -> NoReturn:
    # A normal exit would run jax's exit handler. It would wait for the other processes, which wait for this one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def own_workdir(workdir: Path) -> Iterator[Path]:
    """The workdir in process 0; a temporary folder in every other process, which writes only a few small files."""
    if is_first():
        yield workdir
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def is_first() -> bool:
    """Whether this process reads and writes the workdir."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The arrays of process 0, bit for bit, in every process.

    Every process must call this function, with arrays of the same shapes and dtypes.
    """
    if jax.process_count() == 1:
        return tree

    def broadcast(leaf):
        leaf = np.asarray(leaf)
        # The leaf is sent as bytes. jax broadcasts by adding zeros from the other processes, and -0.0 + 0.0 is 0.0.
        sent = multihost_utils.broadcast_one_to_all(np.frombuffer(leaf.tobytes(), np.uint8))
        return np.frombuffer(np.asarray(sent, np.uint8).tobytes(), leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(broadcast, tree)


def text_from_first(text: str) -> str:
    """The text of process 0, in every process. The other processes may pass any text."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(from_first(np.int32(len(data))))  # every process must know the shape of what follows
    return from_first(data if is_first() else np.zeros(size, np.uint8)).tobytes().decode()


def asked_of_any(asked: signal.Signals | None) -> signal.Signals | None:
    """A signal that some process received, the same in every process; None if no process received one.

    Args:
      asked: The signal that this process received, if any.
    """
    if jax.process_count() == 1:
        return asked
    number = int(multihost_utils.process_allgather(np.int32(asked or 0)).max())
    return signal.Signals(number) if number else None
