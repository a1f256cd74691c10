"""The table of all estimators, with one entry each, and the check whether an estimator fits a q and a bound.

The command line, the tests, the READMEs and the figures take their lists of estimators from this table. To add an
estimator, write a file and add an entry here.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vae.estimators.arm import arm
from vae.estimators.arms import arms
from vae.estimators.bitflip import bitflip
from vae.estimators.contract import Estimate, Estimator, Reduction, log_mean_exp, mean
from vae.estimators.disarm import disarm
from vae.estimators.disarm_iw import disarm_iw
from vae.estimators.double_cv import double_cv
from vae.estimators.dreg import dreg
from vae.estimators.exact import exact
from vae.estimators.gumbel_rao import gumbel_rao
from vae.estimators.gumbel_softmax import gumbel_softmax
from vae.estimators.layerwise import layerwise
from vae.estimators.leave_one_out import leave_one_out
from vae.estimators.local_expectation import local_expectation
from vae.estimators.measure_valued import measure_valued
from vae.estimators.muprop import muprop
from vae.estimators.nvil import nvil
from vae.estimators.rao_blackwell_top_k import rao_blackwell_top_k
from vae.estimators.rebar import rebar
from vae.estimators.reinforce import reinforce
from vae.estimators.reinforce_ema import reinforce_ema
from vae.estimators.reinmax import reinmax
from vae.estimators.relax import relax
from vae.estimators.reparam import reparam
from vae.estimators.reparam_antithetic import reparam_antithetic
from vae.estimators.reparam_linear_cv import reparam_linear_cv
from vae.estimators.reparam_rqmc import reparam_rqmc
from vae.estimators.rodeo import rodeo
from vae.estimators.st_gumbel_softmax import st_gumbel_softmax
from vae.estimators.stl import stl
from vae.estimators.straight_through import straight_through
from vae.estimators.unordered_set import unordered_set
from vae.estimators.vimco import vimco
from vae.estimators.wake_sleep import wake_sleep
from vae.estimators.wake_sleep_dreg import wake_sleep_dreg


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of the table: a factory and the facts about its estimator. Fields with the usual value are omitted.

    Attributes:
      make: the factory, `make(num_samples=K, **options) -> Estimator`. Every option has a default.
      latents: "any", "reparameterizable", or the names of families in `vae.distributions`.
      reductions: "mean" for the ELBO, "log_mean_exp" for the importance-weighted and all other multi-sample bounds.
      biased: whether the gradient in the parameters of q is biased, according to the paper.
      min_samples: the smallest num_samples that works.
      differentiates_f: whether the estimator differentiates f in z.
      needs_log_q: whether log_q_weight must not be 0, because the estimator would then be wrong or be a different one.
        A multi-sample bound must then be importance-weighted, with log_q_weight=1 and reduce=log_mean_exp.
      paper: "Authors (year), arXiv:NNNN.NNNNN".
      name: the key in the table. `add` fills it in.
    """

    make: Callable[..., Estimator]
    _: dataclasses.KW_ONLY
    latents: tuple[str, ...] = ("any",)
    reductions: tuple[str, ...] = ("mean",)
    biased: bool = False
    min_samples: int = 1
    differentiates_f: bool = False
    needs_log_q: bool = False
    paper: str = ""
    name: str = ""

    def refusal(self, q: Any, reduce: Reduction = mean, log_q_weight: float | Array = 0.0) -> str | None:
        """Returns None if this estimator can differentiate E[reduce(f(z_k) - log_q_weight log q(z_k))], z_k ~ q.

        Otherwise the result is a sentence that says why not and which estimators can. q is a distribution or its class.
        """
        reason = self._reason(q, reduce, log_q_weight)
        if reason is None:
            return None
        able = ", ".join(fitting(q, reduce, log_q_weight)) or "none in the table"
        return f"{self.name} {reason}; these estimators can: {able}"

    def _reason(self, q: Any, reduce: Reduction, log_q_weight: float | Array) -> str | None:
        family = q if isinstance(q, type) else type(q)
        if not self._accepts(q):
            hint = "; for several layers wrap it in layerwise (by_layer=True)" if family.__name__ == "Markov" else ""
            return f"cannot estimate gradients with {family.__name__} latents{hint}"
        if ("mean" if reduce.additive else "log_mean_exp") not in self.reductions:
            return f"cannot estimate the gradient of a bound with the reduction {reduce.name}"
        if self.needs_log_q and not isinstance(log_q_weight, jax.core.Tracer):
            if log_q_weight == 0:
                return "needs log q(z) in the integrand (log_q_weight=1)"
            if not reduce.additive and not (reduce.importance_weighted and log_q_weight == 1):
                return "needs importance weights (log_q_weight=1 and reduce=log_mean_exp, the objective iwae)"
        return None

    def _accepts(self, q: Any) -> bool:
        family = q if isinstance(q, type) else type(q)
        reparameterizable = "reparameterizable" in self.latents and getattr(q, "rsample", None) is not None
        return "any" in self.latents or reparameterizable or family.__name__ in self.latents


