"""A mobile base: velocities of a plan, inside its limits, to zero where there is no plan."""

from __future__ import annotations

import numpy as np

from rdt_ros.robot.description import Base

NO_TIMES = np.zeros(0, np.int64)
NO_ROWS = np.zeros((0, 3))
LEAST_RATE = 0.1  # of plan time; what a base asks for beyond ten times its limit is cut off instead


class BaseFollower:
    """Velocity commands (3,) of a base: vx, vy in m/s, yaw rate in rad/s.

    Its rows lie on the same plan time as those of the arms. Between rows the velocity is linear; after the last row it
    is zero. Every change keeps the acceleration limits, also that of a stop.
    """

    def __init__(self, base: Base, tick_s: float) -> None:
        self._velocity_limit = np.array(base.velocity)
        self._driven = self._velocity_limit > 0
        self._change = np.array(base.acceleration) * tick_s
        self.velocity = np.zeros(3)
        self.clear()

    def clear(self) -> None:
        """Cuts off all that was planned."""
        self._times_ns, self._rows = NO_TIMES, NO_ROWS

    def place(self, due_ns: np.ndarray, rows: np.ndarray) -> None:
        """Lays rows (T, 3) due at plan times (T,) over what was planned."""
        kept = self._times_ns < due_ns[0]
        self._times_ns = np.concatenate([self._times_ns[kept], due_ns])
        self._rows = np.concatenate([self._rows[kept], rows])

    def rate(self, plan_ns: int) -> float:
        """How fast plan time may run here, up to 1: beyond its velocity limit the base slows the arms down with it.

        An axis that it cannot drive (limit 0) slows nothing.
        """
        excess = np.abs(self._wanted(plan_ns))[self._driven] / self._velocity_limit[self._driven]
        return max(1 / max(1.0, *excess.tolist()), LEAST_RATE)

    def tick(self, plan_ns: int, rate: float) -> np.ndarray:
        """The velocity (3,) of this tick, for plan time that runs at `rate`; rate 0 brakes."""
        wanted = np.clip(self._wanted(plan_ns) * rate, -self._velocity_limit, self._velocity_limit)
        self.velocity = self.velocity + np.clip(wanted - self.velocity, -self._change, self._change)
        return self.velocity

    def _wanted(self, plan_ns: int) -> np.ndarray:
        if not len(self._times_ns) or plan_ns >= self._times_ns[-1]:
            return np.zeros(3)
        after = int(np.searchsorted(self._times_ns, plan_ns, side="right"))
        if after == 0:
            return np.zeros(3)
        begin_ns, end_ns = self._times_ns[after - 1 : after + 1].tolist()
        part = (plan_ns - begin_ns) / (end_ns - begin_ns)
        return self._rows[after - 1] * (1 - part) + self._rows[after] * part
