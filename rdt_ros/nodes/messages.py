"""The one file that knows both ROS messages and the project's dataclasses."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
import rdt_msgs.msg
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray

from rdt_ros.errors import InputError
from rdt_ros.robot.description import JointGroup, Robot
from rdt_ros.types import NS_PER_S, ActionChunk, JointCommand, JointSample, Observation, Picture

POSE_SIZE = 7


def stamp_ns(stamp: Time) -> int:
    """A message's stamp as nanoseconds."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def stamp_msg(ns: int) -> Time:
    """Nanoseconds as a message's stamp."""
    return Time(sec=ns // NS_PER_S, nanosec=ns % NS_PER_S)


def compressed_msg(picture: Picture) -> CompressedImage:
    """A JPEG picture; its frame_id is the camera's name."""
    msg = CompressedImage(format="jpeg", data=_bytes(picture.jpeg))
    msg.header.stamp = stamp_msg(picture.stamp_ns)
    msg.header.frame_id = picture.camera
    return msg


def image_msg(camera: str, ns: int, rgb: np.ndarray) -> Image:
    """A raw picture (H, W, 3) uint8 RGB."""
    height, width, _ = rgb.shape
    msg = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=_bytes(rgb))
    msg.header.stamp = stamp_msg(ns)
    msg.header.frame_id = camera
    return msg


def joint_state_msg(
    robot: Robot,
    group: JointGroup,
    role: str,
    *,
    stamp_ns: int,
    position: np.ndarray,
    velocity: np.ndarray | None = None,
    effort: np.ndarray | None = None,
) -> JointState:
    """Joints of one group (joints of the group,) in the robot's own units.

    A command carries velocity and effort only where the robot file gives these fields a meaning.
    """
    topic = group.topic(role)
    zero = np.zeros(len(group.joints))
    scale = robot.to_wire(group, role, zero + 1) - robot.to_wire(group, role, zero)
    msg = JointState(name=topic.names or [joint.name for joint in group.joints])
    msg.header.stamp = stamp_msg(stamp_ns)
    msg.position = robot.to_wire(group, role, position).tolist()
    msg.velocity = list(topic.velocity) if velocity is None else (velocity * scale).tolist()
    msg.effort = list(topic.effort) if effort is None else effort.tolist()
    return msg


def joint_sample(robot: Robot, group: JointGroup, role: str, msg: JointState) -> JointSample:
    """A JointState in the project's units; InputError where it is not what the robot file says."""
    return robot.from_wire(
        group,
        role,
        stamp_ns=stamp_ns(msg.header.stamp),
        names=msg.name,
        position=msg.position,
        velocity=msg.velocity,
        effort=msg.effort,
    )


def command_msg(robot: Robot, group: JointGroup, command: JointCommand) -> JointState | Float64MultiArray:
    """A group's part of a command, as the type that the robot file names."""
    position = command.position[group.columns]
    if group.command.message == "float64_multi_array":
        return Float64MultiArray(data=robot.to_wire(group, "command", position).tolist())
    return joint_state_msg(robot, group, "command", stamp_ns=command.stamp_ns, position=position)


def unstamped_command(robot: Robot, group: JointGroup, ns: int, msg: Float64MultiArray) -> JointSample:
    """The command of a message without a stamp, which came at `ns`; InputError where it does not fit the robot."""
    return robot.from_wire(group, "command", stamp_ns=ns, names=(), position=msg.data)


def twist_msg(base: np.ndarray) -> Twist:
    """A base's velocity command (3,): vx m/s, vy m/s, yaw rate rad/s."""
    msg = Twist()
    msg.linear.x, msg.linear.y, msg.angular.z = base.tolist()
    return msg


def odometry_msg(ns: int, base: np.ndarray) -> Odometry:
    """A base's velocity (3,): vx m/s, vy m/s, yaw rate rad/s."""
    msg = Odometry()
    msg.header.stamp = stamp_msg(ns)
    twist = msg.twist.twist
    twist.linear.x, twist.linear.y, twist.angular.z = base.astype(float).tolist()
    return msg


def base_velocity(msg: Odometry) -> np.ndarray:
    """(3,) float32 of a base's odometry."""
    twist = msg.twist.twist
    return np.array([twist.linear.x, twist.linear.y, twist.angular.z], np.float32)


