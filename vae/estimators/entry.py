"""An entry of the table of estimators, the check whether an estimator fits a q and a bound, and the table's type."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vae.distributions import Product
from vae.estimators.blocks import blocks
from vae.estimators.contract import Estimate, Estimator, Integrand, LogJoint, Reduction, log_mean_exp, mean
from vae.estimators.layerwise import layerwise
from vae.estimators.tools import first_derivative_only
from vae.hierarchy import Markov
from vae.table import Table, Value

EVERY_BOUND = ("mean", "log_mean_exp")
_AVERAGES = "bounds that average over samples, such as elbo"
_MULTI_SAMPLE = "multi-sample bounds, such as iwae"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of the table: a factory and the facts about its estimator. Fields with the usual value are omitted.

    Attributes:
      make: the factory, `make(num_samples=K, **options) -> Estimator`. Every option has a default.
      latents: "any", "reparameterizable", or the names of families in `vae.distributions`.
      reductions: "mean" for the ELBO, "log_mean_exp" for the importance-weighted and all other multi-sample bounds.
      biased: whether the gradient in the parameters of q is biased, according to the paper.
      min_samples: the smallest num_samples that works.
      differentiates_f: whether the estimator differentiates f in z: True, False, or the families for which it does.
      chooses: whether the estimator measures others and uses one of them. A program that uses it branches, which is
        only fast for runs that are computed one after the other.
      needs_log_q: whether log_q_weight must not be 0, because the estimator would then be wrong or be a different one.
        A multi-sample bound must then be importance-weighted, with log_q_weight=1 and reduce=log_mean_exp.
      twice_differentiable: whether second derivatives of an estimate are right too; otherwise they are refused.
      needs_prior: whether f must be a `LogJoint`, because the estimator would otherwise be a different one. The prior
        must then have the method `with_path`.
      display: the name in papers, for figures and LaTeX tables; if it is left out, the key in the table.
      paper: "Authors (year), arXiv:NNNN.NNNNN".
      also: other names that people look for. Text in parentheses after a name says how to get that estimator.
      name: the key in the table. `add` fills it in.
    """

    make: Callable[..., Estimator]
    _: dataclasses.KW_ONLY
    latents: tuple[str, ...] = ("any",)
    reductions: tuple[str, ...] = ("mean",)
    biased: bool = False
    min_samples: int = 1
    differentiates_f: bool | tuple[str, ...] = False
    chooses: bool = False
    needs_log_q: bool = False
    needs_prior: bool = False
    twice_differentiable: bool = False
    display: str = ""
    paper: str = ""
    also: tuple[str, ...] = ()
    name: str = ""

    def refusal(
        self,
        q: Any,
        reduce: Reduction = mean,
        log_q_weight: float | Array = 0.0,
        black_box: bool = False,
        f: Integrand | None = None,
    ) -> str | None:
        """Returns None if this estimator can differentiate E[reduce(f(z_k) - log_q_weight log q(z_k))], z_k ~ q.

        Otherwise the result is a sentence that says why not and which estimators can.

        Args:
          q: a distribution or its class.
          reduce: the reduction over samples.
          log_q_weight: the weight of log q(z).
          black_box: whether f has no gradient in z, because a function on the host computes it, such as a simulator.
          f: the integrand, if it is known.
        """
        reason = self._reason(q, reduce, log_q_weight, black_box, f)
        if reason is None:
            return None
        able = ", ".join(fitting(q, reduce, log_q_weight, black_box, f)) or "none in the table"
        return f"{self.name} {reason}; these estimators can: {able}"

    def refusal_at_init(self, q: Any) -> str | None:
        """The `refusal` of q before its bound is known."""
        return self.refusal(q, mean if "mean" in self.reductions else log_mean_exp, log_q_weight=1.0)

    def _reason(
        self, q: Any, reduce: Reduction, log_q_weight: float | Array, black_box: bool, f: Integrand | None
    ) -> str | None:
        family = q if isinstance(q, type) else type(q)
        if not self._accepts(q):
            hint = self._hint(q, reduce, log_q_weight, black_box, f) + self._cure("latents")
            return f"cannot estimate gradients with {family.__name__} latents{hint}"
        if "any" in self.latents and getattr(q, "is_deterministic", False):
            return (
                f"cannot estimate gradients with {family.__name__} latents, whose codes are certain: there is no score"
                f"{self._hint(q, reduce, log_q_weight, black_box, f)}"
            )
        # An estimator must evaluate log q(z) at a given z if it draws z without a path, or if q has several layers.
        is_given_z = "any" in self.latents or (isinstance(q, Markov) and (self.needs_log_q or self.needs_prior))
        if is_given_z and not getattr(q, "has_density", True):
            return "needs log q(z) of a given z, which a flow without an inverse does not have"
        if ("mean" if reduce.additive else "log_mean_exp") not in self.reductions:
            present, other = (_AVERAGES, _MULTI_SAMPLE) if reduce.additive else (_MULTI_SAMPLE, _AVERAGES)
            return f"cannot estimate gradients of {present}, only of {other}{self._cure('reductions')}"
        families = self.differentiates_f
        differentiates = families if isinstance(families, bool) else family.__name__ in families
        if differentiates and black_box:
            return "differentiates f in z, and f is a black box on the host, which has no gradient"
        if self.needs_log_q and not isinstance(log_q_weight, jax.core.Tracer):
            weight = float(log_q_weight)  # under jit, == would trace an array that is not a tracer
            if reduce.additive and weight == 0:
                return "needs log q(z) in the integrand, as with objective=elbo (in Python, log_q_weight above 0)"
            if not reduce.additive and not (reduce.importance_weighted and weight == 1):
                return (
                    "needs importance weights, as with objective=iwae (in Python, log_q_weight=1 and"
                    " reduce=log_mean_exp)"
                )
        if self.needs_prior and f is not None:
            if not isinstance(f, LogJoint):
                return "needs p(z) apart from p(x|z), as with objective=elbo, iwae or renyi (in Python, a LogJoint)"
            if not hasattr(f.prior, "with_path"):
                return (
                    f"needs a prior that can be reparameterized, and {type(f.prior).__name__} cannot be; choose"
                    " prior=learned or flow, with posterior=normal or laplace"
                )
        return None

    def _hint(self, q: Any, reduce: Reduction, *others: Any) -> str:
        """How an estimator that cannot handle several blocks or layers as a whole handles each of them, if it can."""
        if isinstance(q, Product):
            bound = "" if reduce.additive else "choose objective=elbo or elbo_analytic, and "
            return f"; {bound}give one estimator for each block, such as exact+reparam"
        if isinstance(q, Markov) and reduce.additive and not self.differentiates_f:
            return "" if self._reason(q.first, reduce, *others) else ", except with its option by_layer=true"
        return ""

    def _cure(self, field: str) -> str:
        """How the author of an estimator outside of this library says that it fits."""
        is_own = not self.make.__module__.startswith("vae.")
        return f" (if it can, say so in {field}= of its Entry)" if is_own else ""

    def _accepts(self, q: Any) -> bool:
        family = q if isinstance(q, type) else type(q)
        reparameterizable = "reparameterizable" in self.latents and hasattr(q, "rsample")
        return "any" in self.latents or reparameterizable or family.__name__ in self.latents


