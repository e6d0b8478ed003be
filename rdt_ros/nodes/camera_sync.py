"""The `camera_sync` node: cameras and arms in, one Observation a control tick out, and a word on all that is wrong."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import rdt_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray

from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option
from rdt_ros.robot.description import Camera, JointGroup, load_robot
from rdt_ros.sensing.health import Level, SourceStatus
from rdt_ros.sensing.picture import compressed_picture, raw_picture
from rdt_ros.sensing.synchroniser import BASE_SOURCE, Event, SyncConfig, Synchroniser, SyncStatus
from rdt_ros.types import NS_PER_S, JointSample, Observation

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

POLL_S = 0.02  # how exactly time-outs are kept
WATCH_S = 0.2  # a fault is named so soon after it is certain
REPORT_S = 1.0
DISCOVERY_S = 4.0  # until a topic without publisher, or one that was found and stays silent, is worth a word
CAMERA_DEPTH = 5
DEPTH = 20
PUBLISHER_DEPTH = 64  # a reader that stands still for 2 s at 30 Hz gets all of them; 30 MB at 470 KB an Observation
COMPRESSED = "/compressed"
LEVELS = {
    Level.OK: DiagnosticStatus.OK,
    Level.WARN: DiagnosticStatus.WARN,
    Level.ERROR: DiagnosticStatus.ERROR,
}

Read = Callable[[Any, int], Any]  # a message and its stamp -> payload; InputError where it cannot be used


@dataclass(frozen=True)
class CameraSyncConfig(SyncConfig):
    """Settings of the node; those of time are the synchroniser's."""

    robot: str = option("agilex", doc="Robot file: a shipped name or a path")
    transport: str = option(
        "auto", choices=("auto", "compressed", "raw"), doc="Camera topics; auto: TOPIC/compressed where it is published"
    )
    reliable: bool = option(False, doc="Subscribe reliably: needs publishers that offer it; lock-step always does")


