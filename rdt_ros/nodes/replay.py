"""The `replay` node: an episode or a rosbag2 as the robot's topics, with `/clock`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rdt_msgs.msg import ActionChunk
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState

from rdt_ros.episodes import bag
from rdt_ros.episodes.playback import DueTicks, Event, Playback
from rdt_ros.errors import InputError
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.ownership import refuse_others, refuse_published
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.options import option
from rdt_ros.robot.description import load_robot
from rdt_ros.sensing.synchroniser import SyncConfig
from rdt_ros.types import NS_PER_S, JointSample, Picture

TYPES = {
    bag.IMAGE: Image,
    bag.COMPRESSED_IMAGE: CompressedImage,
    bag.JOINT_STATE: JointState,
    bag.ODOMETRY: Odometry,
    bag.POSE: PoseStamped,
}
DEPTH = 100
POLL_S = 0.1
SETTLE_S = 1.0  # after all are found here, until they have found each other too
WATCH_PERIOD_S = 1.0
LINGER_S = 1.0  # after the last message, for whoever still works on it


@dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay node."""

    robot: str = option("agilex", doc="robot file: a shipped name or a YAML path")
    source: str = option("", doc="an HDF5 episode, or a rosbag2: a folder, an .mcap or a .db3")
    rate: float = option(1.0, low=0.01, high=100, doc="speed relative to the recording; without meaning in lock-step")
    loop: bool = option(False, doc="begin again at the end, with stamps that go on; false: the process ends")
    lockstep: bool = option(False, doc="after each Observation wait for the ActionChunk that carries its stamp")
    max_skew_ms: float = option(
        SyncConfig.max_skew_ms, unit="ms", low=0, doc="in lock-step: as camera_sync's, to know which ticks it answers"
    )
    listener_wait_s: float = option(
        20.0,
        unit="s",
        low=0,
        doc="longest wait for listeners to cameras and arms; in lock-step their absence is an error",
    )
    answer_wait_s: float = option(60.0, unit="s", low=1, doc="in lock-step: longest wait for one ActionChunk")


