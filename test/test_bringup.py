"""Which nodes run with which parameters, and what is refused before anything starts."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from rdt_ros import bringup
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.share import share_dir
from rdt_ros.types import Observation


def names(plan: bringup.Plan) -> list[str]:
    return [node.name for node in plan.nodes]


def parameters(plan: bringup.Plan, name: str) -> dict:
    return dict(next(node for node in plan.nodes if node.name == name).parameters)


def test_on_the_robot_no_simulator_no_domain_and_the_arms_wait():
    plan = bringup.plan("inference", {"checkpoint": "random:tiny", "instruction": "fold"})
    assert names(plan) == ["camera_sync", "policy", "executor"]
    assert plan.namespace == "" and "ROS_DOMAIN_ID" not in plan.environment
    assert parameters(plan, "executor") == {
        "robot": "agilex", "enable_at_start": False, "lockstep": False, "use_sim_time": False,
        "joining": "crossfade", "require_deadman": False, "dry_run": False,
    }  # fmt: skip
    assert plan.notes == ("the arms do not move until you type: rdt enable",)


def test_sim_true_adds_the_simulator_and_changes_robot_clock_and_place_alone():
    real = bringup.plan("inference", {"checkpoint": "random:tiny", "robot": "sim_aloha"})
    sim = bringup.plan("inference", {"checkpoint": "random:tiny", "sim": "true"})
    assert names(sim) == ["sim", *names(real)]
    for name in names(real):
        assert {**parameters(real, name), "use_sim_time": True} == {**parameters(sim, name), "use_sim_time": True}
    assert (sim.namespace, sim.environment["ROS_DOMAIN_ID"]) == ("sim", "77")
    assert sim.notes == ("the arms do not move until you type: rdt enable --domain 77 --namespace sim",)


def test_the_profile_follows_the_range_unless_it_is_the_users_own(monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.delenv(name, raising=False)
    local = bringup.environment()
    assert local["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("fastdds_local.xml")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", local["FASTRTPS_DEFAULT_PROFILES_FILE"])
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert bringup.environment()["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("fastdds.xml")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/my/own.xml")
    assert bringup.environment()["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/my/own.xml"


def test_the_local_profile_is_the_open_one_with_a_white_list():
    """Both know the same shared memory; a change of one must reach the other."""
    trees = [ElementTree.parse(share_dir() / "config" / name) for name in ("fastdds.xml", "fastdds_local.xml")]
    elements = [[(e.tag, e.text and e.text.strip()) for e in tree.iter()] for tree in trees]
    added = [element for element in elements[1] if element not in elements[0]]
    assert [tag.rpartition("}")[2] for tag, _ in added] == ["interfaceWhiteList", "address"]
    assert added[1][1] == "127.0.0.1"
    assert [element for element in elements[1] if element not in added] == elements[0]


def test_record_never_runs_an_executor():
    assert names(bringup.plan("record", {"output": "o"})) == ["camera_sync", "recorder"]
    plan = bringup.plan("record", {"output": "o", "sim": "true"})
    assert names(plan) == ["sim", "teleop", "camera_sync", "recorder"]
    assert "autostart" not in parameters(plan, "teleop")  # it begins when the recorder does
    assert parameters(plan, "camera_sync")["leader"] is True


def test_a_repeated_episode_says_which_robot_it_is_of(tmp_path):
    robot, path = load_robot("sim_aloha_small"), tmp_path / "episode.hdf5"
    joints = np.zeros(len(robot.joints), np.float32)
    recording = Recording(robot.period_ns, robot.action_offset_steps)
    writer = EpisodeWriter(path, Header(robot, robot_path(robot.name).read_text(), "give it"))
    for tick in range(1, 5):
        observation = Observation(tick * robot.period_ns, robot.name, (), robot.joint_names, joints, leader=joints)
        for step in recording.add(observation):
            writer.add(step)
    writer.finish()
    for plan in (
        bringup.plan("inference", {"policy": "replay", "episode": str(path), "sim": "true"}),
        bringup.plan("replay", {"source": str(path)}),
    ):
        assert {node.parameters["robot"] for node in plan.nodes if "robot" in node.parameters} == {"sim_aloha_small"}


def test_replay_and_sim():
    assert names(bringup.plan("replay", {"source": "x"})) == ["replay", "camera_sync"]
    plan = bringup.plan("replay", {"source": "x", "policy": "rdt", "checkpoint": "random:tiny"})
    assert names(plan) == ["replay", "camera_sync", "policy"]
    assert names(bringup.plan("sim", {})) == ["sim"]
    assert names(bringup.plan("sim", {"teleop": "true"})) == ["sim", "teleop"]
    sim = parameters(bringup.plan("sim", {"task": "lift", "max_yaw": "0.5"}), "sim")
    assert (sim["task"], sim["max_yaw"]) == ("lift", 0.5)


def test_discovery_stays_on_this_host_unless_the_user_opens_it(monkeypatch):
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    assert bringup.environment()["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert bringup.environment()["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds_local.xml")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert bringup.environment()["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert bringup.environment()["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.delenv("ROS_LOCALHOST_ONLY", raising=False)
    assert bringup.environment()["ROS_LOCALHOST_ONLY"] == "1"


@pytest.mark.parametrize(
    ("deployment", "given", "line"),
    [
        ("inferense", {}, "expected one of inference, record, replay, sim, found 'inferense'"),
        ("inference", {"chekpoint": "x"}, "unknown argument chekpoint, is checkpoint meant?"),
        ("record", {}, "record: missing argument output:=..."),
        ("inference", {"sim": "yes"}, "sim: expected true or false, found 'yes'"),
        ("inference", {"policy": "rtd"}, "policy: expected one of rdt, scripted, replay, hold, found 'rtd'"),
        ("inference", {}, "policy: rdt needs checkpoint:=..."),
        ("inference", {"policy": "replay"}, "policy: replay needs episode:=..."),
        ("inference", {"policy": "scripted"}, "policy: scripted knows only the simulated scene"),
        ("inference", {"policy": "hold", "robot": "agilx"}, "found 'agilx', is 'agilex' meant?"),
        ("sim", {"seed": "x"}, "seed: expected a whole number, found 'x'"),
        ("replay", {"source": "x", "rate": "fast"}, "rate: expected a number, found 'fast'"),
        ("sim", {"params": "/nowhere.yaml"}, "params: no such file: /nowhere.yaml"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(deployment, given, line):
    with pytest.raises(InputError) as error:
        bringup.plan(deployment, given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