class CameraSyncNode(Node):
    """Feeds the synchroniser, publishes what it decides, and reports how the sources are doing."""

    def __init__(self) -> None:
        super().__init__("camera_sync")
        self._config = load(self, CameraSyncConfig)
        self._robot = load_robot(self._config.robot)
        self._sync = Synchroniser(self._robot, self._config)
        # a node that joins late gets the last sets, so that lock-step does not wait for an answer that nobody can give
        latched = QoSProfile(depth=PUBLISHER_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = self.create_publisher(rdt_msgs.msg.Observation, "observation", latched)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._mismatches: dict[str, str] = {}  # source -> what DDS said, until a message comes
        self._said: dict[str, tuple[Level, str]] = {}  # source -> what was last logged, without its figures
        self._reported_s = time.monotonic()
        self._silent: dict[str, tuple[str, float]] = {}  # source that was never heard -> why, and since when
        self._cameras = [CameraTopic(self, camera, self._config.transport) for camera in self._robot.cameras]
        self._topics = {camera.source: camera.topics for camera in self._cameras}  # source -> where it may come from
        self._subscribe_others()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(POLL_S, lambda: self._handle(self._sync.poll(time.monotonic_ns())), clock=steady)
        self.create_timer(WATCH_S, self._watch, clock=steady)

    # In

    def _subscribe_others(self) -> None:
        roles = ("measured", "leader" if self._config.leader else "command")
        routes: list[tuple[str, type, str, Read]] = []
        for group, role in itertools.product(self._robot.groups, roles):
            topic, source = group.topic(role), f"{role}/{group.name}"
            if topic.message == "float64_multi_array":
                routes.append((source, Float64MultiArray, topic.topic, partial(self._read_unstamped, group)))
            else:
                routes.append((source, JointState, topic.topic, partial(self._read_joints, group, role)))
        if self._robot.base:
            routes.append((BASE_SOURCE, Odometry, self._robot.base.odometry, _read_odometry))
        routes += [(f"pose/{pose.name}", PoseStamped, pose.topic, _read_pose) for pose in self._robot.poses]
        for source, kind, topic, read in routes:
            self._topics[source] = [topic]
            self.subscribe(source, kind, topic, read)

    def subscribe(self, source: str, kind: type, topic: str, read: Read) -> Subscription:
        """Hands every message of the topic to the synchroniser."""
        reliable = self._config.reliable or self._config.lockstep
        return self.create_subscription(
            kind,
            topic,
            partial(self._on_message, source, read),
            QoSProfile(
                depth=CAMERA_DEPTH if source.startswith("camera/") else DEPTH,
                reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            ),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=partial(self._on_mismatch, source, topic)),
        )

    def publisher_count(self, topic: str) -> int:
        """How many publish on a topic, by its name before remapping."""
        return self.count_publishers(self.resolve_topic_name(topic))

    def _on_message(self, source: str, read: Read, msg: Any) -> None:
        now_ns = time.monotonic_ns()
        # What has no stamp is stamped when it comes.
        stamp_ns = messages.stamp_ns(msg.header.stamp) if hasattr(msg, "header") else self.get_clock().now().nanoseconds
        self._mismatches.pop(source, None)
        try:
            payload = read(msg, stamp_ns)
        except InputError as error:
            self._sync.refuse(source, str(error), now_ns)
            return
        self._handle(self._sync.put(source, stamp_ns, payload, now_ns))

    def _on_mismatch(self, source: str, topic: str, event: Any) -> None:
        """A publisher that this subscription will never hear: DDS says so once and is silent from then on."""
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        hint = ": it is best effort, this node asks for reliable" if policy == "reliability" else ""
        where = self.resolve_topic_name(topic)
        self._mismatches[source] = f"QoS mismatch on {where}: a publisher offers less {policy} than asked for{hint}"
        self._watch()

    def _read_joints(self, group: JointGroup, role: str, msg: JointState, _stamp_ns: int) -> JointSample:
        return messages.joint_sample(self._robot, group, role, msg)

    def _read_unstamped(self, group: JointGroup, msg: Float64MultiArray, stamp_ns: int) -> JointSample:
        return messages.unstamped_command(self._robot, group, stamp_ns, msg)

    # Out

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Observation):
                self._publisher.publish(messages.observation_msg(event))
            else:
                self.get_logger().warning(str(event), throttle_duration_sec=1.0)

    def _watch(self) -> None:
        """Looks at the graph and the sources; logs what is new. Reports every second, and at once what is new."""
        for camera in self._cameras:
            camera.look()
        now_s = time.monotonic()
        status = self._sync.status(round(now_s * NS_PER_S))
        status = replace(status, sources=tuple(self._explained(source) for source in status.sources))
        news = [self._log(source) for source in status.sources]
        if any(news) or now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            self._diagnostics.publish(self._report(status))

    def _explained(self, source: SourceStatus) -> SourceStatus:
        """A silent source with the reason that DDS or the graph knows."""
        if source.name in self._mismatches:
            return replace(source, level=Level.ERROR, message=self._mismatches[source.name])
        topics = self._topics[source.name]
        if source.level is Level.ERROR and not any(self.publisher_count(topic) for topic in topics):
            names = " or ".join(self.resolve_topic_name(topic) for topic in reversed(topics))
            return replace(source, message=f"no publisher on {names}")
        return source

    def _log(self, source: SourceStatus) -> bool:
        """Logs a source that says something new, and returns whether it did; the same with other figures is not new."""
        before, kind = self._said.get(source.name), re.sub(r"[\d.]+", "", source.message)
        if not source.received and source.name not in self._mismatches and not self._silent_for_long(source):
            return False
        self._said[source.name] = source.level, kind
        if source.level is Level.OK:
            recovered = before is not None and before[0] is not Level.OK
            if recovered:
                self.get_logger().info(f"{source.name}: well again, {source.message}")
            return recovered
        if before == (source.level, kind):
            return False
        # two calls: rclpy does not allow one place in the code to change its severity
        if source.level is Level.ERROR:
            self.get_logger().error(f"{source.name}: {source.message}")
        else:
            self.get_logger().warning(f"{source.name}: {source.message}")
        return True

    def _silent_for_long(self, source: SourceStatus) -> bool:
        """Whether a source was never heard, for the same reason, for longer than topics take to find each other."""
        now_s = time.monotonic()
        message, since_s = self._silent.get(source.name, ("", now_s))
        if message != source.message:
            self._silent[source.name] = source.message, now_s
        return message == source.message and now_s - since_s >= DISCOVERY_S

    def _report(self, status: SyncStatus) -> DiagnosticArray:
        """The node as a whole with its worst news, then each source."""
        worst = max(status.sources, key=lambda source: source.level)
        level, message = status.level, status.message
        if worst.level > Level.OK and worst.level >= level:
            level, message = worst.level, f"{worst.name}: {worst.message}"
        figures = {
            "sets": status.emitted,
            "sets_per_s": _rounded(status.rate_hz),
            "given_up": status.given_up,
            "without_command": status.without_command,
            "worst_wait_ms": _rounded(status.worst_wait_ms),
            **{f"given_up {reason}": count for reason, count in status.reasons.items()},
        }
        array = diagnostic_array(self, LEVELS[level], message, figures)
        array.status += [self._source_report(source) for source in status.sources]
        return array

    def _source_report(self, source: SourceStatus) -> DiagnosticStatus:
        figures = {
            "rate_hz": _rounded(source.rate_hz),
            "received": source.received,
            "lost": source.lost,
            "duplicates": source.duplicates,
            "disordered": source.disordered,
            "refused": source.refused,
        }
        return DiagnosticStatus(
            level=LEVELS[source.level],
            name=f"{self.get_name()}: {source.name}",
            message=source.message,
            hardware_id=self.get_namespace(),
            values=[KeyValue(key=key, value=str(value)) for key, value in figures.items()],
        )