class ReplayNode(Node):
    """Publishes one message after the other, when it is due or when the policy has answered."""

    def __init__(self) -> None:
        super().__init__("replay")
        self._config = load(self, ReplayConfig)
        if not self._config.source:
            raise InputError("replay.source: expected an episode or a bag, found nothing")
        self._robot = load_robot(self._config.robot)
        self._groups = {group.name: group for group in self._robot.groups}
        self._playback = Playback(self._config.source, self._robot)
        self._topics = (*self._playback.topics, "/clock")
        refuse_published(self, self._topics)
        self._senders: dict[str, Publisher] = {
            topic: self.create_publisher(TYPES[kind], topic, DEPTH) for topic, kind in self._playback.topics.items()
        }
        self._clock_sender = self.create_publisher(Clock, "/clock", DEPTH)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", DEPTH)
        self._events = self._playback.events(loop=self._config.loop)
        self._next: Event | None = next(self._events, None)
        self._first_ns = self._clock_ns = self._next.stamp_ns if self._next else 0
        self._started_s = time.monotonic()
        self._sent = 0
        self._due = DueTicks(self._robot, self._config.max_skew_ms)
        self._unanswered: set[int] = set()  # ticks
        self._asked_s = 0.0
        if self._config.lockstep:
            self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, DEPTH)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(POLL_S, self._await_listeners, clock=steady)
        self._play_timer = self.create_timer(SETTLE_S, self._play, clock=steady)
        self._play_timer.cancel()
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=steady)

    def close(self) -> None:
        """Closes the source."""
        self._playback.close()

    # Start

    def _await_listeners(self) -> None:
        """Begins once what an Observation is made of is listened to."""
        missing = self._without_listener()
        waited_s = time.monotonic() - self._started_s
        if missing and waited_s < self._config.listener_wait_s:
            return
        if missing and self._config.lockstep:
            raise InputError(f"replay: expected listeners within {waited_s:.0f} s, none for {', '.join(missing)}")
        if missing:
            self.get_logger().warning(f"nobody listens to {', '.join(missing)}")
        self._timer.cancel()
        self._play_timer.reset()

    def _without_listener(self) -> list[str]:
        heard: dict[str, bool] = {}
        for route in bag.robot_topics(self._robot):
            if route.topic in self._senders and route.source.startswith(("camera/", "measured/")):
                listened = self._senders[route.topic].get_subscription_count() > 0
                heard[route.source] = heard.get(route.source, False) or listened
        if self._config.lockstep:
            heard["observation (policy)"] = self.count_subscribers("observation") > 0
            heard["action_chunk's publisher (policy)"] = self.count_publishers("action_chunk") > 0
        return [name for name, listened in heard.items() if not listened]

    # Play

    def _play(self) -> None:
        """Sends what is due and sets the timer to the next."""
        if not self._sent:
            refuse_others(self, self._topics)
            self._started_s = time.monotonic()
        if self._next is None:
            self._end()
        assert self._next is not None
        self._send(self._next)
        if self._config.lockstep:
            self._unanswered |= set(self._due.put(self._next))
            self._asked_s = time.monotonic()
        self._next = next(self._events, None)
        self._schedule()

    def _schedule(self) -> None:
        wait_ns = 0
        if self._next is None:
            wait_ns = round(LINGER_S * NS_PER_S)
        elif not self._config.lockstep:
            due_s = (self._next.stamp_ns - self._first_ns) / NS_PER_S / self._config.rate
            wait_ns = max(0, round((self._started_s + due_s - time.monotonic()) * NS_PER_S))
        self._play_timer.timer_period_ns = wait_ns
        if self._unanswered:
            self._play_timer.cancel()
        else:
            self._play_timer.reset()

    def _on_chunk(self, msg: ActionChunk) -> None:
        waited = bool(self._unanswered)
        self._unanswered.discard(messages.stamp_ns(msg.header.stamp))
        if waited and not self._unanswered:
            self._play_timer.reset()

    def _send(self, event: Event) -> None:
        if event.stamp_ns > self._clock_ns or not self._sent:
            self._clock_ns = event.stamp_ns
            self._clock_sender.publish(Clock(clock=messages.stamp_msg(event.stamp_ns)))
        self._senders[event.topic].publish(self._message(event))
        self._sent += 1

    def _message(self, event: Event) -> Any:
        """The message of an event; a bag's message stays as it was serialized."""
        value = event.value
        if isinstance(value, Picture):
            return messages.compressed_msg(value)
        if isinstance(value, JointSample):
            role, _, group = event.source.partition("/")
            return messages.joint_state_msg(
                self._robot,
                self._groups[group],
                role,
                stamp_ns=event.stamp_ns,
                position=value.position.astype(float),
                velocity=None if value.velocity is None else value.velocity.astype(float),
                effort=None if value.effort is None else value.effort.astype(float),
            )
        if isinstance(value, np.ndarray):
            make = messages.odometry_msg if event.source.startswith("base/") else messages.pose_msg
            return make(event.stamp_ns, value)
        return value

    def _end(self) -> None:
        """Ends the process once everything has been received."""
        for sender in self._senders.values():
            sender.wait_for_all_acked(Duration(seconds=LINGER_S))
        seconds = (self._clock_ns - self._first_ns) / NS_PER_S
        self.get_logger().info(f"replayed {self._sent} messages, {seconds:.1f} s of {self._config.source}")
        raise SystemExit(0)

    def _watch(self) -> None:
        """Once a second: other publishers, the end of patience, diagnostics."""
        refuse_others(self, self._topics)
        waited_s = time.monotonic() - self._asked_s if self._unanswered else 0.0
        if waited_s > self._config.answer_wait_s:
            tick_s = min(self._unanswered) / NS_PER_S
            raise InputError(f"replay: expected an ActionChunk for tick {tick_s:.3f} s, none within {waited_s:.0f} s")
        text = "waiting for listeners" if not self._sent else "lock-step" if self._config.lockstep else "playing"
        values = {"sent": self._sent, "seconds": round((self._clock_ns - self._first_ns) / NS_PER_S, 3)}
        self._diagnostics.publish(diagnostic_array(self, DiagnosticStatus.OK, text, values))


def main() -> None:
    """Runs the node."""
    run_node(ReplayNode)
