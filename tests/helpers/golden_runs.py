"""Five training steps with each estimator, and the golden file of their bounds for each minor version of jax.

    python -m tests.helpers.golden_runs

writes the file of the installed jax. A change of the numbers belongs in CHANGELOG.md.
"""

import json
from pathlib import Path

from tests import conftest  # first: the compiler's flags

del conftest
import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from vae import models, objectives, train  # noqa: E402
from vae.estimators import BY_NAME, Entry  # noqa: E402

PATH = (
    Path(__file__).resolve().parents[1]
    / "vae/estimators/golden"
    / f"jax-{'.'.join(jax.__version__.split('.')[:2])}.json"
)
STEPS = 5


def family_of(entry: Entry) -> str:
    """The first of these posteriors that the estimator is for."""
    able = entry.latents
    if "any" in able or "reparameterizable" in able or "Normal" in able:
        return "normal"
    return "bernoulli" if "Bernoulli" in able else "categorical"


def bounds(name: str) -> list[float]:
    """The bound at each of the steps, nats."""
    entry = BY_NAME[name]
    estimator, tx = entry.make(num_samples=max(2, entry.min_samples)), optax.adam(0.05)
    family = family_of(entry)
    posterior = models.POSTERIORS[family](**({"categories": 3} if family == "categorical" else {}))
    model = models.make_vae((3, 3, 1), latent_dim=2, hidden=(5,), posterior=posterior)
    x = np.float32(np.random.default_rng(0).random((4, 3, 3, 1)) < 0.4)
    bound = objectives.elbo if "mean" in entry.reductions else objectives.iwae
    step = train.make_step(model.apply, bound, estimator, tx)

    @jax.jit
    def run(key):
        state = train.make_init(model, estimator, tx, x)(key)
        keys = jax.random.split(jax.random.fold_in(key, 1), STEPS)
        return jax.lax.scan(lambda state, key: step(state, key, x), state, keys)[1]["bound"]

    return np.asarray(run(jax.random.key(0)), np.float64).tolist()


if __name__ == "__main__":
    PATH.write_text(json.dumps({name: bounds(name) for name in BY_NAME}, indent=1) + "\n")
