"""What every kind of episode file gives, whatever its layout, and the same seen as another robot's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.robot.description import JointGroup, Robot
from rdt_ros.robot.vector import SLOTS

# Hands on what it is given, and shows somebody how far it is; the number is how much to expect.
Track = Callable[[Iterable, int], Iterable]


def untracked(items: Iterable, expected: int) -> Iterable:
    """Shows nothing."""
    return items


@dataclass(frozen=True, eq=False)
class Content:
    """The small arrays of an episode, in the project's units, and a way to each picture. N steps, J joints."""

    robot: Robot
    robot_text: str  # the robot file; empty where the episode does not carry it
    instruction: str
    ticks: np.ndarray  # (N,) int64 ns
    action: np.ndarray  # (N, J) float32
    vectors: Mapping[str, np.ndarray]  # field of the Observation -> (N, columns) float32, NaN where it had none
    pictures: Mapping[str, Callable[[int], bytes]]  # camera -> JPEG of a step, true colours in a standard decoder
    poses: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> (N, 7) float32
    stamps: Mapping[str, np.ndarray] = field(default_factory=dict)  # "kind/name" -> (N,) int64 ns, -1 where none
    action_source: str = "leader"
    complete: bool = True  # False: its recording was interrupted
    other_instructions: tuple[str, ...] = ()  # the same in other words, where the file has them

    def rows(self, start: int, stop: int) -> Content:
        """Steps from `start` to before `stop`."""
        part = slice(start, stop)
        return dataclasses.replace(
            self,
            ticks=self.ticks[part],
            action=self.action[part],
            vectors={name: values[part] for name, values in self.vectors.items()},
            pictures={camera: _later(jpeg, start) for camera, jpeg in self.pictures.items()},
            poses={name: values[part] for name, values in self.poses.items()},
            stamps={name: values[part] for name, values in self.stamps.items()},
        )

    def with_action_offset(self, offset_steps: int) -> Content:
        """The same with `/action[t]` in force at tick t + offset; steps at an end whose action is unknown are left out.

        Rows are shifted whatever their ticks: across a tick without a step an action moves by that much more.
        """
        shift, steps = offset_steps - self.robot.action_offset_steps, len(self.ticks)
        kept = self.rows(max(0, -shift), max(0, steps - max(0, shift)))
        start = max(0, shift)
        return dataclasses.replace(kept, action=self.action[start : start + len(kept.ticks)])

    def as_robot(self, robot: Robot, robot_text: str) -> Content:
        """The same as if this robot had recorded it: joints by slot, cameras by role, actions at its offset.

        InputError where it has a joint or a camera that the episode has none for.
        """
        shifted = self.with_action_offset(robot.action_offset_steps)
        columns = [self._column(joint.slot) for joint in robot.joints]
        cameras = {camera.name: self._camera(camera.role) for camera in robot.cameras}
        groups = {group.name: self._group(group).name for group in robot.groups}
        stamps = {f"camera/{name}": f"camera/{own}" for name, own in cameras.items()}
        stamps |= {
            f"{kind}/{name}": f"{kind}/{own}"
            for kind in ("measured", "leader", "command")
            for name, own in groups.items()
        }
        stamps |= {name: name for name in self.stamps if name.startswith("base/")}
        return dataclasses.replace(
            shifted,
            robot=robot,
            robot_text=robot_text,
            action=shifted.action[:, columns],
            vectors={name: v if name == "base" else v[:, columns] for name, v in shifted.vectors.items()},
            pictures={name: shifted.pictures[own] for name, own in cameras.items()},
            poses={},
            stamps={name: shifted.stamps[own] for name, own in stamps.items() if own in shifted.stamps},
        )

    def _column(self, slot: str) -> int:
        slots = [SLOTS[joint.slot] for joint in self.robot.joints]
        if SLOTS[slot] not in slots:
            raise InputError(f"robot {self.robot.name}: expected a joint in slot {slot}, found none")
        return slots.index(SLOTS[slot])

    def _camera(self, role: str) -> str:
        camera = next((c.name for c in self.robot.cameras if c.role == role and c.name in self.pictures), None)
        if camera is None:
            raise InputError(f"robot {self.robot.name}: expected pictures of a camera with role {role}, found none")
        return camera

    def _group(self, group: JointGroup) -> JointGroup:
        """The own group that holds the other one's first joint."""
        joint = self.robot.joints[self._column(group.joints[0].slot)]
        return next(own for own in self.robot.groups if joint in own.joints)


def _later(jpeg: Callable[[int], bytes], start: int) -> Callable[[int], bytes]:
    return lambda step: jpeg(start + step)
