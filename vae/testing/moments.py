"""Means and standard errors of draws that arrive in chunks."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Moments(NamedTuple):
    """The number of draws, their mean, and the sum of squares around it."""

    count: int = 0
    mean: Float[np.ndarray, "coordinates"] | float = 0.0
    square: Float[np.ndarray, "coordinates"] | float = 0.0

    def add(self, drawn: Float[np.ndarray, "draws coordinates"]) -> "Moments":
        """The moments of these draws too (Chan, Golub & LeVeque 1979)."""
        added = len(drawn)
        count = self.count + added
        with np.errstate(invalid="ignore", over="ignore"):  # the moments of infinite draws are not finite
            centre = np.mean(drawn, axis=0)
            square = self.square + np.sum(np.square(drawn - centre), axis=0)
            square = square + np.square(centre - self.mean) * (self.count * added / count)
            return Moments(count, self.mean + (centre - self.mean) * (added / count), square)

    @property
    def stderr(self) -> Float[np.ndarray, "coordinates"]:
        return np.sqrt(self.square / self.count / (self.count - 1))
