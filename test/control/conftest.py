from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rdt_ros.control.executor import Executor, ExecutorConfig
from rdt_ros.robot.description import Joint, JointGroup, JointTopic, Robot, Wire
from rdt_ros.types import NS_PER_S, ActionChunk, JointSample

START_NS = 10 * NS_PER_S


def toy_robot() -> Robot:
    """Two arm joints and a gripper in two groups: limits 1, 2 and 4 /s, 10, 20 and 40 /s^2."""

    def joint(name: str, slot: str, kind: str, lower: float, upper: float, velocity: float) -> Joint:
        wire = Wire(0.0, 2.0)
        return Joint(name, kind, slot, lower, upper, velocity, 10 * velocity, measured_wire=wire, command_wire=Wire())

    def group(name: str, start: int, *joints: Joint) -> JointGroup:
        return JointGroup(name, joints, start, "", JointTopic(f"{name}/measured"), JointTopic(f"{name}/command"), None)

    shoulder = joint("shoulder", "left_arm_joint_0_pos", "revolute", -1.5, 1.5, 1.0)
    gripper = joint("gripper", "left_gripper_open", "gripper", 0.0, 1.0, 4.0)
    elbow = joint("elbow", "right_arm_joint_0_pos", "revolute", -2.0, 2.0, 2.0)
    return Robot(
        name="toy",
        description="",
        control_rate_hz=25,
        action_offset_steps=1,
        stop_deceleration=8.0,
        groups=(group("left", 0, shoulder, gripper), group("right", 2, elbow)),
        cameras=(),
        home=((0.0, 0.5, 0.0), (0.3, 0.6, -0.3)),
        base=None,
        poses=(),
    )


class Rig:
    """An executor with measured arms that follow at once, and a time that the test moves on."""

    def __init__(self, robot: Robot, pose: tuple[float, ...], **settings: object) -> None:
        settings.setdefault("max_following_error", 100.0)
        self.robot, self.now_ns, self.steady_ns, self.sensors_alive = robot, START_NS, 0, True
        self.pose = np.array(pose, float)
        self.executor = Executor(robot, ExecutorConfig(robot=robot.name, **settings), lambda: self.steady_ns)
        self.chunk_id = 0
        self.measure()

    @property
    def tick_s(self) -> float:
        return self.executor.tick_ns / NS_PER_S

    def measure(self) -> None:
        if self.sensors_alive:
            self.measured = self.pose.copy()
            for group in self.robot.groups:
                self.executor.measured(group, JointSample(self.now_ns, self.pose[group.columns]))

    def tick(self, count: int = 1) -> list[np.ndarray | None]:
        """Positions sent at the next ticks, None where nothing was sent."""
        sent: list[np.ndarray | None] = []
        for _ in range(count):
            self.now_ns += self.executor.tick_ns
            self.steady_ns += self.executor.tick_ns
            self.measure()
            command = self.executor.tick(self.now_ns)
            sent.append(None if command is None else command.position)
            if command is not None:
                assert command.stamp_ns == self.now_ns
                self.pose = np.where(self.robot.is_gripper, self.pose, command.position)
        return sent

    def run_until(self, state: object, most: int = 2000) -> np.ndarray:
        """All commands (N, J) of the next ticks until that state is reached, one at least."""
        sent = self.tick()
        while self.executor.state != state:
            assert len(sent) < most, f"{state} was not reached"
            sent += self.tick()
        return np.array(sent)

    def chunk(self, rows: object, **changes: object) -> ActionChunk:
        self.chunk_id += 1
        chunk = ActionChunk(
            stamp_ns=self.now_ns,
            robot=self.robot.name,
            period_s=self.robot.period_ns / NS_PER_S,
            offset_steps=1,
            channels=self.robot.channels,
            rows=np.asarray(rows, np.float32).reshape(-1, len(self.robot.joints)),
            epoch=self.executor.epoch,
            chunk_id=self.chunk_id,
        )
        return dataclasses.replace(chunk, **changes)

    def offer(self, rows: object, **changes: object) -> str | None:
        return self.executor.offer(self.chunk(rows, **changes), self.now_ns)

    def enable(self) -> str | None:
        return self.executor.enable(self.now_ns)


@pytest.fixture
def toy() -> Robot:
    return toy_robot()


@pytest.fixture
def make_rig(toy):
    """Builds an enabled rig whose measured gripper is far from any sensible command."""

    def make(pose: tuple[float, ...] = (0.0, 0.77, 0.0), **settings: object) -> Rig:
        rig = Rig(toy, pose, **settings)
        assert rig.enable() is None
        return rig

    return make
