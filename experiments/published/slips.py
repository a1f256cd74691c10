"""Estimators with one planted slip each: the negative controls of the scripts scripts/reproduce_*.sh.

`--import=experiments.published.slips` adds them to the table of estimators. A control measures a published claim again,
with a slip in place of the right estimator. The claim must then fail. If the claim were met even so, the experiment
could not see a slip of this kind. The slips `*_with_4_samples` and `reparam_with_1_sample` draw that many samples
whatever K is. `reparam_of_a_frozen_density` is sticking the landing for a bound of several samples, where the score is
needed. `disarm_without_average` is ARM: its weight is not averaged over all u that give the same pair.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vae.estimators import Entry, Estimator, add, attach, held, inject, integrand, stateless
from vae.estimators.arm import arm
from vae.estimators.dreg import dreg, path_weight
from vae.estimators.measure_valued import _differences, _pairs_of_normals
from vae.estimators.parts.one_hot import accept_bits
from vae.estimators.parts.relaxed_control import relaxed_control
from vae.estimators.parts.score_function import mean_of_others, score_surrogate, weigh_scores
from vae.estimators.reparam import reparam
from vae.estimators.table import MULTI_SAMPLE, REPARAMETERIZABLE
from vae.estimators.tools import scale_cotangent
from vae.testing import slips as known


def reparam_without_scale(num_samples: int = 1) -> Estimator:
    """The path through the scale is lost: the sample moves with the mean alone."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        return reduce(integrand(f, q, log_q_weight)(attach(z, jnp.broadcast_to(q.mean, z.shape))))

    return stateless(estimate)


def reinforce_on_the_path(num_samples: int = 1) -> Estimator:
    """log q(z) is also differentiated along the path of z."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(stop_gradient(z))  # [K, *batch]
        return weigh_scores(q, z, reduce(values), values / num_samples)

    return stateless(estimate)


def reinforce_summed(num_samples: int = 1) -> Estimator:
    """The gradients of the samples are summed, not averaged."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [K, *batch]
        return weigh_scores(q, z, reduce(values), values)

    return stateless(estimate)


def measure_valued_uncoupled(num_samples: int = 1) -> Estimator:
    """The two values of z that are compared come from independent draws."""

    def estimate(key, q, f, reduce, log_q_weight):
        key_z, *keys = jax.random.split(key, 3)
        z = q.sample(key_z, num_samples)  # [K, *batch, D]
        first, second = (_pairs_of_normals(q, key, z) for key in keys)
        pairs = [one._replace(second=other.second) for one, other in zip(first, second, strict=True)]
        f = integrand(f, held(q, reduce), log_q_weight)
        grads = [pair.weight * each for pair, each in zip(pairs, _differences(f, z, pairs), strict=True)]
        return reduce(f(z)) + inject([pair.parameter for pair in pairs], grads, len(q.batch_shape))

    return stateless(estimate)


def stl_with_frozen_samples(num_samples: int = 1) -> Estimator:
    """The samples are frozen in log q(z) in place of the density: the score is kept and the path is lost."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)
        return reduce(f(z) - log_q_weight * q.log_prob(stop_gradient(z)))

    return stateless(estimate)


def dreg_with_frozen_samples(num_samples: int = 1) -> Estimator:
    """The same slip in DReG."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.rsample(key, num_samples)
        log_q = q.log_prob(stop_gradient(z))
        values = stop_gradient(f(z) - log_q_weight * log_q)  # [K, *batch]
        return reduce(f(scale_cotangent(z, path_weight(reduce, values, log_q_weight))) - log_q_weight * log_q)

    return stateless(estimate)


def vimco_star_over_k_minus_1(num_samples: int = 2) -> Estimator:
    """The bound without a sample is the mean of the other weights: their sum over K - 1 in place of K."""

    def estimate(key, q, f, reduce, log_q_weight):
        z = q.sample(key, num_samples)
        values = integrand(f, held(q, reduce), log_q_weight)(z)  # [K, *batch]
        largest = stop_gradient(jnp.max(values, axis=0))
        control = largest + jnp.log(mean_of_others(jnp.exp(values - largest)))
        return score_surrogate(q, z, values, control, reduce)

    return stateless(estimate)


