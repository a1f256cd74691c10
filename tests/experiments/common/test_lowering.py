"""The programs that settings describe are lowered for GPUs and TPUs on the CPU."""

import jax
import numpy as np
import pytest

from experiments.common import build
from experiments.common.settings import Settings
from vae import data, train

IMAGES = np.zeros((6, 8, 8, 1), np.uint8)
DATA = data.Dataset("blank", IMAGES, IMAGES[:0], IMAGES, levels=17, checksum="0")
SMALL = {"hidden": (4,), "latent_dim": (2,), "batch_size": 2}
PROGRAMS = {
    "binarized in each step": {},
    "grey": {"binarization": "none", "likelihood": "discretized_logistic"},
    "bfloat16": {"compute_dtype": "bfloat16", "matmul_precision": "bfloat16"},
    "tensorfloat32": {"matmul_precision": "tensorfloat32"},
    "every optimizer setting": {
        "clip_norm": 1.0,
        "schedule": "stages",
        "optimizer": "adam:cv_learning_rate=0.1",
        "ema": 0.9,
    },
    "warm-up": {"objective": "elbo_analytic:kl_warmup=2:free_bits=0.1"},
    "warm-up of a ladder": {"objective": "elbo:kl_warmup=2", "latent_dim": (2, 1), "inference": "ladder"},
    "convolutions": {"architecture": "conv", "data_mean": True},
    "a network for the control variate": {"objective": "elbo", "estimator": "relax", "posterior": "bernoulli"},
    "importance samples": {"objective": "iwae", "num_samples": 3, "estimator": "dreg"},
    "unsafe_rbg": {"prng": "unsafe_rbg"},
}


@pytest.mark.parametrize(("changes", "mode"), [*((each, "vmap") for each in PROGRAMS), ("grey", "map")])
def test_the_program_of_a_sweep_lowers_for_accelerators(changes, mode):
    run = Settings(**SMALL | PROGRAMS[changes])
    with jax.default_matmul_precision(run.matmul_precision):
        functions = build.functions(run, DATA)
        values = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), build.arrays(run))
        init = jax.jit(train.over_runs(functions.init, "map"))
        epoch = jax.jit(train.over_runs(functions.epoch, mode, shared=1))
        exported = jax.export.export(epoch, platforms=["cuda", "tpu"])(
            jax.eval_shape(init, values), values, jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)
        )
    assert exported.platforms == ("cuda", "tpu")