@dataclasses.dataclass(frozen=True)
class Joined(Entry):
    """The entry of several estimators, one for each block.

    Attributes:
      entries: the entries of the blocks' estimators.
    """

    entries: tuple[Entry, ...] = ()

    def refusal(
        self,
        q: Any,
        reduce: Reduction = mean,
        log_q_weight: float | Array = 0.0,
        black_box: bool = False,
        f: Integrand | None = None,
    ) -> str | None:
        if not reduce.additive:
            return f"{self.name} cannot estimate gradients of {_MULTI_SAMPLE}; choose objective=elbo or elbo_analytic"
        for entry in self.entries:
            if entry.needs_prior:
                return f"{self.name}: {entry.name} needs the prior of all blocks at once; choose reparam or stl there"
        number = getattr(q, "num_layers", 1)
        if number != len(self.entries):
            return (
                f"{self.name} needs a posterior of {len(self.entries)} blocks, and {type(q).__name__} has {number}; "
                "name one estimator for each block"
            )
        # The estimators check the later layers of a Markov posterior, which depend on samples, when they meet them.
        known = q.blocks if hasattr(q, "blocks") else (q.first,)
        refusals = (
            entry.refusal(block, reduce, log_q_weight, black_box)  # the f of a block is a plain function
            for entry, block in zip(self.entries, known, strict=False)
        )
        return next((refusal for refusal in refusals if refusal), None)


