"""What a masked policy is shown."""

from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.evaluation.ablation import MaskedPolicy
from rdt_ros.policy.interface import joint_chunk
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
CAMERAS = tuple(camera.name for camera in ROBOT.cameras)


class Noting:
    def __init__(self) -> None:
        self.given: list[tuple] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def step(self, history, *, instruction=None, committed=None):
        self.given.append((history, instruction, committed))
        return joint_chunk(ROBOT, history[-1], np.zeros((64, 14), np.float32), instruction)


@pytest.fixture
def history() -> list[Observation]:
    def observation(tick: int) -> Observation:
        stamp_ns = tick * ROBOT.period_ns
        pictures = tuple(Picture(camera, stamp_ns, b"jpeg") for camera in CAMERAS)
        return Observation(stamp_ns, ROBOT.name, pictures, ROBOT.joint_names, np.zeros(14, np.float32))

    return [observation(1), observation(2)]


def test_without_history_the_newest_is_left_whole(history):
    policy = Noting()
    MaskedPolicy(policy, history=False).step(history, instruction="go")
    (shown, instruction, committed) = policy.given[0]
    assert [o.stamp_ns for o in shown] == [2 * ROBOT.period_ns] and shown[0].pictures == history[1].pictures
    assert (instruction, committed) == ("go", None)


def test_without_a_camera_the_others_and_the_past_are_left(history):
    policy, committed = Noting(), np.zeros((3, 14))
    masked = MaskedPolicy(policy, without_cameras=[CAMERAS[1]])
    masked.reset()
    chunk = masked.step(history, committed=committed)
    shown = policy.given[0][0]
    assert [[p.camera for p in o.pictures] for o in shown] == [[CAMERAS[0], CAMERAS[2]]] * 2
    assert policy.given[0][2] is committed and policy.resets == 1 and chunk.stamp_ns == 2 * ROBOT.period_ns
    assert [len(o.pictures) for o in history] == [3, 3]  # what was given stays as it was
