"""What one robot is: read from its YAML file, checked whole, then never changed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from rdt_ros.errors import InputError
from rdt_ros.robot.section import Section
from rdt_ros.robot.vector import SLOTS
from rdt_ros.share import share_dir
from rdt_ros.types import NS_PER_S, JointSample

CAMERA_ROLES = ("external", "right_wrist", "left_wrist")


@dataclass(frozen=True)
class Wire:
    """How a value looks in the robot's messages: `closed` where it is 0 here and `open` where it is 1."""

    closed: float = 0.0
    open: float = 1.0


@dataclass(frozen=True)
class Joint:
    """One joint: limits in rad, rad/s, rad/s^2 (a gripper: openings), its slot, and its scale on the wire."""

    name: str
    kind: str  # "revolute" or "gripper"
    slot: str
    lower: float
    upper: float
    velocity: float
    acceleration: float
    velocity_slot: str | None = None
    measured_wire: Wire = Wire()
    command_wire: Wire = Wire()


MESSAGES = ("joint_state", "float64_multi_array")


@dataclass(frozen=True)
class JointTopic:
    """A topic of joint values. `names` are the joint names on the wire; None takes joints by position.

    `message` is the type: JointState, or for a command Float64MultiArray as ros2_control's forward position
    controllers take it (positions only, no stamp).
    """

    topic: str
    names: tuple[str, ...] | None = None
    velocity: tuple[float, ...] = ()  # constants for the field, where the driver gives it another meaning
    effort: tuple[float, ...] = ()
    message: str = "joint_state"


@dataclass(frozen=True)
class JointGroup:
    """Joints that share their topics: an arm with its gripper, or a hand."""

    name: str
    joints: tuple[Joint, ...]
    start: int  # index of its first joint in the robot's vectors
    limits_source: str
    measured: JointTopic
    command: JointTopic
    leader: JointTopic | None

    @property
    def columns(self) -> slice:
        """Its place in the robot's vectors."""
        return slice(self.start, self.start + len(self.joints))

    def topic(self, role: str) -> JointTopic:
        """The topic of a role: measured, command or leader."""
        topic = {"measured": self.measured, "command": self.command, "leader": self.leader}[role]
        if topic is None:
            raise InputError(f"{self.name}: the robot file names no {role} topic")
        return topic


@dataclass(frozen=True)
class Camera:
    """One colour camera. `frozen_after_s` None: equal pictures in a row are not a fault (a simulator)."""

    name: str
    role: str
    topic: str
    width: int
    height: int
    rate_hz: float
    frozen_after_s: float | None


@dataclass(frozen=True)
class Base:
    """A mobile base: odometry in, velocity command (Twist) out where one is named.

    `velocity` limits vx, vy (m/s) and yaw rate (rad/s), `acceleration` their change (m/s^2, rad/s^2) if it is driven.
    """

    odometry: str
    command: str | None
    velocity: tuple[float, float, float]
    acceleration: tuple[float, float, float]
    slots: tuple[str, str, str] = ("base_vel_x", "base_vel_y", "base_angular_vel")