class EstimatorTable(Table):
    """The table of estimators. Its entries are `Entry`s."""

    def add(self, name: str, entry: Any) -> None:
        """Adds the estimator of an `Entry`, so that the command line, the laboratory and the tests know it.

        Raises:
          TypeError: if `entry` is no `Entry`.
          ValueError: if the name is taken, if the entry has an unknown reduction or latents that are no
            classes, or if its factory has no argument num_samples.
        """
        if not isinstance(entry, Entry):
            raise TypeError(f"the estimator {name} needs an Entry, such as Entry(factory), got {type(entry).__name__}")
        if not entry.reductions or not set(entry.reductions) <= set(EVERY_BOUND):
            raise ValueError(f"reductions of {name} must be some of {EVERY_BOUND}, got {entry.reductions}")
        general = ("any", "reparameterizable")
        is_family = lambda family: family in general or family[:1].isupper()
        if not isinstance(entry.latents, tuple) or not all(map(is_family, entry.latents)):
            raise ValueError(
                f"latents of {name} must be a tuple of any, reparameterizable, or classes of vae.distributions such as "
                f"Bernoulli, got {entry.latents!r}"
            )
        if not callable(entry.make) or "num_samples" not in inspect.signature(entry.make).parameters:
            raise ValueError(f"the estimator {name} needs a factory with the argument num_samples")
        named = dataclasses.replace(entry, name=name)
        super().add(name, dataclasses.replace(named, make=_guarded(named)))

    def find(self, name: str) -> Entry:
        """The entry with this name, or the entry of several names that are joined by "+".

        Raises:
          ValueError: if there is none. The sentence gives the name under which the table has it, or a similar name.
        """
        if name not in self:
            for ours, entry in self.items():
                if _letters(name) in (_letters(other.partition(" (")[0]) for other in (entry.display, *entry.also)):
                    raise ValueError(f"there is no estimator {name!r}; here it is called {ours}")
        return super().find(name)

    def joined(self, name: str) -> Joined:
        entries = tuple(self.find(part) for part in name.split("+"))
        return Joined(
            lambda num_samples=1: self.make_joined([(entry.name, {}) for entry in entries], num_samples=num_samples),
            latents=("Product", "Markov"),
            biased=any(entry.biased for entry in entries),
            differentiates_f=any(bool(entry.differentiates_f) for entry in entries),
            needs_log_q=any(entry.needs_log_q for entry in entries),
            chooses=any(entry.chooses for entry in entries),
            display=" + ".join(entry.display or entry.name for entry in entries),
            name=name,
            entries=entries,
        )

    def make_joined(self, parts: Sequence[tuple[str, Mapping[str, Any]]], *, num_samples: int = 1) -> Estimator:
        """An estimator for each block, from names and options. An estimator without an option num_samples draws
        `num_samples` samples, or its least number."""
        samples = [{"num_samples": max(num_samples, self.find(name).min_samples)} for name, _ in parts]
        return super().make_joined(
            [(name, own | dict(options)) for own, (name, options) in zip(samples, parts, strict=True)]
        )

    def search(self, text: str) -> list[str]:
        """The names of the entries whose name, other names or paper contain `text`; case and punctuation do not
        count."""
        fields = lambda name, entry: (name, entry.display, entry.paper, *entry.also)
        wanted = _letters(text)
        return [name for name, entry in self.items() if any(wanted in _letters(field) for field in fields(name, entry))]

    def make(self, name: str, *, by_layer: bool = False, **options: Any) -> Estimator:
        """Makes the estimator called `name`, for example `make("leave_one_out", num_samples=4)`.

        Args:
          name: a key of `BY_NAME`.
          by_layer: whether to wrap the estimator in `layerwise`, for a posterior with several stochastic layers.
          **options: keyword arguments of the estimator's factory, `num_samples` among them.

        Raises:
          ValueError: if there is no such estimator, if the value of an option is invalid, or if `by_layer` is set for
            an estimator that differentiates f.
          TypeError: if the estimator has no such option.
        """
        if by_layer and self.find(name).differentiates_f:
            raise ValueError(
                f"{name} cannot work layer by layer (by_layer=True), because it differentiates f in z; "
                f"choose an estimator that does not, for example leave_one_out"
            )
        estimator = super().make(name, **options)
        return layerwise(estimator) if by_layer else estimator

    def options(self, name: str) -> dict[str, Value]:
        return super().options(name) | {"by_layer": False}

    @staticmethod
    def factory(entry: Entry) -> Callable[..., Estimator]:
        return entry.make


