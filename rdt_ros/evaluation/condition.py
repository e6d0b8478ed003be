"""What is evaluated in closed loop: everything but the seeds."""

from __future__ import annotations

from dataclasses import dataclass

from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot

POLICIES = ("rdt", "scripted")
WHOLE = 1e-6  # ticks: closer than this to a whole number is one


@dataclass(frozen=True)
class Condition:
    """One policy on one task."""

    task: str
    instruction: str  # what the policy is told; the task alone judges
    policy: str = "rdt"  # or "scripted": the task's expert
    checkpoint: str = ""
    robot: str = ""  # empty: the checkpoint's, without one the simulated ALOHA
    instructions: str = ""  # language embeddings; empty: the checkpoint's own
    encoder: str = ""  # for words without embeddings
    vision: str = ""  # empty: the checkpoint's
    device: str = "auto"
    backend: str = "auto"
    noise_seed: int = 0
    replan_rows: int = 32
    joining: str = "crossfade"
    latency_ms: float = 0.0
    max_yaw: float = 0.0  # rad
    mask_history: bool = False
    without_cameras: tuple[str, ...] = ()

    def latency_ticks(self, robot: Robot) -> int:
        """The injected latency in control ticks; InputError where that is no whole number."""
        ticks = self.latency_ms * 1e6 / robot.period_ns
        if self.latency_ms < 0 or abs(ticks - round(ticks)) > WHOLE:
            raise InputError(
                f"latency: expected a multiple of the control period of {robot.name}, {robot.period_ns / 1e6:g} ms, "
                f"found {self.latency_ms:g} ms"
            )
        return round(ticks)
