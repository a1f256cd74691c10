"""The CPU of a machine whose default device is an accelerator."""

import contextlib

import jax


def on_cpu() -> contextlib.AbstractContextManager:
    """A context in which arrays and programs are made for the CPU: for float64, which TPUs lack, and for counts of
    FLOP, which XLA does not count in the matrix products of GPUs.

    Arrays that the programs read must not have been placed on an accelerator by name.

    Raises:
      RuntimeError: if JAX_PLATFORMS leaves the CPU out.
    """
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()  # a named device would make jax trace every function again
    platforms = jax.config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):
        raise RuntimeError(f"the CPU is needed beside the accelerator; set JAX_PLATFORMS={platforms},cpu")
    return jax.default_device(jax.local_devices(backend="cpu")[0])
