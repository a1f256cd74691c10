"""The table of all estimators. Flags, tests, README and figures are generated from it: a new one is a file and a line.

estimator = BY_NAME["reparam"].make(num_samples=8)
params, state = estimator.init(key, q, context)
value, cv_loss, state = estimator.estimate(params, state, key, q, f, reduce=log_mean_exp, context=x)
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

from vae.estimators.antithetic import reparam_antithetic
from vae.estimators.arm import arm, disarm
from vae.estimators.arms import arms
from vae.estimators.base import (
    Estimate,
    Estimator,
    attach,
    hold_density,
    inject,
    isolated_loss,
    log_mean_exp,
    mean,
    scale_cotangent,
)
from vae.estimators.coupled_categorical import disarm_iw
from vae.estimators.double_cv import double_cv
from vae.estimators.doubly_reparam import dreg, stl
from vae.estimators.exact import exact
from vae.estimators.layerwise import layerwise
from vae.estimators.linear_control import reparam_linear_cv
from vae.estimators.local_expectation import bitflip, local_expectation
from vae.estimators.measure_valued import measure_valued
from vae.estimators.muprop import muprop
from vae.estimators.quasi import reparam_rqmc
from vae.estimators.rebar import rebar, relax
from vae.estimators.relaxed import gumbel_rao, gumbel_softmax, st_gumbel_softmax
from vae.estimators.reparam import reparam
from vae.estimators.rodeo import rodeo
from vae.estimators.score_function import leave_one_out, nvil, reinforce, reinforce_ema
from vae.estimators.straight_through import reinmax, straight_through
from vae.estimators.top_k import rao_blackwell_top_k
from vae.estimators.unordered_set import unordered_set
from vae.estimators.wake_sleep import wake_sleep, wake_sleep_dreg
from vae.hierarchy import Markov

__all__ = [
    "BY_NAME",
    "Entry",
    "Estimate",
    "Estimator",
    "add",
    "attach",
    "fitting",
    "hold_density",
    "inject",
    "isolated_loss",
    "log_mean_exp",
    "mean",
    "scale_cotangent",
]


class Entry(NamedTuple):
    """One line of the table.

    Attributes:
      make: `make(num_samples=K, **options) -> Estimator`; every option has a default. In the table it also takes
        `by_layer`: several stochastic layers are taken one by one also where they could be taken all at once.
      latents: of "any", "reparameterizable", or names of families in `vae.distributions`.
      bounds: of "elbo" (reduce=mean), "iwae" (reduce=log_mean_exp, and the other multi-sample reductions).
      biased: of the gradient with respect to q's parameters, as the paper says.
      min_samples: the least num_samples that it can work with.
      uses_gradient: whether it differentiates f with respect to z.
      paper: "Authors (year), arXiv:NNNN.NNNNN".
      needs_log_q: f must hold log q(z): with the KL in closed form it is another estimator under its own name.
      needs_weights: of the multi-sample reductions it takes log_mean_exp alone.
    """

    make: Callable[..., Estimator]
    latents: tuple[str, ...]
    bounds: tuple[str, ...]
    biased: bool
    min_samples: int
    uses_gradient: bool
    paper: str
    needs_log_q: bool = False
    needs_weights: bool = False

    def fits(self, q, bound: str) -> bool:
        """Whether it can differentiate `bound` ("elbo" or "iwae") of the latents q, a distribution or its class."""
        return bound in self.bounds and (self.fits_whole(q) or self.fits_layers(q, bound))

    def suits(self, q, reduce, log_q: bool = True) -> bool:
        """Whether it is an estimator of E[reduce(f(z_1), ...)], z_k ~ q; `log_q`: whether f holds log q(z)."""
        weighted = reduce is log_mean_exp or not self.needs_weights
        return self.fits(q, "elbo" if reduce is mean else "iwae") and weighted and (log_q or not self.needs_log_q)

    def fits_layers(self, q, bound: str) -> bool:
        """Whether q has several stochastic layers, which it can estimate one by one (`layerwise`)."""
        several = isinstance(q, Markov) and not q.descending and self.fits_whole(q.first)
        return several and bound == "elbo" and not self.uses_gradient

    def fits_whole(self, q) -> bool:
        family = (q if isinstance(q, type) else type(q)).__name__
        reparameterizable = "reparameterizable" in self.latents and getattr(q, "rsample", None) is not None
        return "any" in self.latents or reparameterizable or family in self.latents


def fitting(q, bound: str) -> list[str]:
    """Names of the estimators that can differentiate `bound` ("elbo" or "iwae") of the latents q."""
    return [name for name, entry in BY_NAME.items() if entry.fits(q, bound)]


def _guarded(name: str, entry: Entry) -> Entry:
    """The entry whose `make`, `init` and `estimate` refuse what cannot be right, in a sentence that names what would
    work."""
    own = inspect.signature(entry.make)

    def refuse_misfit(q, bounds: tuple[str, ...]) -> None:
        if not any(entry.fits(q, bound) for bound in bounds):
            raise ValueError(
                f"{name} cannot estimate the gradient of the {bounds[0]} bound with {type(q).__name__} latents; "
                f"these can: {', '.join(fitting(q, bounds[0]))}"
            )

    @functools.wraps(entry.make)
    def make(*args, by_layer: bool = False, **options) -> Estimator:
        given = own.bind(*args, **options)
        given.apply_defaults()
        if (num_samples := given.arguments["num_samples"]) < entry.min_samples:
            raise ValueError(f"{name} needs num_samples of at least {entry.min_samples}, got {num_samples}")
        whole = entry.make(*args, **options)
        one_by_one = layerwise(whole)

        def chosen(q):
            return one_by_one if entry.fits_layers(q, "elbo") and (by_layer or not entry.fits_whole(q)) else whole

        def init(key, q, context=None):
            refuse_misfit(q, entry.bounds)
            return chosen(q).init(key, q, context)

        def estimate(params, state, key, q, f, reduce=mean, context=None) -> Estimate:
            bound = "elbo" if reduce is mean else "iwae"
            refuse_misfit(q, (bound,))
            if entry.needs_weights and reduce is not log_mean_exp:
                raise ValueError(f"{name} needs importance weights: take reduce=log_mean_exp, objective iwae")
            if by_layer and not entry.fits_layers(q, bound):
                raise ValueError(
                    f"{name} cannot take the layers of {type(q).__name__} latents one by one for the {bound} bound: "
                    f"that is for several layers, the ELBO, and estimators that do not differentiate f"
                )
            return chosen(q).estimate(params, state, key, q, f, reduce, context)

        return Estimator(init, estimate)

    option = inspect.Parameter("by_layer", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    make.__signature__ = own.replace(parameters=({**own.parameters, "by_layer": option}).values())
    return entry._replace(make=make)


_ANY, _PATH = ("any",), ("reparameterizable",)
_BOTH, _ELBO, _IWAE = ("elbo", "iwae"), ("elbo",), ("iwae",)
_GAUSSIAN, _DISCRETE = ("Normal", "MultivariateNormal"), ("Bernoulli", "Categorical")
_BITS, _CLASSES = ("Bernoulli",), ("Categorical",)

# name: make, latents, bounds, biased, min_samples, uses_gradient, paper
_TABLE = {
    "reparam": Entry(reparam, _PATH, _BOTH, False, 1, True, "Kingma & Welling (2013), arXiv:1312.6114"),
    "stl": Entry(stl, _PATH, _ELBO, False, 1, True, "Roeder, Wu & Duvenaud (2017), arXiv:1703.09194", True),
    "dreg": Entry(dreg, _PATH, _IWAE, False, 1, True, "Tucker, Lawson, Gu & Maddison (2018), arXiv:1810.04152"),
    "reparam_antithetic": Entry(
        reparam_antithetic, _GAUSSIAN, _ELBO, False, 2, True, "Wu, Goodman & Ermon (2019), arXiv:1810.02555"
    ),
    "reparam_rqmc": Entry(
        reparam_rqmc, _GAUSSIAN, _ELBO, False, 1, True, "Buchholz, Wenzel & Mandt (2018), arXiv:1807.01604"
    ),
    "reparam_linear_cv": Entry(
        reparam_linear_cv, ("Normal",), _ELBO, False, 1, True, "Miller et al. (2017), arXiv:1705.07880"
    ),
    "measure_valued": Entry(
        measure_valued, ("Normal", "Bernoulli"), _ELBO, False, 1, False, "Mohamed et al. (2020), arXiv:1906.10652"
    ),
    "reinforce": Entry(reinforce, _ANY, _BOTH, False, 1, False, "Ranganath, Gerrish & Blei (2014), arXiv:1401.0118"),
    "reinforce_ema": Entry(reinforce_ema, _ANY, _BOTH, False, 1, False, "Mnih & Gregor (2014), arXiv:1402.0030"),
    "nvil": Entry(nvil, _ANY, _BOTH, False, 1, False, "Mnih & Gregor (2014), arXiv:1402.0030"),
    "leave_one_out": Entry(leave_one_out, _ANY, _BOTH, False, 2, False, "Salimans & Knowles (2014), arXiv:1401.1022"),
    "vimco": Entry(leave_one_out, _ANY, _IWAE, False, 2, False, "Mnih & Rezende (2016), arXiv:1602.06725"),
    "muprop": Entry(
        muprop, (*_GAUSSIAN, *_DISCRETE), _ELBO, False, 1, True, "Gu, Levine, Sutskever & Mnih (2015), arXiv:1511.05176"
    ),
    "gumbel_softmax": Entry(
        gumbel_softmax, _DISCRETE, _BOTH, True, 1, True, "Jang, Gu & Poole (2016), arXiv:1611.01144"
    ),
    "st_gumbel_softmax": Entry(
        st_gumbel_softmax, _DISCRETE, _BOTH, True, 1, True, "Jang, Gu & Poole (2016), arXiv:1611.01144"
    ),
    "gumbel_rao": Entry(
        gumbel_rao, _DISCRETE, _BOTH, True, 1, True, "Paulus, Maddison & Krause (2020), arXiv:2010.04838"
    ),
    "straight_through": Entry(
        straight_through, _DISCRETE, _BOTH, True, 1, True, "Bengio, Leonard & Courville (2013), arXiv:1308.3432"
    ),
    "reinmax": Entry(reinmax, _DISCRETE, _BOTH, True, 1, True, "Liu, Dong, Liu, Yu & Gao (2023), arXiv:2304.08612"),
    "rebar": Entry(rebar, _DISCRETE, _ELBO, False, 1, True, "Tucker et al. (2017), arXiv:1703.07370"),
    "relax": Entry(relax, _DISCRETE, _ELBO, False, 1, True, "Grathwohl et al. (2017), arXiv:1711.00123"),
    "arm": Entry(arm, _BITS, _BOTH, False, 2, False, "Yin & Zhou (2018), arXiv:1807.11143"),
    "disarm": Entry(disarm, _BITS, _BOTH, False, 2, False, "Dong, Mnih & Tucker (2020), arXiv:2006.10680"),
    "arms": Entry(arms, _BITS, _ELBO, False, 2, False, "Dimitriev & Zhou (2021), arXiv:2105.14141"),
    "disarm_iw": Entry(disarm_iw, _CLASSES, _BOTH, False, 2, False, "Dong, Mnih & Tucker (2021), arXiv:2106.08056"),
    "double_cv": Entry(double_cv, _DISCRETE, _ELBO, False, 2, True, "Titsias & Shi (2022), arXiv:2111.05300"),
    "rodeo": Entry(
        rodeo, _DISCRETE, _ELBO, False, 2, True, "Shi, Zhou, Hwang, Titsias & Mackey (2022), arXiv:2202.09497"
    ),
    "local_expectation": Entry(
        local_expectation, _DISCRETE, _ELBO, False, 1, False, "Titsias & Lázaro-Gredilla (2015), arXiv:1503.01494"
    ),
    "bitflip": Entry(bitflip, _BITS, _ELBO, False, 1, False, "Kunes et al. (2022), arXiv:2208.06124"),
    "rao_blackwell_top_k": Entry(
        rao_blackwell_top_k, _CLASSES, _ELBO, False, 1, False, "Liu et al. (2018), arXiv:1810.04777"
    ),
    "unordered_set": Entry(
        unordered_set, _CLASSES, _ELBO, False, 1, False, "Kool, van Hoof & Welling (2020), arXiv:2002.06043"
    ),
    "wake_sleep": Entry(
        wake_sleep, _ANY, _IWAE, True, 2, False, "Bornschein & Bengio (2015), arXiv:1406.2751", needs_weights=True
    ),
    "wake_sleep_dreg": Entry(
        wake_sleep_dreg,
        _PATH,
        _IWAE,
        True,
        2,
        True,
        "Tucker, Lawson, Gu & Maddison (2018), arXiv:1810.04152",
        needs_weights=True,
    ),
    "exact": Entry(exact, (*_GAUSSIAN, *_DISCRETE), _BOTH, False, 1, True, "a sum over all states, or quadrature"),
}
BY_NAME: dict[str, Entry] = {name: _guarded(name, entry) for name, entry in _TABLE.items()}


def add(name: str, entry: Entry) -> None:
    """Puts an estimator of another package into the table, so that flags and the laboratory know it.

    Raises:
      ValueError: if the name is taken.
    """
    if name in BY_NAME:
        raise ValueError(f"there is an estimator called {name} already; choose another name")
    BY_NAME[name] = _guarded(name, entry)
