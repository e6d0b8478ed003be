"""Where the cube lies when an episode begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

CUBE_HALF_M = 0.02
POSITION_LOW_M = (0.0, 0.4)
POSITION_HIGH_M = (0.2, 0.6)


@dataclass(frozen=True)
class CubeScene:
    """One start of the hand-over task, decided by its seed alone. The table top is z = 0, x points to the right arm."""

    seed: int
    max_yaw: float = 0.0  # rad; the cube is turned by up to this angle to either side

    @cached_property
    def position(self) -> np.ndarray:
        """(3,) centre of the cube in m, resting on the table."""
        x, y = self._random().uniform(POSITION_LOW_M, POSITION_HIGH_M)
        return np.array([x, y, CUBE_HALF_M])

    @cached_property
    def yaw(self) -> float:
        """Turn of the cube about the vertical, in rad; drawn after the position, so it does not move the cube."""
        random = self._random()
        random.uniform(size=2)
        return float(random.uniform(-1, 1) * self.max_yaw)

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)
