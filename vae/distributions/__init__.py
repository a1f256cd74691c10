"""Families of distributions as pytrees: parameters in, samples and log-densities out.

Parameters are `[*batch, D]` and samples `[K, *batch, D]`. Log-densities `[K, *batch]` are summed over the event and are
in nats. A family is a pytree, so that `jax.lax.stop_gradient(q)`, `jax.vmap` and `jax.tree.map` work on it as on
an array.

Densities, divergences and their gradients are right in float32 for logs of scales, rates and concentrations from -80 to
80, and for log-variances from -160 to 160. Outside this range they may be infinite or NaN; `LowRankNormal` names a
smaller range. Samples beside a mean of size m are rounded to steps of about 1e-7 m, so a q with a smaller scale loses
its noise. Parameters of different shapes are broadcast where a distribution is built.

`sample` never carries a gradient. `rsample` always does; only reparameterizable families have it. Families whose noise
has a fixed distribution also have `from_noise`, the map from that noise to the sample: the reparameterization trick.
Where this map has an inverse, `with_path(z)` gives a value z the derivative that `rsample` gives its samples.
"""

from vae.distributions.base import family as family
from vae.distributions.base import logistic as logistic
from vae.distributions.base import uniform as uniform
from vae.distributions.concrete import BinaryConcrete as BinaryConcrete
from vae.distributions.concrete import ExpConcrete as ExpConcrete
from vae.distributions.counts import NegativeBinomial as NegativeBinomial
from vae.distributions.counts import Poisson as Poisson
from vae.distributions.discrete import Bernoulli as Bernoulli
from vae.distributions.discrete import Categorical as Categorical
from vae.distributions.discretized_logistic import DiscretizedLogistic as DiscretizedLogistic
from vae.distributions.flows import Flow as Flow
from vae.distributions.grey_levels import DiscretizedLogisticMixture as DiscretizedLogisticMixture
from vae.distributions.grey_levels import GreyLevels as GreyLevels
from vae.distributions.implicit import Beta as Beta
from vae.distributions.implicit import Dirichlet as Dirichlet
from vae.distributions.implicit import Gamma as Gamma
from vae.distributions.kl import add_kl as add_kl
from vae.distributions.kl import kl as kl
from vae.distributions.location_scale import Laplace as Laplace
from vae.distributions.location_scale import MultivariateNormal as MultivariateNormal
from vae.distributions.location_scale import Normal as Normal
from vae.distributions.location_scale import StudentT as StudentT
from vae.distributions.low_rank import LowRankNormal as LowRankNormal
from vae.distributions.mixture import Mixture as Mixture
from vae.distributions.mixture_of_normals import MixtureOfNormals as MixtureOfNormals
from vae.distributions.power_spherical import PowerSpherical as PowerSpherical
from vae.distributions.product import Product as Product
from vae.distributions.quantized import Quantized as Quantized
from vae.distributions.quantized import Rounded as Rounded
from vae.distributions.quantized import UniformCodes as UniformCodes
from vae.distributions.sphere import UniformOnSphere as UniformOnSphere
from vae.distributions.von_mises_fisher import VonMisesFisher as VonMisesFisher
