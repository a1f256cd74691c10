"""Variational autoencoders and Monte Carlo gradient estimators in JAX/Flax.

    import vae
    model = vae.make_vae(image_shape=(28, 28, 1), latent_dim=20)
    estimator = vae.estimators.make("reparam", num_samples=1)
    step = vae.make_step(model.apply, vae.elbo, estimator, optax.adam(1e-3))

`vae/README.md` has the whole script.
"""

import importlib.metadata
import os
import sys
import warnings

# On CPUs, jaxlib 0.10.2 silently computes wrong sums of some vmapped products, which biases the mean of tens of
# thousands of gradient draws. jaxlib 0.11.0 crashes on some of these products. The flag below turns off the faulty
# compiler pass (github.com/jax-ml/jax/issues/39103 and 39257). XLA reads its flags when jax makes its first array.
_BROKEN_FUSION = ("0.10.2", "0.11.0")
_WITHOUT_FUSION = "--xla_cpu_experimental_ynn_fusion_type="


def _turn_off_broken_fusion() -> None:
    version = importlib.metadata.version("jaxlib")
    if version not in _BROKEN_FUSION or _WITHOUT_FUSION in os.environ.get("XLA_FLAGS", ""):
        return
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_WITHOUT_FUSION}".strip()
    if _has_made_an_array_on_cpu():
        warnings.warn(
            f"jax made an array before vae was imported, so vae cannot turn off a faulty pass of jaxlib {version}. "
            f"Gradients and averages on the CPU can be wrong. Restart Python and import vae first, or set the "
            f"environment variable XLA_FLAGS={_WITHOUT_FUSION} before you start.",
            RuntimeWarning,
            stacklevel=3,
        )


def _has_made_an_array_on_cpu() -> bool:
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # jax has no public way to ask

    return xla_bridge.backends_are_initialized() and sys.modules["jax"].default_backend() == "cpu"


_turn_off_broken_fusion()

from vae import ais as ais
from vae import checkpoint as checkpoint
from vae import data as data
from vae import devices as devices
from vae import diagnostics as diagnostics
from vae import distributions as distributions
from vae import estimators as estimators
from vae import evaluate as evaluate
from vae import models as models
from vae import objectives as objectives
from vae import testing as testing
from vae import train as train
from vae.annealed_bounds import uha as uha
from vae.annealed_bounds import ula as ula
from vae.estimators import Estimate as Estimate
from vae.estimators import Estimator as Estimator
from vae.estimators import Reduction as Reduction
from vae.estimators import bind as bind
from vae.estimators import log_mean_exp as log_mean_exp
from vae.estimators import mean as mean
from vae.models import VAE as VAE
from vae.models import make_vae as make_vae
from vae.objectives import elbo as elbo
from vae.objectives import elbo_analytic as elbo_analytic
from vae.objectives import iwae as iwae
from vae.objectives import renyi as renyi
from vae.objectives import thermodynamic as thermodynamic
from vae.stratified_bounds import selbo as selbo
from vae.stratified_bounds import siwae as siwae
from vae.train import TrainState as TrainState
from vae.train import make_epoch as make_epoch
from vae.train import make_init as make_init
from vae.train import make_step as make_step
from vae.train import over_runs as over_runs
