"""Additions to the tables of models, so that the command line and `make_vae` know them by name.

A factory's keyword arguments are the options of its name.
"""

from collections.abc import Callable
from typing import Any

from vae.models.families import LIKELIHOODS, POSTERIORS, PRIORS
from vae.models.networks import ACTIVATIONS, ARCHITECTURES


def add_posterior(name: str, factory: Callable[..., Any]) -> None:
    """Adds a factory of `Posterior`s. Raises ValueError if the name is taken, as all functions of this file do."""
    _add("posterior", POSTERIORS, name, factory)


def add_prior(name: str, factory: Callable[..., Any]) -> None:
    """Adds a factory of objects like `StandardPrior`."""
    _add("prior", PRIORS, name, factory)


def add_likelihood(name: str, factory: Callable[..., Any]) -> None:
    """Adds a factory of `Likelihood`s."""
    _add("likelihood", LIKELIHOODS, name, factory)


def add_architecture(name: str, factory: Callable[..., Any]) -> None:
    """Adds a factory of `Architecture`s."""
    _add("architecture", ARCHITECTURES, name, factory)


def add_activation(name: str, factory: Callable[..., Any]) -> None:
    """Adds a factory of functions of arrays."""
    _add("activation", ACTIVATIONS, name, factory)


def _add(kind: str, table: dict[str, Callable[..., Any]], name: str, factory: Callable[..., Any]) -> None:
    if name in table:
        raise ValueError(f"the table has one {kind} called {name} already; choose another name")
    table[name] = factory
