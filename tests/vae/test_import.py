"""`import vae` turns off a faulty pass of the compiler, or says that it comes too late."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The fault is that of jaxlib 0.10.2. Under another version, the process below is told that it has 0.10.2.
PRETEND = """
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: "0.10.2" if name == "jaxlib" else version(name)
"""


def _errors(script, flags=""):
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PRETEND + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return done.stderr


def test_an_import_after_the_first_array_says_that_numbers_are_unsafe():
    late = _errors("import jax.numpy\njax.numpy.ones(1)\nimport vae")
    assert "RuntimeWarning: jax made an array before vae was imported" in late
    assert "Restart Python and import vae first" in late


@pytest.mark.skipif(version("jaxlib") not in ("0.10.2", "0.11.0"), reason="other versions of XLA refuse the flag")
def test_an_import_after_the_first_array_says_nothing_if_the_flag_was_set():
    script = "import jax.numpy\njax.numpy.ones(1)\nimport vae"
    assert "before vae was imported" not in _errors(script, "--xla_cpu_experimental_ynn_fusion_type=")
