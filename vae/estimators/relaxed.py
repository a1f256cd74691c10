"""Relaxations of discrete latents: argmax(logits + noise) becomes softmax((logits + noise) / temperature), for Gumbel
noise.

f is differentiated through z, and with it log q(z), which f subtracts and which is linear in z. At a hard z its direct
derivative in q is the score, noise of mean zero, and is left out (`hold_density`). At a relaxed z it is no density: the
relaxed value is differentiated exactly, direct derivative and all, but is no bound on log p(x). Evaluate with hard
samples. (A valid relaxed bound has Concrete densities in q and p: those are families of distributions for `reparam`,
BinaryConcrete and ExpConcrete.)
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators.base import Estimator, attach, check_positive
from vae.estimators.one_hot import along, harden, perturb, perturb_given


def gumbel_softmax(num_samples: int = 1, temperature: float = 0.5) -> Estimator:
    """Gumbel-softmax = Concrete (Jang, Gu & Poole 2016, arXiv:1611.01144; Maddison, Mnih & Teh 2016, arXiv:1611.00712):
    the relaxed sample in f, an exact gradient of another value. A low temperature trades bias for variance."""
    check_positive(temperature=temperature)
    return along(lambda key, q: jax.nn.softmax(perturb(key, q, num_samples) / temperature), relaxed=True)


def st_gumbel_softmax(num_samples: int = 1, temperature: float = 0.5) -> Estimator:
    """Straight-through Gumbel-softmax (Jang, Gu & Poole 2016, arXiv:1611.01144): hard forward, relaxed backward."""
    check_positive(temperature=temperature)

    def path(key, q):
        x = perturb(key, q, num_samples)
        return attach(harden(x), jax.nn.softmax(x / temperature))

    return along(path)


def gumbel_rao(num_samples: int = 1, temperature: float = 0.5, inner_samples: int = 10) -> Estimator:
    """Gumbel-Rao (Paulus, Maddison & Krause 2020, arXiv:2010.04838): straight-through Gumbel-softmax, its backward pass
    averaged over `inner_samples` draws of the noise given z. The same mean, less variance, no more evaluations of f."""
    check_positive(temperature=temperature, inner_samples=inner_samples)

    def path(key, q):
        key_z, key_noise = jax.random.split(key)
        z = q.sample(key_z, num_samples)
        x = perturb_given(key_noise, q, z, inner_samples)  # [M, K, *batch, D, C]
        # The noise is held fixed: to differentiate its sampler given z would be to hold z.
        x = q.logits + stop_gradient(x - q.logits)
        return attach(z, jnp.mean(jax.nn.softmax(x / temperature), axis=0))

    return along(path)
