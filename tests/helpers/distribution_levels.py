"""How often `certify_distribution` fails right distributions and finds wrong ones, over seeds.

python -m tests.helpers.distribution_levels    prints the table of vae/diagnostics/README.md, in minutes
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import tables
from vae import distributions as dist
from vae.testing import certify_distribution

SEEDS = range(1000, 1025)
CONSTANT = 0.05  # what is added to log q(z) of the wrong distributions


class Own:
    """A distribution of the batch_shape of its parameter."""

    def __init__(self, parameter):
        self.parameter, self.batch_shape = parameter, parameter.shape


class Plateau(Own):
    """A density proportional to exp(-(|z| / scale)^8), which falls to 0 at an edge of a disk, by the log of the
    scale."""

    def sample(self, key, num_samples):
        key_radius, key_angle = jax.random.split(key)
        shape = (num_samples, *self.batch_shape)
        radius = jnp.exp(self.parameter) * jax.random.gamma(key_radius, 0.25, shape) ** 0.125
        angle = 2 * jnp.pi * jax.random.uniform(key_angle, shape)
        return jax.lax.stop_gradient(jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1))

    def log_prob(self, z):
        radius = jnp.linalg.norm(z, axis=-1) / jnp.exp(self.parameter)
        return -(radius**8) - 2 * self.parameter - jnp.log(jnp.pi) - jax.scipy.special.gammaln(1.25)


class Gumbels(Own):
    """Three independent Gumbel variables, which are skewed, by their location."""

    def sample(self, key, num_samples):
        noise = jax.random.gumbel(key, (num_samples, *self.batch_shape, 3))
        return jax.lax.stop_gradient(self.parameter[..., None] + noise)

    def log_prob(self, z):
        u = z - self.parameter[..., None]
        return jnp.sum(-u - jnp.exp(-u), axis=-1)


class Curved(Own):
    """A Gaussian that is bent along a parabola, by the location of its first coordinate."""

    def sample(self, key, num_samples):
        eps = jax.random.normal(key, (num_samples, *self.batch_shape, 2))
        first = self.parameter + eps[..., 0]
        return jax.lax.stop_gradient(jnp.stack([first, 0.3 * eps[..., 1] + jnp.square(first)], axis=-1))

    def log_prob(self, z):
        first, second = z[..., 0] - self.parameter, (z[..., 1] - jnp.square(z[..., 0])) / 0.3
        return -0.5 * (jnp.square(first) + jnp.square(second)) - jnp.log(2 * jnp.pi * 0.3)


class FarModes(Own):
    """Two Gaussians of equal weight, 8 to the left and to the right of the parameter."""

    def __init__(self, parameter):
        super().__init__(parameter)
        means = parameter[..., None, None] + jnp.array([[-8.0], [8.0]])
        self._mixture = dist.MixtureOfNormals(means, jnp.zeros_like(means), jnp.zeros(means.shape[:-1]))
        self.sample, self.log_prob = self._mixture.sample, self._mixture.log_prob


RIGHT = {"an edge": Plateau, "three skewed dimensions": Gumbels, "a curve": Curved, "far modes": FarModes}


class Wrong(Own):
    """A distribution whose density is too large by 5 %."""

    def __init__(self, right):
        super().__init__(right.parameter)
        self.sample, self.log_prob = right.sample, lambda z: right.log_prob(z) + CONSTANT


def main() -> None:
    table = [["distribution with", "seeds", "right: certified", "mean of z", "its spread", "wrong: found"]]
    for name, family in RIGHT.items():
        right = [certify_distribution(family, jnp.zeros(1), seed=seed) for seed in SEEDS]
        wrong = [certify_distribution(lambda p, family=family: Wrong(family(p)), jnp.zeros(1), seed=s) for s in SEEDS]
        z = [each.checks["normalization"].z for each in right]
        found = sum("normalization is wrong" in each.reason for each in wrong)
        row = [str(sum(map(bool, right))), f"{np.mean(z):.1f}", f"{np.std(z, ddof=1):.1f}", str(found)]
        table.append([name, str(len(SEEDS)), *row])
        print(table[-1], file=sys.stderr)
    print(tables.to_markdown(table))


if __name__ == "__main__":
    main()
