"""Variational autoencoders and Monte Carlo gradient estimators in JAX/Flax."""
