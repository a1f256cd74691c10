"""Several processes, one run: each computes its part, and process 0 reads and writes the workdir.

On a cluster that jax knows (SLURM's srun, TPU pods, Open MPI) they find each other. Elsewhere each is told:

    JAX_COORDINATOR_ADDRESS=HOST:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 python -m experiments.train --multihost

jax's runtime aborts a process, with a stack trace, once another is lost. So each is two: one that computes, and one
that waits for it and says in a sentence what happened.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# A process that says nothing for so long is lost to the others.
HEARTBEAT_SECONDS = 30
START_SECONDS = 120
LOST = (
    "error: lost the connection to another process of this run, which was killed or stopped (its own output may say"
    " why); the same command for all of them takes the run up again\n"
)


# What jax's runtime logs on its way to the error that is told of.
_RUNTIME_WARNING = re.compile(
    rb"^[IWE]\d{4} [\d:.]+ +\d+ \w+\.cc:\d+\] .*\n|^Additional GRPC error information .*\n(?::.*\n)?", re.MULTILINE
)


def is_one_of_several() -> bool:
    """Whether this process's environment says that there are others, as it does on SLURM, a TPU pod and in Open MPI."""
    several = lambda name: os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return pod or several("SLURM_STEP_NUM_TASKS") or several("OMPI_COMM_WORLD_SIZE")


def run(main: Callable[[], None]) -> NoReturn:
    """`main()` in a process that has joined the others, and exits with its status. Call it before jax finds devices.

    Raises:
      ValueError: if the environment does not say who the others are.
    """
    arguments = _arguments()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        _wait(child, reader)
    os.close(reader)
    os.dup2(writer, 2)
    os.setpgid(0, 0)  # a terminal's Ctrl-C comes once, from the process that waits
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive that one
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    status = 1
    try:
        _join(arguments)
        main()
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    except Exception as error:
        if _is_a_loss(error):
            sys.stderr.write(LOST)
        else:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if status == 0 or _ended:
        import jax

        jax.distributed.shutdown()  # waits for the others
    os._exit(status)


def _arguments() -> dict[str, Any]:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, number, index = map(os.environ.get, names)
    if address is None or number is None and index is None:
        if not is_one_of_several():
            raise ValueError(f"--multihost needs {', '.join(names)} in the environment, or a cluster that jax knows")
        return {}
    if not (":" in address and str(number).isdigit() and str(index).isdigit() and int(index) < int(number)):
        raise ValueError(f"{', '.join(names)} must be HOST:PORT, a number, and an index below it")
    found = {"coordinator_address": address, "num_processes": int(number), "process_id": int(index)}
    if address.rsplit(":", 1)[0] in ("localhost", "127.0.0.1"):  # jax's own default is every address of the machine
        found["coordinator_bind_address"] = f"127.0.0.1:{address.rsplit(':', 1)[1]}"
    return found


def _join(arguments: dict[str, Any]) -> None:
    import jax

    jax.distributed.initialize(
        **arguments,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        initialization_timeout=START_SECONDS,
        shutdown_timeout_seconds=24 * 3600,  # process 0 may draw and judge for long after the last step
    )
    if not is_first():
        sys.stdout = open(os.devnull, "w")


def _wait(child: int, reader: int) -> NoReturn:
    """Hands signals to the child and its stderr on, but for the trace of a loss, and exits as it does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: os.kill(child, number))
    lost = threading.Event()

    def copy():
        with open(reader, "rb", buffering=0) as stream:
            while text := stream.read(65536):
                if b"JAX distributed service detected fatal errors" in text:
                    lost.set()
                if not lost.is_set():
                    os.write(2, _RUNTIME_WARNING.sub(b"", text))

    copying = threading.Thread(target=copy)
    copying.start()
    _, status = os.waitpid(child, 0)
    copying.join()
    code = os.waitstatus_to_exitcode(status)
    if lost.is_set():
        os.write(2, LOST.encode())
        code = 1
    os._exit(code if code >= 0 else 128 - code)


def _is_a_loss(error: Exception) -> bool:
    """Collectives raise what their transport says."""
    text = str(error)
    return any(
        words in text for words in ("Connection closed by peer", "Gloo", "coordination service", "NCCL", "heartbeat")
    )


@contextmanager
def _together() -> Iterator[None]:
    """Around collectives: some jax versions raise a loss as a ValueError, which would pass for bad input."""
    try:
        yield
    except ValueError as error:
        if _is_a_loss(error):
            raise RuntimeError(str(error)) from error
        raise


def is_first() -> bool:
    """Whether this process is the one that reads and writes."""
    import jax

    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The arrays of process 0, bit for bit; every process calls it, with arrays of the same shapes and dtypes."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return tree

    def send(leaf):
        leaf = np.asarray(leaf)  # as bytes, since it is sent as a sum, which knows no -0.0
        with _together():
            sent = multihost_utils.broadcast_one_to_all(np.frombuffer(leaf.tobytes(), np.uint8))
        return np.frombuffer(np.asarray(sent, np.uint8).tobytes(), leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(send, tree)


_ended = False


def wait_for_all() -> None:
    """To be called at the last point of the work: `run` then waits for the others, so that none leaves one that still
    writes. No collective does it: those of CPUs are given up after half an hour, and process 0 may judge for longer."""
    global _ended
    import jax

    _ended = jax.process_count() > 1


def asked_of_any(asked: signal.Signals | None) -> signal.Signals | None:
    """The signal that any of the processes has got, the same for all."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return asked
    with _together():
        number = int(multihost_utils.process_allgather(np.int32(asked or 0)).max())
    return signal.Signals(number) if number else None