def rebar_with_a_wrong_sign(num_samples: int = 1) -> Estimator:
    """The gradient of the control variate is subtracted, where it must be added back."""
    init = lambda key, q, context=None: ({"log_temperature": jnp.log(jnp.full((), 0.5, q.logits.dtype))}, {})
    turned = lambda relaxed: 2 * stop_gradient(relaxed) - relaxed  # the same value, with the opposite derivative
    return relaxed_control(num_samples, init, lambda params, f, relaxed, features: f(turned(relaxed)))


def reinmax_without_midpoint(num_samples: int = 1) -> Estimator:
    """Heun's second point is the mean of q in place of the point halfway from the mean to the sample."""

    def estimate(key, q, f, reduce, log_q_weight):
        hard = q.sample(key, num_samples)  # [K, *batch, D, C]
        probability = stop_gradient(q.mean)
        centred = q.logits - jnp.sum(probability * q.logits, axis=-1, keepdims=True)
        z = attach(hard, jnp.broadcast_to(2 * probability * centred - q.mean / 2, hard.shape))
        return reduce(integrand(f, held(q, reduce), log_q_weight)(z))

    return accept_bits(stateless(estimate))


_SLIPS = {
    "reparam_without_scale": Entry(reparam_without_scale, latents=("Normal",), biased=True, differentiates_f=True),
    "reinforce_on_the_path": Entry(reinforce_on_the_path, latents=REPARAMETERIZABLE, biased=True),
    "reinforce_summed": Entry(reinforce_summed, biased=True),
    "measure_valued_uncoupled": Entry(measure_valued_uncoupled, latents=("Normal",)),
    "stl_with_frozen_samples": Entry(
        stl_with_frozen_samples, latents=REPARAMETERIZABLE, biased=True, differentiates_f=True
    ),
    "dreg_with_frozen_samples": Entry(
        dreg_with_frozen_samples,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        biased=True,
        differentiates_f=True,
    ),
    "reparam_with_4_samples": Entry(
        lambda num_samples=1: reparam(4), latents=REPARAMETERIZABLE, reductions=MULTI_SAMPLE, differentiates_f=True
    ),
    "reparam_with_1_sample": Entry(
        lambda num_samples=1: reparam(1), latents=REPARAMETERIZABLE, reductions=MULTI_SAMPLE, differentiates_f=True
    ),
    "dreg_with_4_samples": Entry(
        lambda num_samples=1: dreg(4), latents=REPARAMETERIZABLE, reductions=MULTI_SAMPLE, differentiates_f=True
    ),
    "reparam_of_a_frozen_density": Entry(
        lambda num_samples=1: known.dreg_with_weights(1, 1, num_samples),
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        biased=True,
        differentiates_f=True,
    ),
    "vimco_without_direct_term": Entry(
        known.vimco_without_direct_term, reductions=MULTI_SAMPLE, biased=True, min_samples=2
    ),
    "vimco_star_over_k_minus_1": Entry(vimco_star_over_k_minus_1, reductions=MULTI_SAMPLE, min_samples=2),
    "disarm_without_average": Entry(arm, latents=("Bernoulli",), min_samples=2),
    "leave_one_out_shrunk": Entry(known.leave_one_out_shrunk, biased=True, min_samples=2),
    "rebar_with_a_wrong_sign": Entry(
        rebar_with_a_wrong_sign, latents=("Bernoulli",), biased=True, differentiates_f=True
    ),
    "reinmax_without_midpoint": Entry(
        reinmax_without_midpoint, latents=("Bernoulli", "Categorical"), biased=True, differentiates_f=True
    ),
}
for _name, _entry in _SLIPS.items():
    add(_name, _entry)
