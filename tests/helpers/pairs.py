"""A posterior for an estimator, and an estimator for a posterior."""

from vae.estimators import Entry


def family_of(entry: Entry) -> str:
    """Returns the first of normal, vq, bernoulli, categorical and poisson that fits the estimator."""
    latents = entry.latents
    if "any" in latents or "reparameterizable" in latents or "Normal" in latents:
        return "normal"
    if "Quantized" in latents:
        return "vq"
    return next(name.lower() for name in ("Bernoulli", "Categorical", "Poisson") if name in latents)


def estimator_for(posterior: str) -> str:
    """Returns the name of an estimator that fits the posterior."""
    if posterior in ("vq", "fsq"):
        return "vq_straight_through"
    return "leave_one_out" if posterior in ("bernoulli", "categorical", "poisson", "stochastic_vq") else "reparam"
