"""The contenders: this project and other programs that train the same VAE, a 784-500-(20+20)-20-500-784 network.

Each contender is a function `make(images, batch_size) -> run` of images `[N, 784]` in uint8. `run()` trains one epoch
and waits for the epoch's end. All contenders use a Bernoulli likelihood, Adam with rate 1e-3, and float32.
"""

import functools
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vae import estimators, models, objectives, train

PIXELS = 784
HIDDEN = 500
LATENT = 20
RATE = 1e-3
WEIGHTS = 2 * PIXELS * HIDDEN + 3 * HIDDEN * LATENT


def blocking(epoch: Callable, state) -> Callable[[], None]:
    """A run of one epoch that waits for the epoch's end and carries the state to the next epoch."""
    carried = [state]

    def run():
        carried[0] = jax.block_until_ready(epoch(carried[0]))

    return run


def _project(images: np.ndarray, batch_size: int):
    model = models.make_vae((28, 28, 1), latent_dim=LATENT, hidden=(HIDDEN,))
    estimator = estimators.BY_NAME["reparam"].make(num_samples=1)
    tx = train.adam(RATE)
    data = jnp.asarray(images.reshape(-1, 28, 28, 1))
    key = jax.random.key(0)
    state = train.make_init(model, estimator, tx, jnp.zeros((batch_size, 28, 28, 1)))(key)
    update = train.make_step(model.apply, objectives.elbo_analytic(1.0), estimator, tx)
    step = lambda state, key, x: update(state, key, x.astype(jnp.float32))
    epoch = jax.jit(train.make_epoch(step, batch_size), donate_argnums=0)
    return blocking(lambda state: epoch(state, key, data)[0], state)


def _bare_scan(images: np.ndarray, batch_size: int):
    key = jax.random.key(0)
    shapes = [(PIXELS, HIDDEN), (HIDDEN, LATENT), (HIDDEN, LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]
    weights = [jax.random.normal(jax.random.fold_in(key, i), s) * s[0] ** -0.5 for i, s in enumerate(shapes)]
    params = [(w, jnp.zeros(w.shape[1])) for w in weights]
    zeros = jax.tree.map(jnp.zeros_like, params)
    data = jnp.asarray(images)
    steps = len(images) // batch_size

    @jax.custom_vjp
    def log_likelihood(logits, x):
        return jnp.sum(x * logits - jnp.maximum(logits, 0) - jnp.log1p(jnp.exp(-jnp.abs(logits))))

    log_likelihood.defvjp(
        lambda logits, x: (log_likelihood(logits, x), x - jax.nn.sigmoid(logits)),
        lambda residual, g: (g * residual, None),
    )

    def loss(params, x, eps):
        (w1, b1), (wm, bm), (wv, bv), (w2, b2), (w3, b3) = params
        h = jax.nn.relu(x @ w1 + b1)
        mean, log_var = h @ wm + bm, h @ wv + bv
        z = mean + jnp.exp(0.5 * log_var) * eps
        logits = jax.nn.relu(z @ w2 + b2) @ w3 + b3
        kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_var) - 1 - log_var)
        return (kl - log_likelihood(logits, x)) / len(x)

    def step(state, batch):
        params, m, v, t = state
        eps = jax.random.normal(jax.random.fold_in(key, t), (batch_size, LATENT))
        bound, g = jax.value_and_grad(loss)(params, data[batch].astype(jnp.float32), eps)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        a, b = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
        params = jax.tree.map(lambda p, m, v: p - RATE * (m * a) / (jnp.sqrt(v * b) + 1e-8), params, m, v)
        return (params, m, v, t), bound

    def epoch(state):
        order = jax.random.permutation(jax.random.fold_in(key, state[3]), len(data))
        return jax.lax.scan(step, state, order[: steps * batch_size].reshape(steps, batch_size))[0]

    return blocking(jax.jit(epoch, donate_argnums=0), (params, zeros, jax.tree.map(jnp.zeros_like, params), 0.0))


def _numpyro(images: np.ndarray, batch_size: int, with_loss: bool = False):
    import numpyro
    import numpyro.distributions as npd
    from numpyro.infer import SVI, TraceMeanField_ELBO

    data = jnp.asarray(images)
    steps = len(images) // batch_size
    key = jax.random.key(0)
    encoder = models.MLP((HIDDEN,), outputs=2 * LATENT)
    decoder = models.MLP((HIDDEN,), outputs=PIXELS)
    params = {
        "encoder": encoder.init(key, jnp.zeros((1, PIXELS))),
        "decoder": decoder.init(key, jnp.zeros((1, LATENT))),
    }

    def model(x):
        weights = numpyro.param("decoder", params["decoder"])
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", npd.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            numpyro.sample("x", npd.Bernoulli(logits=decoder.apply(weights, z)).to_event(1), obs=x)

    def guide(x):
        mean, log_var = jnp.split(encoder.apply(numpyro.param("encoder", params["encoder"]), x), 2, axis=-1)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", npd.Normal(mean, jnp.exp(0.5 * log_var)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(RATE), TraceMeanField_ELBO())

    @jax.jit
    def epoch(state):
        order = jax.random.permutation(state.rng_key, len(data))[: steps * batch_size].reshape(steps, batch_size)

        def body(i, carry):
            state, total = carry
            state, loss = svi.update(state, data[order[i]].astype(jnp.float32))
            return state, total + loss if with_loss else total

        return jax.lax.fori_loop(0, steps, body, (state, 0.0))

    def run(carry):
        return epoch(carry[0])

    return blocking(run, (svi.init(key, data[:batch_size].astype(jnp.float32)), 0.0))


def _torch(images: np.ndarray, batch_size: int):
    import torch
    from torch import nn

    data = torch.from_numpy(images)
    steps = len(images) // batch_size
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], RATE, fused=True)

    @torch.compile
    def loss(x):
        mean, log_var = encoder(x).chunk(2, -1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        nll = nn.functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return (nll + 0.5 * torch.sum(mean**2 + log_var.exp() - 1 - log_var)) / len(x)

    def run():
        order = torch.randperm(len(data))
        for i in range(steps):
            optimizer.zero_grad()
            loss(data[order[i * batch_size : (i + 1) * batch_size]].float()).backward()
            optimizer.step()

    return run


def available() -> dict[str, Callable]:
    """The contenders by name. A contender whose library is not installed is left out."""
    others = {
        "numpyro": ("numpyro", _numpyro),
        "numpyro, with its loss": ("numpyro", functools.partial(_numpyro, with_loss=True)),
        "torch.compile": ("torch", _torch),
    }
    installed = {name: make for name, (module, make) in others.items() if importlib.util.find_spec(module)}
    return {"this project": _project, "bare scan": _bare_scan} | installed
