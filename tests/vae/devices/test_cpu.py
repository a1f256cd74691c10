"""What is made for the CPU is made there, wherever the default device is."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from vae import diagnostics
from vae.devices.cpu import on_cpu


@contextlib.contextmanager
def accelerator(monkeypatch):
    """The last of the eight CPU devices takes the place of an accelerator."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(jax.devices()[-1]):
        yield jax.devices()[-1]


def test_arrays_and_programs_are_on_the_cpu(monkeypatch):
    with accelerator(monkeypatch) as device:
        assert jnp.ones(2).devices() == {device}
        with on_cpu():
            assert jax.jit(jnp.exp)(jnp.ones(2)).devices() == {jax.devices()[0]}
        assert jnp.ones(2).devices() == {device}


def test_flop_are_counted_for_the_cpu_also_with_arrays_on_an_accelerator(monkeypatch):
    lowered_for = []
    original = jax.stages.Traced.lower

    def lower(self, *args, **kwargs):
        lowered_for.append(jax.config.jax_default_device)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Traced, "lower", lower)
    with accelerator(monkeypatch) as device:
        matrix = jax.device_put(jnp.ones((8, 8)), device)
        key = jax.device_put(jax.random.key(0), device)
        product = lambda key, matrix: matrix @ (matrix + jax.random.normal(key, (8, 8)))
        assert diagnostics.flops(product, key, matrix) >= 2 * 8**3
    assert lowered_for == [jax.devices()[0]]


def test_without_a_cpu_the_sentence_says_how_to_have_one(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cuda")
    try:
        with pytest.raises(RuntimeError, match="set JAX_PLATFORMS=cuda,cpu$"):
            on_cpu()
    finally:
        jax.config.update("jax_platforms", before)
