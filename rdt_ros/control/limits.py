"""Which velocities are allowed at a tick: pure functions, exact in discrete time.

A command moves a joint with a constant velocity during a tick. All limits together become one window of velocities a
joint; it always holds the hardest braking, so whoever stays in the window can never be driven out of the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdt_ros.robot.description import Robot

SLACK = 1e-6  # rad/s by which a wanted velocity may miss its window unnoticed: rounding shall not slow an arm
TINY = 1e-12


def stoppable(distance: np.ndarray, deceleration: np.ndarray, tick_s: float) -> np.ndarray:
    """The largest velocity (J,) of the next tick from which a joint can still come to rest within `distance` (J,).

    With n further ticks of braking the way is (n + 1) v t - a t^2 n (n + 1) / 2; no distance, no velocity.
    """
    way = np.maximum(distance, 0)
    unit = deceleration * tick_s**2
    n = np.floor((np.sqrt(1 + 8 * way / unit) - 1) / 2)
    return (way + unit * n * (n + 1) / 2) / ((n + 1) * tick_s)


def slowed(velocity: np.ndarray, deceleration: np.ndarray, tick_s: float) -> np.ndarray:
    """Velocity (J,) after a tick of braking, zero where the joint comes to rest."""
    return np.sign(velocity) * np.maximum(np.abs(velocity) - deceleration * tick_s, 0)


def scale_into(want: np.ndarray, low: np.ndarray, high: np.ndarray) -> float | None:
    """The largest factor up to 1 that brings all velocities `want` (J,) into their windows; None where none does."""
    low, high = low - SLACK, high + SLACK
    moving = np.abs(want) > SLACK
    if np.any(~moving & ((low > 0) | (high < 0))):
        return None
    divisor = np.where(moving, want, 1)
    least = np.where(moving, np.minimum(low / divisor, high / divisor), 0)
    most = np.where(moving, np.maximum(low / divisor, high / divisor), 1)
    factor = min(1.0, float(most.min()))
    return factor if factor >= max(0.0, float(least.max())) else None


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of a robot's joints (J,) for commands that are `tick_s` apart; rad, rad/s, rad/s^2, openings."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    stop_deceleration: np.ndarray  # of a braking that no plan asked for; a gripper's is its acceleration
    tick_s: float

    @classmethod
    def of(cls, robot: Robot, tick_s: float) -> Limits:
        """The limits of the robot file."""
        acceleration = robot.limits("acceleration")
        return cls(
            lower=robot.limits("lower"),
            upper=robot.limits("upper"),
            velocity=robot.limits("velocity"),
            acceleration=acceleration,
            stop_deceleration=np.where(robot.is_gripper, acceleration, robot.stop_deceleration),
            tick_s=tick_s,
        )

    def reach(self, velocity: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocity (J,) of the next tick that velocity and acceleration limits allow.

        `scale` is the part of the velocity limits that counts.
        """
        change, most = self.acceleration * self.tick_s, self.velocity * scale
        return np.maximum(velocity - change, -most), np.minimum(velocity + change, most)

    def window(self, position: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same (J,) with position limits: no choice inside can ever force a joint beyond any limit.

        A joint outside its position limits may only stay or move back.
        """
        low, high = self.reach(velocity)
        low = np.maximum(low, -stoppable(position - self.lower, self.acceleration, self.tick_s))
        high = np.minimum(high, stoppable(self.upper - position, self.acceleration, self.tick_s))
        braking = slowed(
            velocity, self.acceleration, self.tick_s
        )  # always allowed: rounding shall not close the window
        return np.minimum(low, braking), np.maximum(high, braking)

    def braked(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Velocity (J,) of the next tick of a stop: along the present motion, harder only where a limit is near."""
        velocity = slowed(velocity, self.stop_deceleration, self.tick_s)
        back = -stoppable(position - self.lower, self.acceleration, self.tick_s)
        ahead = stoppable(self.upper - position, self.acceleration, self.tick_s)
        return np.clip(velocity, np.minimum(back, 0), np.maximum(ahead, 0))

    def approach(self, offset: np.ndarray) -> np.ndarray:
        """Velocity (J,) that takes the arm straight over an `offset` (J,) and can end there, at half acceleration."""
        way = np.abs(offset)
        speed = np.minimum(stoppable(way, self.acceleration / 2, self.tick_s), self.velocity)
        return offset * float(np.min(np.where(way > TINY, speed / np.maximum(way, TINY), 1 / self.tick_s)))

    def chase(self, offset: np.ndarray) -> np.ndarray:
        """Velocity (J,) at which each joint by itself makes up for an `offset` (J,) without going beyond it."""
        return np.sign(offset) * np.minimum(stoppable(np.abs(offset), self.acceleration, self.tick_s), self.velocity)
