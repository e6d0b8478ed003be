"""Draws what the cameras of a simulated robot see."""

from __future__ import annotations

from rdt_ros.robot.description import Robot
from rdt_ros.sim.camera import CameraRenderer
from rdt_ros.sim.robot import SimRobot
from rdt_ros.types import Picture


class SimCameras:
    """All cameras of a robot in one simulator: a `Draw` of `roll_out`. Use it in the thread that made it.

    Where torch is used in the same process, torch._dynamo is to be imported before: importing triton after a software
    render crashes the process.
    """

    def __init__(self, robot: Robot, sim: SimRobot) -> None:
        self._cameras, self._renderer = robot.cameras, CameraRenderer(sim.model)

    def __call__(self, sim: SimRobot) -> tuple[Picture, ...]:
        """Their pictures now, in the robot's order, as JPEG."""
        render, encode = self._renderer.render, self._renderer.encode
        return tuple(encode(camera, sim.time_ns, render(sim.data, camera)) for camera in self._cameras)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._renderer.close()