REPARAMETERIZABLE = ("reparameterizable",)
GAUSSIAN = ("Normal", "MultivariateNormal")
BITS = ("Bernoulli",)
CLASSES = ("Categorical",)
DISCRETE = BITS + CLASSES
EVERY_BOUND = ("mean", "log_mean_exp")
MULTI_SAMPLE = ("log_mean_exp",)

_ENTRIES = {
    # Continuous latents: pathwise gradients.
    "reparam": Entry(
        reparam,
        latents=REPARAMETERIZABLE,
        reductions=EVERY_BOUND,
        differentiates_f=True,
        paper="Kingma & Welling (2013), arXiv:1312.6114",
    ),
    "stl": Entry(
        stl,
        latents=REPARAMETERIZABLE,
        differentiates_f=True,
        needs_log_q=True,
        paper="Roeder, Wu & Duvenaud (2017), arXiv:1703.09194",
    ),
    "dreg": Entry(
        dreg,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        differentiates_f=True,
        paper="Tucker, Lawson, Gu & Maddison (2018), arXiv:1810.04152",
    ),
    "reparam_antithetic": Entry(
        reparam_antithetic,
        latents=GAUSSIAN,
        min_samples=2,
        differentiates_f=True,
        paper="Wu, Goodman & Ermon (2019), arXiv:1810.02555",
    ),
    "reparam_rqmc": Entry(
        reparam_rqmc,
        latents=GAUSSIAN,
        differentiates_f=True,
        paper="Buchholz, Wenzel & Mandt (2018), arXiv:1807.01604",
    ),
    "reparam_linear_cv": Entry(
        reparam_linear_cv,
        latents=("Normal",),
        differentiates_f=True,
        paper="Miller et al. (2017), arXiv:1705.07880",
    ),
    "measure_valued": Entry(
        measure_valued, latents=("Normal", "Bernoulli"), paper="Mohamed et al. (2020), arXiv:1906.10652"
    ),
    # Any latents: the score function.
    "reinforce": Entry(reinforce, reductions=EVERY_BOUND, paper="Ranganath, Gerrish & Blei (2014), arXiv:1401.0118"),
    "reinforce_ema": Entry(reinforce_ema, reductions=EVERY_BOUND, paper="Mnih & Gregor (2014), arXiv:1402.0030"),
    "nvil": Entry(nvil, reductions=EVERY_BOUND, paper="Mnih & Gregor (2014), arXiv:1402.0030"),
    "leave_one_out": Entry(
        leave_one_out, reductions=EVERY_BOUND, min_samples=2, paper="Salimans & Knowles (2014), arXiv:1401.1022"
    ),
    "vimco": Entry(vimco, reductions=MULTI_SAMPLE, min_samples=2, paper="Mnih & Rezende (2016), arXiv:1602.06725"),
    "muprop": Entry(
        muprop,
        latents=GAUSSIAN + DISCRETE,
        differentiates_f=True,
        paper="Gu, Levine, Sutskever & Mnih (2015), arXiv:1511.05176",
    ),
    # Discrete latents: relaxations and straight-through estimators.
    "gumbel_softmax": Entry(
        gumbel_softmax,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        paper="Jang, Gu & Poole (2016), arXiv:1611.01144",
    ),
    "st_gumbel_softmax": Entry(
        st_gumbel_softmax,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        paper="Jang, Gu & Poole (2016), arXiv:1611.01144",
    ),
    "gumbel_rao": Entry(
        gumbel_rao,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        paper="Paulus, Maddison & Krause (2020), arXiv:2010.04838",
    ),
    "straight_through": Entry(
        straight_through,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        paper="Bengio, Leonard & Courville (2013), arXiv:1308.3432",
    ),
    "reinmax": Entry(
        reinmax,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        paper="Liu, Dong, Liu, Yu & Gao (2023), arXiv:2304.08612",
    ),
    # Discrete latents: control variates and coupled samples.
    "rebar": Entry(rebar, latents=DISCRETE, differentiates_f=True, paper="Tucker et al. (2017), arXiv:1703.07370"),
    "relax": Entry(relax, latents=DISCRETE, differentiates_f=True, paper="Grathwohl et al. (2017), arXiv:1711.00123"),
    "arm": Entry(arm, latents=BITS, reductions=EVERY_BOUND, min_samples=2, paper="Yin & Zhou (2018), arXiv:1807.11143"),
    "disarm": Entry(
        disarm,
        latents=BITS,
        reductions=EVERY_BOUND,
        min_samples=2,
        paper="Dong, Mnih & Tucker (2020), arXiv:2006.10680",
    ),
    "arms": Entry(arms, latents=BITS, min_samples=2, paper="Dimitriev & Zhou (2021), arXiv:2105.14141"),
    "disarm_iw": Entry(
        disarm_iw,
        latents=CLASSES,
        reductions=EVERY_BOUND,
        min_samples=2,
        paper="Dong, Mnih & Tucker (2021), arXiv:2106.08056",
    ),
    "double_cv": Entry(
        double_cv,
        latents=DISCRETE,
        min_samples=2,
        differentiates_f=True,
        paper="Titsias & Shi (2022), arXiv:2111.05300",
    ),
    "rodeo": Entry(
        rodeo,
        latents=DISCRETE,
        min_samples=2,
        differentiates_f=True,
        paper="Shi, Zhou, Hwang, Titsias & Mackey (2022), arXiv:2202.09497",
    ),
    # Discrete latents: f at systematically chosen states.
    "local_expectation": Entry(
        local_expectation, latents=DISCRETE, paper="Titsias & Lázaro-Gredilla (2015), arXiv:1503.01494"
    ),
    "bitflip": Entry(bitflip, latents=BITS, paper="Kunes et al. (2022), arXiv:2208.06124"),
    "rao_blackwell_top_k": Entry(rao_blackwell_top_k, latents=CLASSES, paper="Liu et al. (2018), arXiv:1810.04777"),
    "unordered_set": Entry(unordered_set, latents=CLASSES, paper="Kool, van Hoof & Welling (2020), arXiv:2002.06043"),
    # Any or reparameterizable latents: the encoder has an objective of its own.
    "wake_sleep": Entry(
        wake_sleep,
        reductions=MULTI_SAMPLE,
        biased=True,
        min_samples=2,
        needs_log_q=True,
        paper="Bornschein & Bengio (2015), arXiv:1406.2751",
    ),
    "wake_sleep_dreg": Entry(
        wake_sleep_dreg,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        biased=True,
        min_samples=2,
        differentiates_f=True,
        needs_log_q=True,
        paper="Tucker, Lawson, Gu & Maddison (2018), arXiv:1810.04152",
    ),
    # The exact answer, for small problems.
    "exact": Entry(
        exact,
        latents=GAUSSIAN + DISCRETE,
        reductions=EVERY_BOUND,
        differentiates_f=True,
        paper="a sum over all states, or quadrature",
    ),
}