def _letters(text: str) -> str:
    """The letters and digits of a text, in lower case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


BY_NAME = EstimatorTable("estimator", reserved=("num_samples",))
BY_NAME.join = blocks
add = BY_NAME.add
make = BY_NAME.make


def fitting(
    q: Any,
    reduce: Reduction = mean,
    log_q_weight: float | Array = 0.0,
    black_box: bool = False,
    f: Integrand | None = None,
) -> list[str]:
    """The names of the estimators that can differentiate this expectation; the arguments are those of `refusal`."""
    expectation = (q, reduce, log_q_weight, black_box, f)
    return [name for name, entry in BY_NAME.items() if entry._reason(*expectation) is None]


# Estimators combine `[K, *batch, D]` with `[*batch, D]`, which works even if the user lets jax refuse that.
_broadcasting = jax.numpy_rank_promotion("allow")


def _guarded(entry: Entry) -> Callable[..., Estimator]:
    """The factory of `entry`, changed so that its estimators check q, `reduce` and `log_q_weight`, and refuse a second
    derivative that would be wrong."""
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
            _check_distribution(q)
            _raise(entry.refusal_at_init(q))
            with _broadcasting:
                return estimator.init(key, q, context)

        def estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None) -> Estimate:
            if not isinstance(reduce, Reduction):
                raise TypeError(
                    f"reduce must be a Reduction, such as mean or log_mean_exp, got {type(reduce).__name__}"
                )
            _check_distribution(q)
            if jnp.ndim(log_q_weight) != 0:
                raise ValueError(f"log_q_weight must be one number, got shape {list(jnp.shape(log_q_weight))}")
            # With a plain f, an estimator that needs the prior is a different one, which is right too.
            unknown = entry.needs_prior and not isinstance(f, LogJoint)
            _raise(entry.refusal(q, reduce, log_q_weight, f=None if unknown else f))
            if not jax.tree.leaves((params, state)) and _has_arrays_of_its_own(estimator, q, context):
                raise ValueError(
                    f"{entry.name} needs the params and the state that estimator.init(key, q, context) returns"
                )
            with _broadcasting:
                result = estimator.estimate(params, state, key, q, f, reduce, log_q_weight, context)
            if entry.twice_differentiable or not isinstance(result, Estimate):
                return result
            return result._replace(value=first_derivative_only(result.value))

        return Estimator(init, estimate)

    return make


def _has_arrays_of_its_own(estimator: Estimator, q: Any, context: Any) -> bool:
    with _broadcasting:
        return bool(jax.tree.leaves(jax.eval_shape(lambda: estimator.init(jax.random.key(0), q, context))))


def _check_distribution(q: Any) -> None:
    is_pytree = jax.tree.structure(q) != jax.tree.structure(0)
    if not (is_pytree and hasattr(q, "batch_shape") and hasattr(q, "log_prob") and _takes_number_of_samples(q)):
        raise TypeError(
            "q must be a pytree with batch_shape, sample(key, K) -> [K, *batch, D] and log_prob(z) -> [K, *batch], and"
            f" {type(q).__name__} is not; vae.distributions has such families"
        )


def _takes_number_of_samples(q: Any) -> bool:
    """Whether `q.sample` takes a number of samples, and not a shape as in numpyro."""
    return hasattr(q, "sample") and "sample_shape" not in inspect.signature(q.sample).parameters


def _raise(refusal: str | None) -> None:
    if refusal is not None:
        raise ValueError(refusal)
