"""What leads demonstrations off their plan's path, so that a policy sees how the plan comes back to it.

The noise goes to the actuators and not into the recorded command, which therefore steers back. A pause makes plan time
stand, so that the time since the start does not tell what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGMAS_RAD = (0.0, 0.01, 0.02)  # one is drawn for each episode
TIME_CONSTANT_S = 0.4
PAUSED_SHARE = 1 / 3  # of the episodes
PAUSE_S = (0.2, 1.0)
GAP_S = (1.0, 5.0)  # of plan time between two pauses
RAMP_S = 0.2  # in which plan time comes to rest, and gets going again


@dataclass(frozen=True)
class Disturbance:
    """Of one episode."""

    sigma_rad: float = 0.0
    pauses: tuple[tuple[float, float], ...] = ()  # plan time at which one begins, time for which it stands; s

    @classmethod
    def draw(cls, random: np.random.Generator, plan_s: float) -> Disturbance:
        """For an episode whose plan takes `plan_s`."""
        sigma_rad = float(random.choice(SIGMAS_RAD))
        pauses, at_s = [], float(random.uniform(0, GAP_S[1]))
        paused = random.uniform() < PAUSED_SHARE
        while paused and at_s < plan_s:
            pauses.append((at_s, float(random.uniform(*PAUSE_S))))
            at_s += float(random.uniform(*GAP_S))
        return cls(sigma_rad, tuple(pauses))

    def plan_times(self, plan_s: float, rate_hz: float) -> np.ndarray:
        """Plan time (N,) in s of every control tick, from 0 to the end of the plan."""
        times, period_s = [0.0], 1 / rate_hz
        for begins_s, stands_s in (*self.pauses, (plan_s, 0.0)):
            while times[-1] < min(begins_s, plan_s - 1e-9):
                times.append(times[-1] + period_s)
            if begins_s < plan_s:
                ramps = [0, RAMP_S, RAMP_S + stands_s, 2 * RAMP_S + stands_s]
                pace = np.interp(np.arange(0, ramps[-1], period_s), ramps, [1, 0, 0, 1])
                times += (times[-1] + np.cumsum(pace) * period_s).tolist()
        return np.minimum(times, plan_s)

    def noise(self, random: np.random.Generator, ticks: int, rate_hz: float, moved: np.ndarray) -> np.ndarray:
        """(ticks, J) rad for the joints `moved` (J,) bool: an Ornstein-Uhlenbeck process that begins at 0.

        Its exact discretisation: Gillespie, Physical Review E 54 (1996) 2084.
        """
        kept = np.exp(-1 / (TIME_CONSTANT_S * rate_hz))
        kicks = random.normal(size=(ticks, len(moved))) * moved * self.sigma_rad * np.sqrt(1 - kept**2)
        noise = np.zeros_like(kicks)
        for tick in range(1, ticks):
            noise[tick] = kept * noise[tick - 1] + kicks[tick]
        return noise
