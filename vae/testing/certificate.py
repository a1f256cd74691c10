"""The results of `certify` and of `certify_distribution`."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether an estimator is unbiased as far as its draws can tell. `bool` gives the verdict and `str` the reasons.

    Attributes:
      certified: whether the standard error is small enough and no deviation is beyond chance.
      reason: why not; empty if certified.
      bias: the bias along the exact gradient, relative to its length.
      bias_low: the lower end of the 95 % interval of the bias.
      bias_high: the upper end.
      coordinate: the name of the coordinate with the largest |z|, such as "logits[0, 1]".
      z: the deviation of this coordinate's mean from its exact value, in standard errors.
      critical_z: the |z| that chance exceeds in at most 1 % of the certificates of unbiased estimators.
      relative_stderr: the length of the standard errors over the length of the exact gradient.
      draws: number of draws.
      ratios: for each parameter, the length of the mean gradient along the exact one, relative to the exact length.
      multiple: the number by which a wrong gradient must be divided, if it is a multiple of the exact one up to chance.
      slips: certificates of estimators with a known mistake, which were made in the same way.
    """

    certified: bool
    reason: str
    bias: float
    bias_low: float
    bias_high: float
    coordinate: str
    z: float
    critical_z: float
    relative_stderr: float
    draws: int
    ratios: Mapping[str, float]
    multiple: float | None
    slips: Mapping[str, "Certificate"] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.certified

    def __str__(self) -> str:
        lines = [f"{'certified' if self.certified else f'NOT CERTIFIED: {self.reason}'}", f"  {self._figures()}"]
        if not self.certified:
            shares = ", ".join(f"{name} {100 * ratio:.1f} %" for name, ratio in self.ratios.items())
            lines.append(f"  length along the truth, by parameter: {shares}")
        if self.multiple is not None:
            lines.append(f"  up to chance, the mean gradient is {self.multiple:.3g} times the truth in all coordinates")
        lines += [
            f"  beside it, {name}: {'not caught' if slip else 'caught'}, {slip._figures()}"
            for name, slip in self.slips.items()
        ]
        return "\n".join(lines)

    def _figures(self) -> str:
        return (
            f"bias along the truth {100 * self.bias:.2f} % [{100 * self.bias_low:.2f}, {100 * self.bias_high:.2f}], "
            f"largest deviation {self.coordinate} with |z| = {abs(self.z):.1f} (chance: {self.critical_z:.1f}), "
            f"standard error {100 * self.relative_stderr:.2f} %, {self.draws:,} draws"
        )


class Check(NamedTuple):
    """The coordinate that deviates most in one check of a distribution.

    Attributes:
      coordinate: its name.
      deviation: the mean of its deviation from what it should be.
      stderr: the standard error of this mean.
      z: the deviation in standard errors.
    """

    coordinate: str
    deviation: float
    stderr: float
    z: float


@dataclasses.dataclass(frozen=True)
class DistributionCertificate:
    """Whether a distribution is what it should be as far as its draws can tell. `bool` gives the verdict, and `str` the
    reasons.

    Attributes:
      certified: whether no check found a deviation beyond chance.
      reason: why not; empty if certified.
      checks: the largest deviation in each check, by its name.
      critical_z: the |z| that chance should exceed in 0.1 % of the certificates of right distributions.
      draws: number of draws.
    """

    certified: bool
    reason: str
    checks: Mapping[str, Check]
    critical_z: float
    draws: int

    def __bool__(self) -> bool:
        return self.certified

    def __str__(self) -> str:
        verdict = "certified" if self.certified else f"NOT CERTIFIED: {self.reason}"
        lines = [
            f"  {name}: largest deviation at {check.coordinate}, {check.deviation:.2g} +- {check.stderr:.2g}, "
            f"|z| = {abs(check.z):.1f}"
            for name, check in self.checks.items()
        ]
        return "\n".join([f"{verdict}; {self.draws:,} draws (chance: |z| = {self.critical_z:.1f})", *lines])
