"""Variational autoencoders and Monte Carlo gradient estimators in JAX/Flax."""

import importlib.metadata
import os

# jaxlib 0.10.2 sums some vmapped products wrongly on CPUs, without a word, and 0.11.0 crashes on some
# (github.com/jax-ml/jax/issues/39103 and 39257): gradients of tens of thousands of draws come out biased. The flag is
# read when jax makes its first array, so import vae before that.
_BROKEN_FUSION, _WITHOUT_IT = ("0.10.2", "0.11.0"), "--xla_cpu_experimental_ynn_fusion_type="
if importlib.metadata.version("jaxlib") in _BROKEN_FUSION and _WITHOUT_IT not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_WITHOUT_IT}".strip()