@dataclass(frozen=True)
class Pose:
    """A measured end-effector pose (PoseStamped): its nine slots are position and 6D rotation."""

    name: str
    topic: str
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Robot:
    """One robot. Vectors over joints follow the order of `joints`, which is the order of the file."""

    name: str
    description: str
    control_rate_hz: float
    action_offset_steps: int
    stop_deceleration: float  # rad/s^2 of an arm joint at a software stop
    groups: tuple[JointGroup, ...]
    cameras: tuple[Camera, ...]
    home: tuple[tuple[float, ...], ...]  # poses (J,) visited in order; the last one is home
    base: Base | None
    poses: tuple[Pose, ...]

    @property
    def period_ns(self) -> int:
        """Nanoseconds between two control ticks."""
        return round(NS_PER_S / self.control_rate_hz)

    @cached_property
    def joints(self) -> tuple[Joint, ...]:
        """All joints in the order of every vector."""
        return tuple(joint for group in self.groups for joint in group.joints)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Names of all joints."""
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Slots of all joint positions: the channels that every ActionChunk for this robot has."""
        return tuple(joint.slot for joint in self.joints)

    @cached_property
    def base_channels(self) -> tuple[str, ...]:
        """Slots of the base's velocities, which a chunk may have too; none where the base is not driven."""
        return self.base.slots if self.base is not None and self.base.command else ()

    @cached_property
    def is_gripper(self) -> np.ndarray:
        """(J,) bool."""
        return np.array([joint.kind == "gripper" for joint in self.joints])

    def limits(self, which: str) -> np.ndarray:
        """(J,) float64 of `lower`, `upper`, `velocity` or `acceleration`."""
        return np.array([getattr(joint, which) for joint in self.joints])

    def from_wire(
        self,
        group: JointGroup,
        role: str,
        *,
        stamp_ns: int,
        names: Sequence[str],
        position: Sequence[float],
        velocity: Sequence[float] = (),
        effort: Sequence[float] = (),
    ) -> JointSample:
        """A JointState of this group in the project's units and order.

        Raises InputError where the count or the names are not those of the robot file, or a position is not finite.
        """
        topic, count = group.topic(role), len(group.joints)
        if len(position) != count:
            raise InputError(f"{topic.topic}: expected {count} joint positions, found {len(position)}")
        order: list[int] | slice = slice(None)
        if topic.names is not None and names and tuple(names) != topic.names:
            if set(names) != set(topic.names) or len(names) != count:
                wrong = next((n for n in names if n not in topic.names), None) or f"{len(names)} names"
                raise InputError(f"{topic.topic}: expected joints {', '.join(topic.names)}, found {wrong}")
            order = [list(names).index(name) for name in topic.names]
        zero, scale = self._wire(group, role)
        values = (np.asarray(position, float)[order] - zero) / scale
        if not np.isfinite(values).all():
            joint = group.joints[int(np.argmin(np.isfinite(values)))].name
            found = values[~np.isfinite(values)][0]
            raise InputError(f"{topic.topic}: expected a finite position of {joint}, found {found}")
        return JointSample(
            stamp_ns,
            values,
            np.asarray(velocity, float)[order] / scale if len(velocity) == count else None,
            np.asarray(effort, float)[order] if len(effort) == count else None,
        )

    def to_wire(self, group: JointGroup, role: str, position: np.ndarray) -> np.ndarray:
        """Positions (joints of the group,) in the units of its messages."""
        zero, scale = self._wire(group, role)
        return position * scale + zero

    @staticmethod
    def _wire(group: JointGroup, role: str) -> tuple[np.ndarray, np.ndarray]:
        wires = [joint.measured_wire if role == "measured" else joint.command_wire for joint in group.joints]
        zero = np.array([wire.closed for wire in wires])
        return zero, np.array([wire.open for wire in wires]) - zero


def load_robot(name_or_path: str | Path) -> Robot:
    """The robot of a shipped name (`agilex`) or of a YAML file; InputError with the key where it is wrong."""
    path = robot_path(name_or_path)
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"robot file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"robot file {path}: no YAML: {' '.join(str(error).split())}") from None
    return parse_robot(data, path.name)


def robot_path(name_or_path: str | Path) -> Path:
    """The YAML file of a shipped name, or the path itself; InputError with the nearest name where there is none."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = shipped_robots()
    if str(name_or_path) not in known:
        near = difflib.get_close_matches(str(name_or_path), known, n=1)
        hint = f", is {near[0]!r} meant?" if near else ""
        names = ", ".join(known)
        raise InputError(f"robot: expected one of {names} or a YAML file, found {str(name_or_path)!r}{hint}")
    return share_dir() / "config" / "robots" / f"{name_or_path}.yaml"


def shipped_robots() -> list[str]:
    """Names of the robot files in config/robots."""
    return sorted(path.stem for path in (share_dir() / "config" / "robots").glob("*.yaml"))


def parse_robot(data: object, path: str) -> Robot:
    """The robot of a file's content; `path` is what errors call it."""
    top = Section(data, path)
    groups: list[JointGroup] = []
    for section in top.sections("groups"):
        groups.append(_group(section, start=sum(len(g.joints) for g in groups)))
    joints = [joint for group in groups for joint in group.joints]
    robot = Robot(
        name=top.text("name"),
        description=top.text("description"),
        control_rate_hz=top.number("control_rate_hz", above=0),
        action_offset_steps=top.whole("action_offset_steps"),
        stop_deceleration=top.number("stop_deceleration", above=0),
        groups=tuple(groups),
        cameras=tuple(_camera(section) for section in top.sections("cameras")) if "cameras" in top else (),
        home=_home(top, joints),
        base=_base(top.section("base")) if "base" in top else None,
        poses=tuple(_pose(section) for section in top.sections("poses")) if "poses" in top else (),
    )
    top.finish()
    _check_unique(robot, path)
    return robot


def _group(section: Section, start: int) -> JointGroup:
    name = section.text("name")
    joints = tuple(_joint(joint) for joint in section.sections("joints"))
    group = JointGroup(
        name=name,
        joints=joints,
        start=start,
        limits_source=section.text("limits_source"),
        measured=_topic(section.section("measured"), len(joints)),
        command=_topic(section.section("command"), len(joints), MESSAGES),
        leader=_topic(section.section("leader"), len(joints)) if "leader" in section else None,
    )
    section.finish()
    return group


