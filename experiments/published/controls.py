"""Negative controls: a claim measured again with a planted slip (slips.py), which must contradict the claim.

Published and measured numbers never agree exactly. So each claim that has a control says by code what contradicts it: a
number or a ranking that is away from the published one by more than its own interval. The number that this project
obtained must not contradict the claim, and the number of the control must.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# A number in the column "obtained", with its name in a ranking: "rebar 0.2031 ± 0.0001" or "75.6 [72.2, 79.1]".
FIGURE = re.compile(
    r"(?:(?P<name>[a-z]\w*) )?(?P<value>-?\d[\d.e+-]*)"
    r"(?: ± (?P<error>[\d.e-]+)| \[(?P<low>[\d.e+-]+), (?P<high>[\d.e+-]+)\])?"
)


class Figure(NamedTuple):
    """A number with its interval: 95 %, or two standard errors."""

    value: float
    low: float
    high: float


Contradiction = Callable[[dict[str, Figure]], bool]


class Control(NamedTuple):
    """The negative control of a claim.

    Attributes:
      slip: The name of the slip in slips.py.
      read: Reads the folder of the control, as the claim's own reader reads the folder of the claim.
      contradicts: Whether the figures contradict the claim. A ranking has a figure for each name, and any other result
        has one figure, whose name is "".
      replaces: The right estimator, which has the place of the slip in the ranking of the claim. The control may rank
        the right estimator too.
    """

    slip: str
    read: Callable[[Path], dict[str, Any]]
    contradicts: Contradiction
    replaces: str = ""

    def columns(self, path: Path) -> dict[str, str]:
        """The columns of published.csv about the control. They say that the control fails, as `check` ensures."""
        measured = self.read(path)
        return {"control": f"{self.slip}: {measured['obtained']}, fails", "control_commit": measured["commit"]}

    def check(self, row: dict[str, str]) -> None:
        """Refuses a row of published.csv whose control meets the claim, or which contradicts its own claim.

        Raises:
          ValueError: If the control proves nothing.
        """
        if self.contradicts(figures(row["obtained"])):
            raise ValueError(f"{row['result']}: {row['obtained']} contradicts the claim, so its control proves nothing")
        obtained = slip_and_obtained(row)[1]
        measured = figures(obtained)
        if self.slip in measured:
            measured[self.replaces] = measured[self.slip]
        if not self.contradicts(measured):
            raise ValueError(f"{row['result']}: the control {self.slip} meets the claim: {obtained}")


def slip_and_obtained(row: dict[str, str]) -> tuple[str, str]:
    """The name of the slip, and the number or ranking that was obtained with it."""
    slip, _, obtained = row["control"].removesuffix(", fails").partition(": ")
    return slip, obtained


def figures(obtained: str) -> dict[str, Figure]:
    """The numbers of a column "obtained" by their names."""
    found = {}
    for match in FIGURE.finditer(obtained.partition(" (")[0].partition(" nats")[0]):
        value = float(match["value"])
        reach = 2 * float(match["error"] or 0)
        found[match["name"] or ""] = Figure(
            value, float(match["low"] or value - reach), float(match["high"] or value + reach)
        )
    return found


# --- What contradicts a claim


def away_from(published: float, tolerance: float = 0.0) -> Contradiction:
    """The whole interval is farther than `tolerance` from the published number."""

    def contradicts(found: dict[str, Figure]) -> bool:
        return found[""].low > published + tolerance or found[""].high < published - tolerance

    return contradicts


def above(limit: float) -> Contradiction:
    """The whole interval is above the limit."""
    return lambda found: found[""].low > limit


def below(limit: float) -> Contradiction:
    """The whole interval is below the limit."""
    return lambda found: found[""].high < limit


def out_of_order(*names: str) -> Contradiction:
    """A name is behind the next one, which has a smaller figure, by more than the intervals of both."""

    def behind(first: Figure, second: Figure) -> bool:
        return first.value - second.value > math.hypot(first.high - first.value, second.high - second.value)

    return lambda found: any(behind(found[a], found[b]) for a, b in zip(names, names[1:], strict=False))


def nearer_to_the_others(name: str, best: str, other: str) -> Contradiction:
    """The figure of `name` is above the middle between those of `best` and `other`."""
    return lambda found: found[name].low > (found[best].value + found[other].value) / 2
