"""The `sim` and `teleop` nodes as processes, seen through their topics. The robot file is sim_aloha's."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from rdt_msgs.msg import RecorderState  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from rdt_ros.evaluation.episode_clock import episode_start_ns  # noqa: E402
from rdt_ros.nodes.messages import joint_state_msg, stamp_ns  # noqa: E402
from rdt_ros.robot.description import load_robot  # noqa: E402
from rdt_ros.sensing.picture import RawPicture  # noqa: E402
from rdt_ros.sim.task import TASKS, read_scene_text  # noqa: E402

pytestmark = pytest.mark.ros

ROBOT = load_robot("sim_aloha")
HOME = np.array(ROBOT.home[-1])
PERIOD_NS = ROBOT.period_ns
DOMAIN, REAL_TIME_DOMAIN, TELEOP_DOMAIN = 141, 142, 143
START_TIMEOUT_S = 30


@pytest.fixture(autouse=True, scope="module")
def local_discovery():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


def environment(domain):
    return {**os.environ, "ROS_DOMAIN_ID": str(domain)}


def start(name, log, domain, **parameters):
    arguments = [text for key, value in parameters.items() for text in ("-p", f"{key}:={json.dumps(value)}")]
    command = [sys.executable, "-m", "rdt_ros.nodes", name, "--ros-args", *arguments]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment(domain))


@contextmanager
def running(log_path, domain, *nodes):
    """Nodes (name, parameters) as processes; each has to end with code 0 and without a traceback after Ctrl-C."""
    with log_path.open("w") as log:
        processes = [start(name, log, domain, **parameters) for name, parameters in nodes]
        try:
            yield processes
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT)
            codes = [process.wait(timeout=20) for process in processes]
    text = log_path.read_text()
    assert codes == [0] * len(nodes) and "Traceback" not in text, text


class Probe:
    """Stands where the other nodes would: hears everything, sends commands."""

    def __init__(self, domain, raw=True, compressed=True):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("probe", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received = {}
        self._hear(Clock, "/clock")
        self._hear(String, "sim/outcome")
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._hear(String, "sim/scene", latched)
        for group in ROBOT.groups:
            self._hear(JointState, group.measured.topic)
        for camera in ROBOT.cameras:
            if raw:
                self._hear(Image, camera.topic)
            if compressed:
                self._hear(CompressedImage, f"{camera.topic}/compressed")
        self.publishers = [self.node.create_publisher(JointState, g.command.topic, 10) for g in ROBOT.groups]

    def _hear(self, kind, topic, qos=50):
        self.received[topic] = []
        self.node.create_subscription(kind, topic, self.received[topic].append, qos)

    def wait(self, condition, timeout_s=10.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.executor.spin_once(timeout_sec=0.05)
        return True

    def forget(self):
        for messages in self.received.values():
            messages.clear()

    @property
    def now_ns(self):
        return stamp_ns(self.received["/clock"][-1].clock)

    def command(self, ns, position=HOME, groups=(0, 1)):
        for i in groups:
            group = ROBOT.groups[i]
            msg = joint_state_msg(ROBOT, group, "command", stamp_ns=ns, position=position[group.columns])
            self.publishers[i].publish(msg)

    def call(self, service):
        client = self.node.create_client(Trigger, service)
        assert client.wait_for_service(timeout_sec=10)
        future = client.call_async(Trigger.Request())
        assert self.wait(future.done)
        return future.result()

    @property
    def scene(self):
        return read_scene_text(self.received["sim/scene"][-1].data)

    def newest(self, topic):
        return json.loads(self.received[topic][-1].data)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope="module")
def lockstep(tmp_path_factory):
    """(probe, log): a simulator in lock-step that has been found by the probe."""
    log = tmp_path_factory.mktemp("lockstep") / "log"
    with running(log, DOMAIN, ("sim", {"lockstep": True, "seed": 3})):
        probe = Probe(DOMAIN)
        try:
            assert probe.wait(lambda: all(probe.received.values()), START_TIMEOUT_S), log.read_text()
            assert probe.wait(lambda: all(p.get_subscription_count() for p in probe.publishers))
            yield probe, log
        finally:
            probe.close()


@pytest.fixture(autouse=True)
def quiet(request):
    """Each lock-step test begins with nothing received but the present time."""
    if "lockstep" in request.fixturenames:
        probe, _ = request.getfixturevalue("lockstep")
        probe.wait(lambda: False, 0.2)
        now = probe.received["/clock"][-1:]
        probe.forget()
        probe.received["/clock"] += now


def test_it_offers_the_robots_topics_and_types(lockstep):
    probe, _ = lockstep
    offered = dict(probe.node.get_topic_names_and_types())
    for group in ROBOT.groups:
        assert offered[f"/{group.measured.topic}"] == ["sensor_msgs/msg/JointState"]
        assert probe.node.count_subscribers(group.command.topic) == 1
    for camera in ROBOT.cameras:
        assert offered[f"/{camera.topic}"] == ["sensor_msgs/msg/Image"]
        assert offered[f"/{camera.topic}/compressed"] == ["sensor_msgs/msg/CompressedImage"]
    assert offered["/clock"] == ["rosgraph_msgs/msg/Clock"]


def test_a_tick_is_sent_whole_once_every_command_came(lockstep):
    probe, _ = lockstep
    began_ns = probe.now_ns
    assert began_ns % PERIOD_NS == 0
    target = HOME.copy()
    target[0] = 0.2
    ticks = 30
    for k in range(1, ticks + 1):
        probe.command(probe.now_ns, target)
        assert probe.wait(lambda: probe.now_ns == began_ns + k * PERIOD_NS), f"stands at tick {k}"  # noqa: B023
    expected = [began_ns + k * PERIOD_NS for k in range(1, ticks + 1)]
    topics = [group.measured.topic for group in ROBOT.groups]
    topics += [topic for camera in ROBOT.cameras for topic in (camera.topic, f"{camera.topic}/compressed")]
    assert probe.wait(lambda: all(len(probe.received[topic]) >= ticks for topic in topics))
    for topic in topics:
        assert [stamp_ns(m.header.stamp) for m in probe.received[topic]] == expected
    last = probe.received[ROBOT.groups[0].measured.topic][-1]
    assert last.position[0] == pytest.approx(0.2, abs=0.02)
    assert len(last.velocity) == len(last.effort) == 7
    assert last.position[6] == pytest.approx(0.01844 + 0.1 * 0.03956, abs=1e-3)  # metres of finger on the wire


def test_raw_and_compressed_are_the_same_picture(lockstep):
    probe, _ = lockstep
    probe.command(probe.now_ns)
    camera = ROBOT.cameras[0]
    assert probe.wait(lambda: probe.received[camera.topic] and probe.received[f"{camera.topic}/compressed"])
    raw, compressed = probe.received[camera.topic][0], probe.received[f"{camera.topic}/compressed"][0]
    assert (raw.encoding, raw.width, raw.height, raw.step) == ("rgb8", 640, 480, 1920)
    assert compressed.format == "jpeg"
    picture = RawPicture(camera.name, 0, "rgb8", raw.width, raw.step, bytes(raw.data)).encode()
    assert picture.jpeg == bytes(compressed.data)


def test_one_arm_or_an_old_command_does_not_move_time(lockstep):
    probe, _ = lockstep
    began_ns = probe.now_ns
    probe.command(began_ns, groups=(0,))
    probe.command(began_ns - PERIOD_NS, groups=(1,))
    assert not probe.wait(lambda: probe.now_ns != began_ns, 1.5)
    probe.command(began_ns, groups=(1,))
    assert probe.wait(lambda: probe.now_ns == began_ns + PERIOD_NS)


def test_a_waiting_simulator_repeats_its_tick_and_says_what_it_waits_for(lockstep):
    probe, log = lockstep
    began_ns = probe.now_ns
    probe.command(began_ns, groups=(0,))
    text = f"waiting for a command on {ROBOT.groups[1].command.topic}, stamped {began_ns / 1e9:.3f} s or later"
    assert probe.wait(lambda: text in log.read_text(), 8.0), log.read_text()
    camera = ROBOT.cameras[0].topic
    assert len(probe.received[camera]) >= 3
    assert {stamp_ns(m.header.stamp) for m in probe.received[camera]} == {began_ns}
    assert len({bytes(m.data) for m in probe.received[camera]}) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"position": [0.0] * 6}, "expected 7 joint positions, found 6"),
        ({"name": [f"axis{i}" for i in range(7)]}, "expected joints joint0, "),
        ({"position": [0.0] * 6 + [float("nan")]}, "expected a finite position of left_gripper, found nan"),
    ],
    ids=["count", "names", "nan"],
)
def test_a_wrong_command_is_ignored_and_named(lockstep, change, complaint):
    probe, log = lockstep
    probe.wait(lambda: False, 1.0)  # one such line a second
    before_ns = probe.now_ns
    probe.command(before_ns)  # ends a tick that another test left half answered
    assert probe.wait(lambda: probe.now_ns > before_ns)
    began_ns = probe.now_ns
    group = ROBOT.groups[0]
    msg = joint_state_msg(ROBOT, group, "command", stamp_ns=began_ns, position=HOME[group.columns])
    for field, value in change.items():
        setattr(msg, field, value)
    probe.publishers[0].publish(msg)
    probe.command(began_ns, groups=(1,))
    assert probe.wait(lambda: complaint in log.read_text()), log.read_text()
    assert "command ignored, " in log.read_text()
    assert probe.now_ns == began_ns
    probe.command(began_ns)
    assert probe.wait(lambda: probe.now_ns == began_ns + PERIOD_NS)


def test_reset_takes_the_next_scene_at_its_seeds_own_time(lockstep):
    probe, _ = lockstep
    began_ns = probe.now_ns
    moved = HOME.copy()
    moved[0] = 0.5
    probe.command(began_ns, moved)
    assert probe.wait(lambda: probe.now_ns == began_ns + PERIOD_NS)
    assert probe.call("sim/reset").success
    assert probe.wait(lambda: probe.received["sim/scene"] and probe.now_ns > began_ns + 2 * PERIOD_NS)
    scene, task = probe.scene
    assert probe.wait(lambda: probe.received["sim/outcome"] and probe.newest("sim/outcome")["seed"] == scene.seed)
    outcome = probe.newest("sim/outcome")
    assert (scene.seed, outcome["success"], outcome["ever_success"]) == (4, False, False)
    assert probe.now_ns == episode_start_ns(4, PERIOD_NS)
    assert outcome["task"] == task.name == "hand_over" and outcome["stage"] == "never touched"
    assert {name: one["stage"] for name, one in outcome["tasks"].items()} == dict.fromkeys(TASKS, "never touched")
    assert outcome["sim_time"] == pytest.approx(probe.now_ns / 1e9)
    measured = probe.received[ROBOT.groups[0].measured.topic]
    assert probe.wait(lambda: stamp_ns(measured[-1].header.stamp) == probe.now_ns)
    assert measured[-1].position[0] == pytest.approx(0.0, abs=1e-6)


def test_a_second_simulator_refuses_to_start(lockstep):
    result = subprocess.run(
        [sys.executable, "-m", "rdt_ros.nodes", "sim"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(DOMAIN),
    )
    assert result.returncode == 2
    assert "is published by another sim already" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"robot": "sim_alhoa"}, "is 'sim_aloha' meant?"),
        ({"joint_rate_hz": 20.0}, "expected at least the control rate, 25 Hz, found 20"),
        ({"seed": -1}, "seed"),
        ({"task": "fold"}, "task: expected one of hand_over, lift, found 'fold'"),
    ],
    ids=["robot", "rate", "seed", "task"],
)
def test_a_wrong_setting_is_one_line_and_code_2(parameters, complaint, tmp_path):
    with (tmp_path / "log").open("w") as log:
        code = start("sim", log, DOMAIN, **parameters).wait(timeout=30)
    text = (tmp_path / "log").read_text()
    assert code == 2 and complaint in text.splitlines()[-1] and "Traceback" not in text, text


def test_real_time_keeps_pace_and_rates(tmp_path):
    with running(tmp_path / "log", REAL_TIME_DOMAIN, ("sim", {})):
        probe = Probe(REAL_TIME_DOMAIN, raw=False)
        try:
            assert probe.wait(lambda: all(probe.received.values()), START_TIMEOUT_S), (tmp_path / "log").read_text()
            probe.wait(lambda: False, 1.0)
            probe.forget()
            began_s = time.monotonic()
            probe.wait(lambda: False, 3.0)
            passed_s = time.monotonic() - began_s
            received = {topic: list(messages) for topic, messages in probe.received.items()}
        finally:
            probe.close()
    clock_ns = [stamp_ns(msg.clock) for msg in received["/clock"]]
    assert (np.diff(clock_ns) > 0).all() and len(clock_ns) > 100 * passed_s * 0.6
    factor = (clock_ns[-1] - clock_ns[0]) / 1e9 / passed_s
    assert 0.6 < factor < 1.05  # a busy machine may slow it, nothing may hurry it
    for group in ROBOT.groups:
        stamps = [stamp_ns(msg.header.stamp) for msg in received[group.measured.topic]]
        assert set(np.diff(stamps)) == {10_000_000}
    for camera in ROBOT.cameras:
        gaps = np.diff([stamp_ns(msg.header.stamp) for msg in received[f"{camera.topic}/compressed"]])
        assert len(gaps) > 50 and np.median(gaps) == pytest.approx(1e9 / 30, abs=2e6)


def test_teleop_does_the_task_when_asked_to_and_when_the_recorder_begins(tmp_path):
    """Twice in lock-step: the first scene starts by the service, the second, after a reset, with a recording."""
    nodes = ("sim", {"lockstep": True, "seed": 5, "max_yaw": 0.5, "task": "lift"}), ("teleop", {})
    with running(tmp_path / "log", TELEOP_DOMAIN, *nodes):
        probe = Probe(TELEOP_DOMAIN, raw=False, compressed=False)
        recorder = probe.node.create_publisher(RecorderState, "recorder/state", 10)

        def begin():
            assert probe.call("teleop/start").success

        def record():
            assert probe.wait(recorder.get_subscription_count)
            recorder.publish(RecorderState(state=RecorderState.IDLE))
            assert not probe.wait(lambda: probe.now_ns != began_ns, 1.0)  # the simulator still stands
            recorder.publish(RecorderState(state=RecorderState.RECORDING))
            recorder.publish(RecorderState(state=RecorderState.RECORDING))  # comes twice a second, and changes nothing

        try:
            for seed, start_it in ((5, begin), (6, record)):
                assert probe.wait(lambda: f"seed={seed}," in (tmp_path / "log").read_text(), START_TIMEOUT_S)  # noqa: B023
                assert probe.wait(lambda: probe.received["/clock"])
                began_ns = probe.now_ns
                start_it()
                done = probe.wait(
                    lambda: probe.received["sim/outcome"] and probe.newest("sim/outcome")["ever_success"], 60
                )
                assert done, probe.newest("sim/outcome")
                outcome = probe.newest("sim/outcome")
                assert (outcome["seed"], outcome["task"], outcome["stage"]) == (seed, "lift", "success")
                assert probe.call("sim/reset").success
                probe.received["sim/outcome"].clear()
        finally:
            probe.close()