def _joint(section: Section) -> Joint:
    kind = section.text("kind", ("revolute", "gripper")) if "kind" in section else "revolute"
    lower, upper = section.numbers("position", 2)
    if not lower < upper:
        raise section.fail("position", "lower below upper", [lower, upper])
    wires = {key: _wire(section.section(key)) for key in ("measured_wire", "command_wire") if key in section}
    if kind == "gripper" and len(wires) != 2:
        raise InputError(f"{section.path}: a gripper needs the keys measured_wire and command_wire")
    joint = Joint(
        name=section.text("name"),
        kind=kind,
        slot=section.text("slot", tuple(SLOTS)),
        lower=lower,
        upper=upper,
        velocity=section.number("velocity", above=0),
        acceleration=section.number("acceleration", above=0),
        velocity_slot=section.text("velocity_slot", tuple(SLOTS)) if "velocity_slot" in section else None,
        **wires,
    )
    section.finish()
    return joint


def _wire(section: Section) -> Wire:
    wire = Wire(section.number("closed"), section.number("open"))
    if wire.closed == wire.open:
        raise section.fail("open", "another value than closed", wire.open)
    section.finish()
    return wire


def _topic(section: Section, joints: int, messages: tuple[str, ...] = MESSAGES[:1]) -> JointTopic:
    topic = JointTopic(
        topic=section.text("topic"),
        names=section.texts("names", joints) if "names" in section else None,
        velocity=section.numbers("velocity", joints) if "velocity" in section else (),
        effort=section.numbers("effort", joints) if "effort" in section else (),
        message=section.text("message", messages) if "message" in section else messages[0],
    )
    section.finish()
    return topic


def _camera(section: Section) -> Camera:
    camera = Camera(
        name=section.text("name"),
        role=section.text("role", CAMERA_ROLES),
        topic=section.text("topic"),
        width=section.whole("width", least=1),
        height=section.whole("height", least=1),
        rate_hz=section.number("rate_hz", above=0),
        frozen_after_s=section.number("frozen_after_s", above=0) if "frozen_after_s" in section else None,
    )
    section.finish()
    return camera


def _home(top: Section, joints: list[Joint]) -> tuple[tuple[float, ...], ...]:
    poses = []
    for section in top.sections("home"):
        pose = section.numbers("pose", len(joints))
        section.finish()
        for joint, value in zip(joints, pose, strict=True):
            if not joint.lower <= value <= joint.upper:
                span = f"{joint.lower:g} and {joint.upper:g}"
                raise InputError(f"{section.path}.pose: expected {joint.name} between {span}, found {value:g}")
        poses.append(pose)
    return tuple(poses)


def _base(section: Section) -> Base:
    driven = "command" in section
    base = Base(
        odometry=section.text("odometry"),
        command=section.text("command") if driven else None,
        velocity=_base_limit(section, "velocity"),
        acceleration=_base_limit(section, "acceleration") if driven else (0.0, 0.0, 0.0),
    )
    section.finish()
    return base


def _base_limit(section: Section, key: str) -> tuple[float, float, float]:
    vx, vy, yaw = section.numbers(key, 3)
    if min(vx, vy, yaw) < 0:
        raise section.fail(key, "no negative number", [vx, vy, yaw])
    return vx, vy, yaw


def _pose(section: Section) -> Pose:
    prefix = section.text("slots", ("right_eef", "left_eef", "eef"))
    names = [f"pos_{axis}" for axis in "xyz"] + [f"angle_{i}" for i in range(6)]
    pose = Pose(section.text("name"), section.text("topic"), tuple(f"{prefix}_{name}" for name in names))
    section.finish()
    return pose


def _check_unique(robot: Robot, path: str) -> None:
    """Names, slots and camera roles may stand once only; a slot's alias counts as the slot."""
    slots: list[tuple[str, str]] = [(j.name, j.slot) for j in robot.joints]
    slots += [(j.name, j.velocity_slot) for j in robot.joints if j.velocity_slot]
    slots += [(pose.name, slot) for pose in robot.poses for slot in pose.slots]
    named = {
        "joint name": list(robot.joint_names),
        "group name": [group.name for group in robot.groups],
        "camera name": [camera.name for camera in robot.cameras],
        "camera role": [camera.role for camera in robot.cameras],
        "slot": [str(SLOTS[slot]) for _, slot in slots],
    }
    for what, values in named.items():
        for value in values:
            if values.count(value) > 1:
                if what == "slot":
                    value = " and ".join(f"{owner}.{slot}" for owner, slot in slots if str(SLOTS[slot]) == value)
                raise InputError(f"{path}: {what} used twice: {value}")
