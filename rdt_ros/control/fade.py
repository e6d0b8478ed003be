"""How a disagreement of two chunks fades out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdt_ros.types import NS_PER_S


@dataclass(frozen=True, eq=False)
class Fade:
    """A shift (J,) with its slope and bend per second of plan time, that comes to rest at zero after `seconds`.

    It is the polynomial of least degree, the fifth, with these six ends. A fade that is begun anew in the middle of
    another with what is left of it takes hardly longer than the one would have.
    """

    start_ns: int
    seconds: float
    shift: np.ndarray
    slope: np.ndarray
    bend: np.ndarray

    def at(self, times_ns: np.ndarray) -> np.ndarray:
        """(T, J) at plan times (T,); before the start as at the start."""
        u = np.clip((times_ns - self.start_ns) / NS_PER_S / self.seconds, 0, 1)[:, None]
        return (
            self.shift * (1 - 10 * u**3 + 15 * u**4 - 6 * u**5)
            + self.slope * self.seconds * (u - 6 * u**3 + 8 * u**4 - 3 * u**5)
            + self.bend * self.seconds**2 / 2 * (u**2 - 3 * u**3 + 3 * u**4 - u**5)
        )

    def bend_at(self, time_ns: int) -> np.ndarray:
        """(J,) its bend at one of its plan times, zero after its end."""
        u = (time_ns - self.start_ns) / NS_PER_S / self.seconds
        if not 0 <= u < 1:
            return np.zeros(len(self.shift))
        return (
            self.shift / self.seconds**2 * (-60 * u + 180 * u**2 - 120 * u**3)
            + self.slope / self.seconds * (-36 * u + 96 * u**2 - 60 * u**3)
            + self.bend / 2 * (2 - 18 * u + 36 * u**2 - 20 * u**3)
        )