BY_NAME: dict[str, Entry] = {}


def add(name: str, entry: Entry) -> None:
    """Adds an estimator to the table, so that the command line, the laboratory and the tests know it.

    Raises:
      ValueError: if the name is taken, or if the entry has an unknown reduction.
    """
    if not entry.reductions or not set(entry.reductions) <= set(EVERY_BOUND):
        raise ValueError(f"reductions of {name} must be some of {EVERY_BOUND}, got {entry.reductions}")
    if name in BY_NAME:
        raise ValueError(f"the table has an estimator called {name} already; choose another name")
    named = dataclasses.replace(entry, name=name)
    BY_NAME[name] = dataclasses.replace(named, make=_guarded(named))


def make(name: str, *, by_layer: bool = False, **options: Any) -> Estimator:
    """Makes the estimator called `name`, for example `make("leave_one_out", num_samples=4)`.

    Args:
      name: a key of `BY_NAME`.
      by_layer: whether to wrap the estimator in `layerwise`, for a posterior with several stochastic layers.
      **options: keyword arguments of the estimator's factory, `num_samples` among them.

    Raises:
      ValueError: if there is no such estimator, if the value of an option is invalid, or if `by_layer` is set for an
        estimator that differentiates f.
      TypeError: if the estimator has no such option.
    """
    if name not in BY_NAME:
        close = difflib.get_close_matches(name, BY_NAME, n=1)
        hint = f"; did you mean {close[0]}" if close else ""
        raise ValueError(f"there is no estimator {name!r}{hint}; the estimators are {', '.join(BY_NAME)}")
    entry = BY_NAME[name]
    if by_layer and entry.differentiates_f:
        raise ValueError(
            f"{name} cannot work layer by layer (by_layer=True), because it differentiates f in z; "
            f"choose an estimator that does not, for example leave_one_out"
        )
    estimator = entry.make(**options)
    return layerwise(estimator) if by_layer else estimator


