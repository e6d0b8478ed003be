"""The `sim` node: the simulated robot behind the topics of its robot file, and the owner of `/clock`."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rdt_ros.errors import InputError
from rdt_ros.evaluation.episode_clock import episode_start_ns
from rdt_ros.nodes import messages
from rdt_ros.nodes.diagnostics import diagnostic_array
from rdt_ros.nodes.ownership import refuse_others, refuse_published
from rdt_ros.nodes.parameters import load
from rdt_ros.nodes.process import run_node
from rdt_ros.nodes.qos import LATCHED
from rdt_ros.options import option
from rdt_ros.robot.description import Camera, JointGroup, load_robot
from rdt_ros.sim.bulletin import Bulletin
from rdt_ros.sim.rendering import check_rendering
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.schedule import send_times
from rdt_ros.types import NS_PER_S

if TYPE_CHECKING:
    from rdt_ros.sim.robot import SimRobot
    from rdt_ros.sim.task import Task

DEPTH = 10
WATCH_PERIOD_S = 1.0
SAY_WAITING_AFTER_S = 5.0
MAX_LAG_S = 0.1  # what real-time mode catches up; after a longer stall simulated time stands behind for good
VIEWER_RATE_HZ = 30


@dataclass(frozen=True)
class SimConfig:
    """Settings of the simulator."""

    robot: str = option("sim_aloha", doc="Robot file: a shipped name or a path")
    task: str = option("hand_over", doc="What is to be done in the scene, judged by ~/outcome: hand_over or lift")
    seed: int = option(0, low=0, doc="Decides the scene; every reset takes the next one")
    max_yaw: float = option(0.0, unit="rad", low=0, high=math.pi, doc="The cube is turned by up to this to either side")
    lockstep: bool = option(False, doc="Wait for the commands of every tick instead of running in real time")
    system_time: bool = option(
        False, doc="Real time only: stamp with the system's clock and send no /clock, as a real robot does"
    )
    joint_rate_hz: float = option(100.0, unit="Hz", low=1, high=500, doc="Joint states and clock in real-time mode")
    viewer: bool = option(False, doc="Show the simulation in a window")


class SimNode(Node):
    """Steps the simulated robot, in real time or in lock-step, and talks as the robot does."""

    def __init__(self) -> None:
        super().__init__("sim")
        self._config = load(self, SimConfig)
        self._robot = load_robot(self._config.robot)
        if self._config.joint_rate_hz < self._robot.control_rate_hz:
            raise InputError(
                f"sim.joint_rate_hz: expected at least the control rate, {self._robot.control_rate_hz:g} Hz, "
                f"found {self._config.joint_rate_hz:g}"
            )
        if self._config.lockstep and self._config.system_time:
            raise InputError("sim.system_time: expected false in lock-step, found true")
        check_rendering()
        self._task = self._find_task()
        refuse_published(self, self._topics())
        self._sim = self._make_sim()
        self._make_endpoints()
        self._command: np.ndarray | None = None  # (J,) in force; None: home
        self._stamps_ns = {group.name: -1 for group in self._robot.groups}  # of the newest command of each group
        self._ignored = 0
        self._set_scene(CubeScene(self._config.seed, self._config.max_yaw))
        self._steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self._watched = (time.monotonic(), self._sim.time_ns)
        self._worst_lag_s = 0.0
        if self._config.lockstep:
            self._begin_waiting()
            self._send_all()
        else:
            self._start_real_time()
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=self._steady)

    def close(self) -> None:
        """Closes the window and frees the renderer."""
        if self._viewer is not None:
            self._viewer.close()
        self._renderer.close()

    # Start

    def _topics(self) -> list[str]:
        """All that it publishes in the robot's place."""
        topics = [group.measured.topic for group in self._robot.groups]
        for camera in self._robot.cameras:
            topics += [camera.topic, f"{camera.topic}/compressed"]
        return topics if self._config.system_time else [*topics, "/clock"]

    def _find_task(self) -> Task:
        from rdt_ros.sim.task import find_task  # not before check_rendering: importing MuJoCo may load OpenGL

        return find_task(self._config.task)

    def _make_sim(self) -> SimRobot:
        from rdt_ros.sim.camera import CameraRenderer
        from rdt_ros.sim.robot import SimRobot
        from rdt_ros.sim.viewer import open_viewer

        start_ns = time.time_ns() if self._config.system_time else 0
        start_ns += self._robot.period_ns - start_ns % self._robot.period_ns  # ROS takes time 0 for "no clock yet"
        if self._config.lockstep:
            start_ns = episode_start_ns(self._config.seed, self._robot.period_ns)
        sim = SimRobot(self._robot, start_ns=start_ns)
        self._renderer = CameraRenderer(sim.model)
        self._viewer = open_viewer(sim.model, sim.data) if self._config.viewer else None
        self._shown_ns = 0
        return sim

    def _make_endpoints(self) -> None:
        self._clock_publisher = None if self._config.system_time else self.create_publisher(Clock, "/clock", DEPTH)
        self._joint_publishers = [
            (group, self.create_publisher(JointState, group.measured.topic, DEPTH)) for group in self._robot.groups
        ]
        self._camera_publishers: dict[str, tuple[Camera, Publisher, Publisher]] = {
            camera.name: (
                camera,
                self.create_publisher(Image, camera.topic, DEPTH),
                self.create_publisher(CompressedImage, f"{camera.topic}/compressed", DEPTH),
            )
            for camera in self._robot.cameras
        }
        self._scene_publisher = self.create_publisher(String, "~/scene", LATCHED)
        self._outcome_publisher = self.create_publisher(String, "~/outcome", DEPTH)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", DEPTH)
        for group in self._robot.groups:
            self.create_subscription(
                JointState, group.command.topic, lambda msg, group=group: self._on_command(group, msg), DEPTH
            )
        self.create_service(Trigger, "~/reset", self._on_reset)

    # In

    def _on_command(self, group: JointGroup, msg: JointState) -> None:
        try:
            sample = messages.joint_sample(self._robot, group, "command", msg)
        except InputError as error:
            self._ignored += 1
            self.get_logger().warning(f"command ignored, {self._ignored} until now: {error}", throttle_duration_sec=1.0)
            return
        if self._command is None:
            self._command = np.array(self._robot.home[-1])
        self._command[group.columns] = sample.position
        self._stamps_ns[group.name] = sample.stamp_ns
        if self._config.lockstep and not self._awaited():
            self._advance(self._robot.period_ns)
            self._send_all()
            self._begin_waiting()

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The next seed's scene. In lock-step it begins at the seed's own time, so that no tick has two pictures."""
        self._command = None
        scene = dataclasses.replace(self._scene, seed=self._scene.seed + 1)
        if self._config.lockstep:
            start_ns = episode_start_ns(scene.seed, self._robot.period_ns)
            self._sim.time_ns = max(start_ns, self._sim.time_ns + self._robot.period_ns)
        self._set_scene(scene)
        if self._config.lockstep:
            self._send_all()
            self._begin_waiting()
        response.success, response.message = True, f"seed {self._scene.seed}"
        return response

    # Time

    def _start_real_time(self) -> None:
        rates = {camera.name: camera.rate_hz for camera in self._robot.cameras}
        self._times: Iterator[tuple[int, str]] = send_times(self._config.joint_rate_hz, rates, self._sim.time_ns)
        self._due = self._next_due()
        now_ns = time.time_ns() if self._config.system_time else self._sim.time_ns
        self._origin_ns = time.monotonic_ns() - now_ns  # steady time of simulated time 0
        self._bulletin = Bulletin()
        self._timer = self.create_timer(0.0, self._on_due, clock=self._steady)

    def _on_due(self) -> None:
        """Does the next thing of the schedule, one a call, so that commands that came meanwhile have their turn."""
        due_ns, source = self._due
        lag_ns = time.monotonic_ns() - self._origin_ns - due_ns
        self._worst_lag_s = max(self._worst_lag_s, lag_ns / NS_PER_S)
        if lag_ns > MAX_LAG_S * NS_PER_S:
            due_ns, source = self._after_stall(lag_ns)
        if due_ns > self._sim.time_ns:
            self._advance(due_ns - self._sim.time_ns)
            self._send_clock()
        if source:
            self._send_picture(source)
        else:
            self._send_joints()
        if self._bulletin.has_news(self._sim.time_ns, self._scene.seed, self._sim.outcomes()):
            self._send_outcome()
        self._due = self._next_due()
        wait_ns = self._due[0] + self._origin_ns - time.monotonic_ns()
        self._timer.timer_period_ns = max(wait_ns, 0)
        self._timer.reset()

    def _after_stall(self, lag_ns: int) -> tuple[int, str]:
        """What is done next: simulated time stays behind for good, the system's clock leaves out what was missed."""
        if not self._config.system_time:
            self._origin_ns += lag_ns
            return self._due
        missed_until_ns = self._due[0] + lag_ns
        return next((ns, source) for ns, source in self._times if ns >= missed_until_ns)

    def _next_due(self) -> tuple[int, str]:
        """The next of the schedule that is not a picture nobody receives."""
        return next((ns, source) for ns, source in self._times if not source or any(self._wanted(source)))

    def _advance(self, duration_ns: int) -> None:
        self._sim.step(self._command, duration_ns)
        due = self._sim.time_ns - self._shown_ns >= NS_PER_S / VIEWER_RATE_HZ
        if due and self._viewer is not None and self._viewer.is_running():
            self._viewer.sync()
            self._shown_ns = self._sim.time_ns

    def _awaited(self) -> list[str]:
        """Command topics that have no command for the present tick yet."""
        return [g.command.topic for g in self._robot.groups if self._stamps_ns[g.name] < self._sim.time_ns]

    def _begin_waiting(self) -> None:
        self._waiting_since_s = time.monotonic()
        self._said_waiting = False

    def _watch(self) -> None:
        """Once a second: other publishers, diagnostics; in lock-step the present tick again, for who joined late."""
        refuse_others(self, self._topics())
        values = self._diagnose()
        level, text = DiagnosticStatus.OK, "lock-step" if self._config.lockstep else "real time"
        waited_s = time.monotonic() - self._waiting_since_s if self._config.lockstep else 0.0
        if waited_s >= WATCH_PERIOD_S:
            self._send_all()
        if waited_s >= SAY_WAITING_AFTER_S:
            level, text = DiagnosticStatus.WARN, f"waiting for a command on {', '.join(self._awaited())}"
            if not self._said_waiting:
                tick_s = self._sim.time_ns / NS_PER_S
                self.get_logger().warning(f"lock-step: {text}, stamped {tick_s:.3f} s or later")
                self._said_waiting = True
        self._diagnostics.publish(diagnostic_array(self, level, text, values))

    def _diagnose(self) -> dict[str, float]:
        now = (time.monotonic(), self._sim.time_ns)
        factor = (now[1] - self._watched[1]) / NS_PER_S / (now[0] - self._watched[0])
        values = {"real_time_factor": round(factor, 3), "commands_ignored": self._ignored}
        if not self._config.lockstep:
            values["worst_lateness_ms"] = round(self._worst_lag_s * 1e3, 2)
            self._worst_lag_s = 0.0
        self._watched = now
        return values

    # Out

    def _set_scene(self, scene: CubeScene) -> None:
        self._scene = scene
        self._sim.reset(scene, self._task)
        self._scene_publisher.publish(String(data=self._task.scene_text(scene)))
        self.get_logger().info(f"scene of seed {scene.seed}, {self._task.name}")

    def _send_all(self) -> None:
        self._send_clock()
        self._send_joints()
        for name in self._camera_publishers:
            self._send_picture(name)
        self._send_outcome()

    def _send_clock(self) -> None:
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=messages.stamp_msg(self._sim.time_ns)))

    def _send_joints(self) -> None:
        sample = self._sim.measured()
        for group, publisher in self._joint_publishers:
            columns = group.columns
            publisher.publish(
                messages.joint_state_msg(
                    self._robot,
                    group,
                    "measured",
                    stamp_ns=sample.stamp_ns,
                    position=sample.position[columns],
                    velocity=sample.velocity[columns],
                    effort=sample.effort[columns],
                )
            )

    def _wanted(self, name: str) -> list[bool]:
        """Whether anybody receives a camera's raw and its compressed pictures."""
        return [publisher.get_subscription_count() > 0 for publisher in self._camera_publishers[name][1:]]

    def _send_picture(self, name: str) -> None:
        """Draws once, and only what somebody receives."""
        camera, raw, compressed = self._camera_publishers[name]
        wanted = self._wanted(name)
        if not any(wanted):
            return
        rgb = self._renderer.render(self._sim.data, camera)
        if wanted[0]:
            raw.publish(messages.image_msg(name, self._sim.time_ns, rgb))
        if wanted[1]:
            compressed.publish(messages.compressed_msg(self._renderer.encode(camera, self._sim.time_ns, rgb)))

    def _send_outcome(self) -> None:
        tasks = {name: dataclasses.asdict(outcome) for name, outcome in self._sim.outcomes().items()}
        outcome = {**tasks[self._task.name], "task": self._task.name, "tasks": tasks}
        outcome |= {"sim_time": self._sim.time_ns / NS_PER_S, "seed": self._scene.seed}
        self._outcome_publisher.publish(String(data=json.dumps(outcome)))


def main() -> None:
    """Runs the node."""
    run_node(SimNode)