def pose_msg(ns: int, pose: np.ndarray) -> PoseStamped:
    """A pose (7,): x y z in m, quaternion x y z w."""
    msg = PoseStamped()
    msg.header.stamp = stamp_msg(ns)
    position, turn = msg.pose.position, msg.pose.orientation
    position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w = pose.astype(float).tolist()
    return msg


def pose_vector(msg: PoseStamped) -> np.ndarray:
    """(7,) float32 of a pose."""
    position, turn = msg.pose.position, msg.pose.orientation
    return np.array([position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w], np.float32)


def observation_msg(observation: Observation) -> rdt_msgs.msg.Observation:
    """An Observation as its message."""
    msg = rdt_msgs.msg.Observation(
        camera_names=[picture.camera for picture in observation.pictures],
        images=[compressed_msg(picture) for picture in observation.pictures],
        source_names=list(observation.source_stamps_ns),
        source_stamps_ns=array.array("q", observation.source_stamps_ns.values()),
        joint_names=list(observation.joint_names),
        measured=_floats(observation.measured),
        measured_velocity=_floats(observation.velocity),
        measured_effort=_floats(observation.effort),
        leader=_floats(observation.leader),
        command=_floats(observation.command),
        base=_floats(observation.base),
        pose_names=list(observation.poses),
        poses=array.array("f", [value for pose in observation.poses.values() for value in pose]),
    )
    msg.header.stamp = stamp_msg(observation.stamp_ns)
    msg.header.frame_id = observation.robot
    return msg


def observation(msg: rdt_msgs.msg.Observation) -> Observation:
    """The Observation of a message."""
    poses = np.array(msg.poses, np.float32).reshape(-1, POSE_SIZE)
    return Observation(
        stamp_ns=stamp_ns(msg.header.stamp),
        robot=msg.header.frame_id,
        pictures=tuple(
            Picture(camera, stamp_ns(image.header.stamp), bytes(image.data))
            for camera, image in zip(msg.camera_names, msg.images, strict=True)
        ),
        joint_names=tuple(msg.joint_names),
        measured=np.array(msg.measured, np.float32),
        velocity=_array(msg.measured_velocity),
        effort=_array(msg.measured_effort),
        leader=_array(msg.leader),
        command=_array(msg.command),
        base=_array(msg.base),
        poses=dict(zip(msg.pose_names, poses, strict=True)),
        source_stamps_ns=dict(zip(msg.source_names, msg.source_stamps_ns, strict=True)),
    )


def action_chunk_msg(chunk: ActionChunk) -> rdt_msgs.msg.ActionChunk:
    """An ActionChunk as its message."""
    msg = rdt_msgs.msg.ActionChunk(
        epoch=chunk.epoch,
        chunk_id=chunk.chunk_id,
        period_s=chunk.period_s,
        offset_steps=chunk.offset_steps,
        channel_names=list(chunk.channels),
        rows=_floats(chunk.rows.reshape(-1)),
        committed_rows=chunk.committed_rows,
        instruction=chunk.instruction,
        inference_s=chunk.inference_s,
    )
    msg.header.stamp = stamp_msg(chunk.stamp_ns)
    msg.header.frame_id = chunk.robot
    return msg


def action_chunk(msg: rdt_msgs.msg.ActionChunk) -> ActionChunk:
    """The ActionChunk of a message; InputError where its rows do not fill its channels."""
    columns = len(msg.channel_names)
    if columns == 0 or len(msg.rows) % columns:
        raise InputError(f"action_chunk: expected rows of {columns} channels, found {len(msg.rows)} values")
    return ActionChunk(
        stamp_ns=stamp_ns(msg.header.stamp),
        robot=msg.header.frame_id,
        period_s=msg.period_s,
        offset_steps=msg.offset_steps,
        channels=tuple(msg.channel_names),
        rows=np.array(msg.rows, np.float32).reshape(-1, columns),
        epoch=msg.epoch,
        chunk_id=msg.chunk_id,
        committed_rows=msg.committed_rows,
        instruction=msg.instruction,
        inference_s=msg.inference_s,
    )


def _bytes(data: bytes | np.ndarray) -> array.array:
    """As the array type that rclpy moves without a loop over its elements."""
    values = array.array("B")
    values.frombytes(data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B"))
    return values


def _floats(values: np.ndarray | None) -> array.array:
    result = array.array("f")
    if values is not None:
        result.frombytes(np.ascontiguousarray(values, np.float32).tobytes())
    return result


def _array(values: Sequence[float]) -> np.ndarray | None:
    return np.array(values, np.float32) if len(values) else None
