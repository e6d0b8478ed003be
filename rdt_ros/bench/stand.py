"""Where `rdt bench faults` runs: an inference on the simulated robot whose nodes can be killed, frozen and cut off.

Every node is a process of its own. The simulated robot keeps the system's time as a real one does, so the executor runs
on its own thread and there is no `/clock`. A single topic is cut by killing a relay that carries it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import yaml

from rdt_ros import bringup
from rdt_ros.control.executor import ExecutorConfig
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.sensing.synchroniser import SyncConfig
from rdt_ros.supervisor import Supervisor

if TYPE_CHECKING:
    from rdt_ros.nodes.bench_watch import BenchWatch

ROBOT = "sim_aloha"
CAMERAS = 2  # and small pictures, so that drawing takes little time from what is measured
PICTURE = {"width": 160, "height": 120}
CAMERA_TOPIC, ARM_TOPIC = "camera_l/color/image_raw", "puppet/joint_left"
CUT = "cut/"  # in front of the topics that reach the other nodes through a relay only
COMMAND_RATE_HZ = 100.0
READY_S = 60.0
ANSWER_S = 2.0  # for a service; one of a killed node is in the graph for a while
MOVING = 0.8  # rad/s of a measured arm joint, at which a fault may begin
CLONE_NEWNET = 0x40000000  # unshare(2)


class Stand:
    """The nodes by their names, and the relays `camera relay` and `joints relay`, as a context.

    `remote` names a node that runs at the other end of a network cable of its own (Linux, root). `patience` multiplies
    the times after which joints are stale and a set of pictures is given up: a busy computer is no fault then.
    """

    def __init__(
        self, domain: str, say: Callable[[str], None], *, patience: float = 1.0, remote: str | None = None
    ) -> None:
        self._say = say
        self._remote = remote
        self._folder = tempfile.TemporaryDirectory(prefix="rdt_faults_")
        seen, drawn = _robot_files(Path(self._folder.name))
        self.robot = load_robot(seen)
        self.cable = Cable() if remote else None
        if remote:
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
        arguments = {"sim": "true", "policy": "scripted", "robot": str(seen), "domain": domain}
        self._plan = bringup.plan("inference", arguments)
        self._specs = {node.name: node for node in self._plan.nodes}
        self._set("sim", system_time=True, robot=str(drawn))
        self._set("policy", use_sim_time=False)
        stale_after_s = patience * ExecutorConfig.stale_after_s
        self._set("executor", use_sim_time=False, command_rate_hz=COMMAND_RATE_HZ, stale_after_s=stale_after_s)
        self._set("camera_sync", timeout_ms=patience * SyncConfig.timeout_ms)
        self._specs["camera relay"] = _relay(f"{CAMERA_TOPIC}/compressed", "CompressedImage")
        self._specs["joints relay"] = _relay(ARM_TOPIC, "JointState")
        self._nodes: dict[str, Supervisor] = {}
        self.enabled_s: list[float] = []  # system times at which an `~/enable` was asked for that was accepted
        os.environ.update(self._plan.environment)
        from rdt_ros.nodes.bench_watch import BenchWatch  # after the environment: ROS reads it once

        self.watch: BenchWatch = BenchWatch(self.robot, self._plan.namespace)

    def __enter__(self) -> Stand:
        self.watch.__enter__()
        for name in self._specs:
            self.start(name)
        return self

    def __exit__(self, *_exception: object) -> None:
        for name in list(self._nodes):
            self.kill(name)
        self.watch.__exit__(None, None, None)
        self._folder.cleanup()
        if self.cable is not None:
            self.cable.close()

    def start(self, name: str) -> None:
        """Starts a node that does not run."""
        plan = dataclasses.replace(self._plan, nodes=(self._specs[name],))
        enter = Supervisor(plan, self._say).__enter__
        self._nodes[name] = self.cable.there(enter) if self.cable and name == self._remote else enter()

    def kill(self, name: str) -> None:
        """`kill -9`."""
        self.send(name, signal.SIGKILL)
        self._nodes.pop(name).__exit__()

    def send(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a node's process, where it runs."""
        if self._nodes[name].ended() is None:
            os.kill(self._nodes[name].pid(self._specs[name].name), number)

    def enable(self) -> str:
        """Calls `~/enable`; the refusal, empty where it was accepted."""
        asked_s = time.time()
        try:
            self.watch.call("executor/enable", ANSWER_S)
        except InputError as error:
            return str(error)
        self.enabled_s.append(asked_s)
        return ""

    def move(self) -> list[str]:
        """Enables until the arms are in motion; the different refusals on the way. Starts what has ended again."""
        refusals: dict[str, str] = {}  # without figures -> the first of them
        deadline = time.monotonic() + READY_S
        while not self.moves():
            if time.monotonic() > deadline:
                raise InputError(f"bench faults: the arms did not move within {READY_S:g} s: {list(refusals.values())}")
            for name in [name for name, node in self._nodes.items() if node.ended()]:
                self.kill(name)
                self.start(name)
            if self.watch.state != "running":
                refusal = self.enable()
                refusals.setdefault("".join(c for c in refusal if not c.isdigit()), refusal)
            self.watch.wait_for(self.moves, 0.5)
        return [refusal for refusal in refusals.values() if refusal]

    def moves(self) -> bool:
        """Whether the arms follow a plan at speed."""
        return self.watch.state == "running" and self.watch.speed > MOVING

    def _set(self, name: str, **parameters: object) -> None:
        spec = self._specs[name]
        self._specs[name] = dataclasses.replace(spec, parameters={**spec.parameters, **parameters})


