"""Prints the bounds `ula` and `uha` of VAEs that were trained with the ELBO.

    PYTHONPATH=. python scripts/annealed_bounds.py

The VAEs are those of the script in vae/README.md. The table has the mean bounds of the test digits, in nats, for three
seeds. It takes a few minutes on two CPU cores.
"""

import jax
import optax

import vae

BOUNDS = {
    "vae.elbo": vae.elbo,
    "vae.ula(steps=2, step_size=0.05)": vae.ula(steps=2, step_size=0.05),
    "vae.ula(steps=8, step_size=0.05)": vae.ula(steps=8, step_size=0.05),
    "vae.ula(steps=16, step_size=0.05)": vae.ula(steps=16, step_size=0.05),
    "vae.uha(steps=16, step_size=0.2)": vae.uha(steps=16, step_size=0.2),
}

data = vae.data.fix_binarization(vae.data.load("digits"), "static")
x = vae.data.pixels(data.train, data.levels)
x_test = vae.data.pixels(data.test, data.levels)
model = vae.make_vae(image_shape=x.shape[1:], latent_dim=8, hidden=(64,))


def train(seed: int, epochs: int):
    """The model's variables after this many epochs of the ELBO."""
    estimator = vae.estimators.make("reparam", num_samples=1)
    optimizer = optax.adam(3e-3)
    step = vae.make_step(model.apply, vae.elbo, estimator, optimizer)
    epoch = jax.jit(vae.make_epoch(step, batch_size=128))
    state = vae.make_init(model, estimator, optimizer, x[:1])(jax.random.key(seed))
    for _ in range(epochs):
        state, _ = epoch(state, jax.random.key(100 + seed), x)
    return state.params["model"]


def mean_bound(bound, variables) -> float:
    """The mean over test images, with 20 samples for each."""
    estimator = vae.estimators.make("reparam", num_samples=20)
    values = jax.jit(lambda key: bound(model.apply, variables, x_test, vae.bind(estimator, {}, {}, key)).value)
    return values(jax.random.key(5)).mean().item()


def log_likelihood(variables, samples: int) -> float:
    return vae.evaluate.log_likelihood(model.apply, variables, x_test, jax.random.key(2), samples).mean().item()


def main(seeds: int = 3, epochs: int = 30, samples: int = 1000) -> None:
    runs = [train(seed, epochs) for seed in range(seeds)]
    print("| `bound` |", " | ".join(f"seed {seed}" for seed in range(seeds)), "|")
    print("|" + "---|" * (seeds + 1))
    for name, bound in BOUNDS.items():
        print(f"| `{name}` |", " | ".join(f"{mean_bound(bound, run):.2f}" for run in runs), "|", flush=True)
    likelihoods = (f"{log_likelihood(run, samples):.2f}" for run in runs)
    print(f"| `log_likelihood`, {samples} samples |", " | ".join(likelihoods), "|")


if __name__ == "__main__":
    main()