class CameraTopic:
    """The subscription to one camera, on that of its two topics which somebody publishes."""

    def __init__(self, node: CameraSyncNode, camera: Camera, transport: str) -> None:
        self.source = f"camera/{camera.name}"
        kinds = {"auto": (COMPRESSED, ""), "compressed": (COMPRESSED,), "raw": ("",)}[transport]
        self.topics = [camera.topic + kind for kind in kinds]  # best first
        self._node, self._camera = node, camera
        self._seen: str | None = None
        self._take(self.topics[0])

    def look(self) -> None:
        """Changes over to the best topic with a publisher; twice the same, because the best may be found last."""
        seen = next((topic for topic in self.topics if self._node.publisher_count(topic)), None)
        if seen is not None and seen == self._seen and seen != self._taken:
            self._node.destroy_subscription(self._subscription)
            self._take(seen)
        self._seen = seen

    def _take(self, topic: str) -> None:
        compressed = topic.endswith(COMPRESSED)
        kind, read = (CompressedImage, _read_compressed) if compressed else (Image, _read_raw)
        self._taken = topic
        self._subscription = self._node.subscribe(self.source, kind, topic, partial(read, self._camera))


def _read_raw(camera: Camera, msg: Image, stamp_ns: int) -> Any:
    shape = {"width": msg.width, "height": msg.height, "step": msg.step}
    return raw_picture(camera, stamp_ns, encoding=msg.encoding, data=msg.data.tobytes(), **shape)


def _read_compressed(camera: Camera, msg: CompressedImage, stamp_ns: int) -> Any:
    return compressed_picture(camera, stamp_ns, format=msg.format, data=msg.data.tobytes())


def _read_odometry(msg: Odometry, _stamp_ns: int) -> np.ndarray:
    twist = msg.twist.twist
    return _finite(BASE_SOURCE, twist.linear.x, twist.linear.y, twist.angular.z)


def _read_pose(msg: PoseStamped, _stamp_ns: int) -> np.ndarray:
    p, q = msg.pose.position, msg.pose.orientation
    return _finite("pose", p.x, p.y, p.z, q.x, q.y, q.z, q.w)


def _finite(name: str, *values: float) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"{name}: expected finite values, found {', '.join(f'{value:g}' for value in values)}")
    return np.array(values)


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def main() -> None:
    """Runs the node."""
    run_node(CameraSyncNode, many_messages=True)
