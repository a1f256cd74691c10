"""The settings of jax that a command fixes, so that the environment changes no number and stops no run.

People export settings of jax for other programs, such as JAX_ENABLE_X64=1. Some of these settings would change the
numbers of a run. Others make jax refuse what Flax, Optax or this project do. A command that finds such a setting takes
the value below instead, and says so.
"""

import sys

import jax

FIXED = {
    # The generator of random numbers, and the shape of its numbers: --prng of a run chooses the generator.
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    # Log-densities and bounds are float32.
    "jax_enable_x64": False,
    # Checks that refuse correct programs, such as the broadcasting of samples.
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_debug_key_reuse": False,
    "jax_check_tracer_leaks": False,
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    # Training compiles its epochs, and reports by itself a loss that is not finite.
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
}
HINTS = {"jax_default_prng_impl": "; --prng of experiments.train chooses the generator of a run"}


def fix() -> None:
    """Gives each setting its value in `FIXED`. Says on stderr which settings had another value."""
    for name, value in FIXED.items():
        present = getattr(jax.config, name, value)  # a later jax may lack the setting
        if present not in (value, None):
            print(f"{name.upper()}={present} is ignored; commands use {value}{HINTS.get(name, '')}", file=sys.stderr)
            jax.config.update(name, value)