def fitting(q: Any, reduce: Reduction = mean, log_q_weight: float | Array = 0.0) -> list[str]:
    """The names of the estimators that can differentiate this expectation. q is a distribution or its class."""
    return [name for name, entry in BY_NAME.items() if entry._reason(q, reduce, log_q_weight) is None]


# Estimators combine `[K, *batch, D]` with `[*batch, D]`, which works even if the user lets jax refuse that.
_broadcasting = jax.numpy_rank_promotion("allow")


def _guarded(entry: Entry) -> Callable[..., Estimator]:
    """The factory of `entry`, changed so that its estimators check q, `reduce` and `log_q_weight`."""
    signature = inspect.signature(entry.make)

    @functools.wraps(entry.make)
    def make(*args, **options) -> Estimator:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        num_samples = given.arguments["num_samples"]
        if not isinstance(num_samples, int | np.integer) or isinstance(num_samples, bool):
            raise ValueError(f"{entry.name} needs an integer num_samples, got {num_samples!r}")
        if num_samples < entry.min_samples:
            raise ValueError(f"{entry.name} needs num_samples of at least {entry.min_samples}, got {num_samples}")
        estimator = entry.make(*args, **options)

        def init(key, q, context=None):
            reduce = mean if "mean" in entry.reductions else log_mean_exp
            _raise(entry.refusal(q, reduce, log_q_weight=1.0))
            with _broadcasting:
                return estimator.init(key, q, context)

        def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
            _raise(entry.refusal(q, reduce, log_q_weight))
            if jnp.ndim(log_q_weight) != 0:
                raise ValueError(f"log_q_weight must be one number, got shape {list(jnp.shape(log_q_weight))}")
            with _broadcasting:
                return estimator.estimate(params, state, key, q, f, reduce, log_q_weight, context)

        return Estimator(init, estimate)

    return make


def _raise(refusal: str | None) -> None:
    if refusal is not None:
        raise ValueError(refusal)


for _name, _entry in _ENTRIES.items():
    add(_name, _entry)
