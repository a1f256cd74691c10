"""Models as Flax linen modules, and the tables of their parts.

`vae.py` has the modules VAE, Encoder, Decoder and Prior; `networks.py` and `resnet.py` the networks inside them;
`families.py`, `flows.py`, `spheres.py`, `quantized.py`, `product.py`, `priors.py` and `likelihoods.py` the
distributions; `top_down.py` the encoders of several layers that begin at the top; `make.py` puts them together.
"""

from vae.models.families import POSTERIORS as POSTERIORS
from vae.models.families import Factorized as Factorized
from vae.models.families import Posterior as Posterior
from vae.models.families import add_posterior as add_posterior
from vae.models.flows import FlowPosterior as FlowPosterior
from vae.models.likelihoods import LIKELIHOODS as LIKELIHOODS
from vae.models.likelihoods import Likelihood as Likelihood
from vae.models.likelihoods import add_likelihood as add_likelihood
from vae.models.make import make_vae as make_vae
from vae.models.networks import ACTIVATIONS as ACTIVATIONS
from vae.models.networks import ARCHITECTURES as ARCHITECTURES
from vae.models.networks import MLP as MLP
from vae.models.networks import Architecture as Architecture
from vae.models.networks import ConvDecoder as ConvDecoder
from vae.models.networks import ConvEncoder as ConvEncoder
from vae.models.networks import add_activation as add_activation
from vae.models.networks import add_architecture as add_architecture
from vae.models.priors import PRIORS as PRIORS
from vae.models.priors import FlowPrior as FlowPrior
from vae.models.priors import LearnedPrior as LearnedPrior
from vae.models.priors import MixturePrior as MixturePrior
from vae.models.priors import PriorKind as PriorKind
from vae.models.priors import StandardPrior as StandardPrior
from vae.models.priors import VampPrior as VampPrior
from vae.models.priors import add_prior as add_prior
from vae.models.product import ProductPosterior as ProductPosterior
from vae.models.quantized import Quantizer as Quantizer
from vae.models.resnet import ResNetDecoder as ResNetDecoder
from vae.models.resnet import ResNetEncoder as ResNetEncoder
from vae.models.spheres import OnSphere as OnSphere
from vae.models.top_down import INFERENCES as INFERENCES
from vae.models.top_down import refuse_inference as refuse_inference
from vae.models.vae import VAE as VAE
from vae.models.vae import Decoder as Decoder
from vae.models.vae import Encoder as Encoder
from vae.models.vae import Prior as Prior
