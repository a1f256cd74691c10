"""What the entry points share."""

import jax
import pytest

from experiments import cli

SETTINGS = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")


@pytest.fixture
def folder_in_use(monkeypatch):
    """Reads jax's folder of compiled programs; afterwards it is the one before."""
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in SETTINGS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache(folder_in_use, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli._keep_compiled_programs("auto")
    assert folder_in_use().startswith(str(tmp_path / "vae" / "compiled-"))


def test_compiled_programs_are_kept_where_one_says(folder_in_use, monkeypatch, tmp_path):
    cli._keep_compiled_programs(str(tmp_path))
    assert folder_in_use() == str(tmp_path)


def test_compiled_programs_are_not_kept(folder_in_use, monkeypatch):
    cli._keep_compiled_programs("none")
    assert folder_in_use() is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    cli._keep_compiled_programs("auto")
    assert folder_in_use() is None