class Cable:
    """A network of two computers on this one: this process in one network namespace, `there` in another.

    The namespaces are new, so nothing of the computer's own network is touched or reached. InputError without root.
    """

    def __init__(self) -> None:
        _own_network()
        self._work: SimpleQueue[tuple[Callable[[], Any], Future] | None] = SimpleQueue()
        # one thread for all that is there: the processes that it starts are told when it ends
        self._thread = threading.Thread(target=self._live_there, name="there", daemon=True)
        self._thread.start()
        _ip(f"link add here type veth peer name there netns {self.there(threading.get_native_id)}")
        for end, call in ((1, lambda function: function()), (2, self.there)):
            side = ("here", "there")[end - 1]
            for command in ("link set lo up", f"address add 10.0.0.{end}/24 dev {side}", f"link set {side} up"):
                call(partial(_ip, command))

    def there(self, function: Callable[[], Any]) -> Any:
        """Calls a function in the other namespace; processes that it starts live there."""
        future: Future = Future()
        self._work.put((function, future))
        return future.result()

    def cut(self) -> None:
        """No packet passes any more."""
        _ip("link set here down")

    def mend(self) -> None:
        """As before the cut."""
        _ip("link set here up")

    def close(self) -> None:
        """Ends the other side; its processes have ended."""
        self._work.put(None)
        self._thread.join()

    def _live_there(self) -> None:
        _own_network()
        while (work := self._work.get()) is not None:
            function, future = work
            try:
                future.set_result(function())
            except Exception as error:  # the caller's, not this thread's
                future.set_exception(error)


def _own_network() -> None:
    """Moves this thread, and what it starts from now on, into a new network namespace."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise InputError(f"bench faults: cutting a network needs root: unshare: {os.strerror(ctypes.get_errno())}")


def _ip(arguments: str) -> None:
    done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"bench faults: ip {arguments}: {done.stderr.strip()}")


def _relay(topic: str, kind: str) -> bringup.NodeSpec:
    return bringup.NodeSpec("bench_relay", {"source": CUT + topic, "target": topic, "kind": kind})


def _robot_files(folder: Path) -> tuple[Path, Path]:
    """The robot as all nodes see it, and as the simulator sees it: there two topics have other names."""
    data = yaml.safe_load(robot_path(ROBOT).read_text())
    data["cameras"] = [{**camera, **PICTURE} for camera in data["cameras"][:CAMERAS]]
    seen = folder / "robot.yaml"
    seen.write_text(yaml.safe_dump(data))
    for place in (*(group["measured"] for group in data["groups"]), *data["cameras"]):
        if place["topic"] in (CAMERA_TOPIC, ARM_TOPIC):
            place["topic"] = CUT + place["topic"]
    drawn = folder / "sim.yaml"
    drawn.write_text(yaml.safe_dump(data))
    return seen, drawn
