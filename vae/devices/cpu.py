"""The CPU of a machine whose default device is an accelerator."""

import contextlib

import jax


def on_cpu() -> contextlib.AbstractContextManager:
    """A context in which arrays and programs are made for the CPU. TPUs hardly have float64, and XLA counts no FLOP in
    the matrix products of GPUs.

    Arrays that were placed on an accelerator explicitly (`jax.device_put` with a device) cannot be used in the context.

    Raises:
      RuntimeError: if JAX_PLATFORMS leaves the CPU out.
    """
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()  # a named device would make jax trace every function again
    platforms = jax.config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):
        raise RuntimeError(f"the CPU is needed beside the accelerator; set JAX_PLATFORMS={platforms},cpu")
    return jax.default_device(jax.local_devices(backend="cpu")[0])
