"""Five training steps with each estimator. Golden files store the bounds, one file for each minor version of jax.

    python -m tests.helpers.golden_runs

writes the golden file for the installed jax. If the numbers change, say so in CHANGELOG.md.
"""

import json
from pathlib import Path

from tests import conftest  # sets the compiler's flags, so it comes before jax

del conftest
import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from tests.helpers.pairs import family_of  # noqa: E402
from vae import models, objectives, train  # noqa: E402
from vae.estimators import BY_NAME  # noqa: E402

PATH = (
    Path(__file__).resolve().parents[1]
    / "vae/estimators/golden"
    / f"jax-{'.'.join(jax.__version__.split('.')[:2])}.json"
)
STEPS = 5


def bounds(name: str) -> list[float]:
    """Returns the bound at each training step, in nats."""
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
