"""What the recorder's benches share: a robot that sends, a recorder, and what the processes cost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rdt_ros.bringup import NodeSpec, Plan, environment
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.supervisor import Supervisor

if TYPE_CHECKING:
    from rdt_msgs.msg import RecorderState

    from rdt_ros.nodes.operator import Operator

RECORDER = "bench_recorder"
START_S = 60.0  # for processes to find each other
ODOMETRY = {"odometry": "odom_raw", "velocity": [0.3, 0.0, 0.5]}
POSES = [{"name": "left_eef", "topic": "puppet/end_pose_left", "slots": "left_eef"}]


class Rig:
    """`bench_robot` and `camera_sync` as processes, and someone who watches, as a context."""

    def __init__(self, folder: Path, *, robot: str, rate_hz: float, domain: str, fault: str = "none") -> None:
        os.environ.update(environment(domain))  # before rclpy is imported
        self._robot_file = folder / "bench_robot.yaml"
        self._robot_file.write_text(yaml.safe_dump(_robot(robot, rate_hz)))
        self.robot = load_robot(str(self._robot_file))
        self._domain = domain
        robot_node = NodeSpec("bench_robot", {"robot": str(self._robot_file), "fault": fault})
        sync_node = NodeSpec("camera_sync", {"robot": str(self._robot_file), "leader": True})
        self.sources = self._supervisor(robot_node, sync_node)

    def __enter__(self) -> Rig:
        from rdt_ros.nodes.operator import Operator

        self.operator: Operator = Operator(recorder=RECORDER)
        self.operator.__enter__()
        self.sources.__enter__()
        self.wait(lambda: int(self.operator.diagnostics.get("camera_sync", {}).get("sets", 0)) > 0, self.sources)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.sources.__exit__(*exception)
        self.operator.__exit__(None, None, None)

    def recorder(self, output: Path, **parameters: Any) -> Supervisor:
        """The recorder as a process of its own, ready where `ready` says so."""
        self.operator.recorder_state = None
        given = {"robot": str(self._robot_file), "instruction": "bench", "min_free_gb": 0.0, **parameters}
        return self._supervisor(NodeSpec(RECORDER, {"output": str(output), **given}))

    def ready(self, recorder: Supervisor) -> None:
        """Waits until the recorder is heard."""
        self.wait(lambda: self.operator.recorder_state is not None, recorder)

    def wait(self, condition: Callable[[], bool], supervisor: Supervisor, timeout_s: float = START_S) -> None:
        """Receives until the condition holds; InputError where a process has ended or time ran out."""
        if self.operator.wait_for(lambda: condition() or supervisor.ended() is not None, timeout_s):
            if (ended := supervisor.ended()) is None:
                return
            raise InputError(f"bench recorder: {ended[0]} ended with exit code {ended[1]}: {ended[2]}")
        said = "; ".join(self.state.warnings) if self.operator.recorder_state else "nothing"
        raise InputError(f"bench recorder: waited {timeout_s:g} s in vain, the recorder says: {said}")

    def call(self, command: str, timeout_s: float = 60.0) -> str:
        """Calls a service of the recorder."""
        return self.operator.call(f"{RECORDER}/{command}", timeout_s)

    @property
    def state(self) -> RecorderState:
        """What the recorder said last; only once it is ready."""
        assert self.operator.recorder_state is not None
        return self.operator.recorder_state

    def fail(self) -> None:
        """Lets the camera fail from now on."""
        os.kill(self.sources.pid("bench_robot"), signal.SIGUSR1)

    def _supervisor(self, *nodes: NodeSpec) -> Supervisor:
        return Supervisor(Plan(nodes, "", environment(self._domain), ()), lambda _line: None)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, key: str) -> float:
    """A line of /proc/PID/status in MB: VmHWM is the most, VmRSS what it is now (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kb = next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    return kb * 1024 / 1e6


def _robot(robot: str, rate_hz: float) -> dict[str, Any]:
    """The robot file at that control rate, with odometry and a pose: everything that may be recorded."""
    data = yaml.safe_load(robot_path(robot).read_text())
    return {"base": ODOMETRY, "poses": POSES, **data, "control_rate_hz": rate_hz}
