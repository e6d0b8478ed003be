"""Demonstrations: what a seed decides, what is recorded, and that it is what the nodes record."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.evaluation import demonstrations
from rdt_ros.evaluation.demonstrations import DemonstrationConfig, Studio, demonstrate, episode_path, record
from rdt_ros.evaluation.episode_clock import episode_start_ns
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.sim.disturbance import Disturbance
from rdt_ros.sim.task import HAND_OVER, LIFT, TASKS

ROBOT = load_robot("sim_aloha_small")
CONFIG = DemonstrationConfig()
DOMAIN = "61"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The settings for a robot with one small camera, which is drawn fast."""
    path = tmp_path_factory.mktemp("robot") / "sim_aloha_small.yaml"
    lines = robot_path("sim_aloha_small").read_text().replace("width: 320, height: 240", "width: 48, height: 36")
    path.write_text("".join(line for line in lines.splitlines(True) if "role: external" in line or "role:" not in line))
    return DemonstrationConfig(robot=str(path))


@pytest.fixture
def plain(tiny):
    """The shorter task alone, undisturbed."""
    return dataclasses.replace(tiny, tasks=("lift",), shares=(1.0,), disturbed=False)


def content(path):
    """All that an episode holds, comparable."""
    with EpisodeReader(path) as episode:
        return [
            (o.stamp_ns, *(p.jpeg for p in o.pictures), o.measured.tobytes(), o.leader.tobytes(), episode.instruction)
            for o in episode.observations()
        ]


def test_an_attempt_beyond_the_limits_that_the_check_knows_is_made_anew(plain, tmp_path, monkeypatch):
    """A gripper that opens further than its robot file says, here because the file says less."""
    path = tmp_path / "sim_aloha_small.yaml"
    path.write_text(Path(plain.robot).read_text().replace("position: [0.065, 0.975]", "position: [0.065, 0.8]"))
    monkeypatch.setattr(demonstrations, "ATTEMPTS", 1)
    (recorded,) = record(dataclasses.replace(plain, robot=str(path)), tmp_path, [3])
    assert recorded.failures == ("beyond the limits",) and not recorded.path
    assert not episode_path(tmp_path, 3).exists()


def test_a_seed_decides_all_and_another_attempt_has_other_noise():
    first, again = demonstrate(CONFIG, ROBOT, 5), demonstrate(CONFIG, ROBOT, 5)
    np.testing.assert_array_equal(first.noise, again.noise)
    np.testing.assert_array_equal(first.commands, again.commands)
    seed = next(s for s in range(50) if demonstrate(CONFIG, ROBOT, s).disturbance.sigma_rad > 0)
    one, other = (demonstrate(CONFIG, ROBOT, seed, attempt) for attempt in (0, 1))
    np.testing.assert_array_equal(one.commands, other.commands)
    assert (one.instruction, one.scene) == (other.instruction, other.scene)
    assert one.noise.std() > 0.001 and not (one.noise == other.noise).all()


def test_the_shares_wordings_and_disturbances_are_those_asked_for():
    drawn = [demonstrate(CONFIG, ROBOT, seed) for seed in range(200)]
    assert 0.5 < np.mean([d.task is HAND_OVER for d in drawn]) < 0.7
    assert {d.instruction for d in drawn} == {text for task in TASKS.values() for text in task.instructions}
    assert all(d.instruction in d.task.instructions for d in drawn)
    assert {d.disturbance.sigma_rad for d in drawn} == {0, 0.01, 0.02}
    assert {bool(d.disturbance.pauses) for d in drawn} == {True, False}
    is_lift = np.array([d.task is LIFT for d in drawn])
    scenes = np.array([[*d.scene.position[:2], d.scene.yaw] for d in drawn])
    apart = scenes[is_lift].mean(0) - scenes[~is_lift].mean(0)
    assert (np.abs(apart) < 0.4 * scenes.std(0)).all()  # no task has scenes of its own
    only = dataclasses.replace(CONFIG, tasks=("lift",), shares=(1.0,), disturbed=False)
    plain = [demonstrate(only, ROBOT, seed) for seed in range(5)]
    for seed, demonstration in enumerate(plain):
        assert demonstration.task is LIFT and not demonstration.noise.any()
        assert demonstration.disturbance == Disturbance()
        np.testing.assert_array_equal(demonstration.commands[:231], LIFT.plan(drawn[seed].scene, 25))


def test_commands_keep_the_limits_also_where_they_pause_and_end_at_rest():
    rate_hz = ROBOT.control_rate_hz
    for seed in range(60):
        rows = demonstrate(CONFIG, ROBOT, seed).commands
        assert (rows >= ROBOT.limits("lower")).all() and (rows <= ROBOT.limits("upper")).all()
        assert (np.abs(np.diff(rows, axis=0)).max(axis=0) * rate_hz < ROBOT.limits("velocity")).all()
        assert (np.abs(np.diff(rows, n=2, axis=0)).max(axis=0) * rate_hz**2 < ROBOT.limits("acceleration")).all()
        np.testing.assert_array_equal(rows[0], ROBOT.home[-1])
        assert (rows[-25:] == rows[-1]).all()


def test_an_episode_is_what_the_expert_asked_for_and_what_the_arms_did(tiny, tmp_path):
    seed = next(s for s in range(50) if demonstrate(CONFIG, ROBOT, s).disturbance.sigma_rad == 0.01)
    (made,) = record(tiny, tmp_path, [seed])
    asked = demonstrate(tiny, load_robot(tiny.robot), seed, len(made.failures))
    assert made.path == str(episode_path(tmp_path, seed)) and made.steps == len(asked.commands) - 1
    with EpisodeReader(made.path) as episode:
        steps = list(episode.observations())
        actions = episode.actions
        assert episode.instruction == asked.instruction and episode.complete
    leader = np.array([step.leader for step in steps])
    np.testing.assert_allclose(leader, asked.commands[:-1], atol=1e-6)
    np.testing.assert_array_equal(actions[:-1], leader[1:])  # the clean command of the next tick
    period_ns = ROBOT.period_ns
    assert [step.stamp_ns for step in steps] == [period_ns * (k + 1) for k in range(len(steps))]
    assert all(set(step.source_stamps_ns.values()) == {step.stamp_ns} for step in steps)
    assert all(len(step.pictures) == 1 and step.command is None for step in steps)
    arm = ~ROBOT.is_gripper
    off_rad = np.array([step.measured for step in steps])[:, arm] - leader[:, arm]
    assert off_rad[25:].std() > 0.003  # the noise is in the arms, not in the label


def test_episodes_do_not_depend_on_what_was_recorded_before(plain, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir(), alone.mkdir()
    record(plain, together, [11, 12])
    record(plain, alone, [12])
    assert content(episode_path(together, 12)) == content(episode_path(alone, 12))
    assert content(episode_path(together, 11)) != content(episode_path(together, 12))


def test_a_failed_attempt_is_counted_and_not_recorded(plain, tmp_path, monkeypatch):
    def lame(config, robot, seed, attempt=0):
        """An expert who stays at home at first."""
        demonstration = demonstrate(config, robot, seed, attempt)
        commands = demonstration.commands if attempt else np.tile(robot.home[-1], (30, 1))
        return dataclasses.replace(demonstration, commands=commands, noise=np.zeros_like(commands))

    monkeypatch.setattr(demonstrations, "demonstrate", lame)
    (made,) = record(plain, tmp_path, [3])
    assert made.failures == ("never touched",) and made.steps == 231 + 25 - 1
    monkeypatch.setattr(demonstrations, "ATTEMPTS", 1)
    (none,) = record(plain, tmp_path, [4])
    assert (none.path, none.steps, none.failures) == ("", 0, ("never touched",))
    assert [path.name for path in tmp_path.iterdir()] == ["episode_000003.hdf5"]


def test_an_interrupted_episode_leaves_nothing_and_one_of_a_killed_process_is_made_again(plain, tmp_path, monkeypatch):
    left = tmp_path / "episode_000003.hdf5.partial"
    left.write_bytes(b"what a killed process leaves")
    studio, add, added = Studio(plain, tmp_path), EpisodeWriter.add, []

    def interrupted(writer, step):
        added.append(step)
        add(writer, step)
        if len(added) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(EpisodeWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        studio.record(3)
    assert len(added) == 5 and list(tmp_path.iterdir()) == []
    studio.close()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"tasks": ("fold",), "shares": (1.0,)}, "task: expected one of hand_over, lift, found 'fold'"),
        ({"shares": (1.0,)}, "task share: expected 2 shares, none negative and not all 0, found 1"),
        ({"shares": (1.0, -0.5)}, "found 1, -0.5"),
        ({"shares": (0.0, 0.0)}, "found 0, 0"),
    ],
)
def test_wrong_settings_are_refused(change, line):
    with pytest.raises(InputError, match=line):
        DemonstrationConfig(**change)


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.parametrize("task", ["lift", "hand_over"])
def test_the_nodes_record_the_same_values_and_the_same_jpegs(task, tmp_path):
    pytest.importorskip("rclpy")
    seed, seconds = 7, 9
    command = [
        *(sys.executable, "-m", "rdt_ros.cli", "up", "record", "sim:=true", "lockstep:=true", "autostart:=true"),
        *("robot:=sim_aloha_small", f"output:={tmp_path / 'nodes'}", f"task:={task}", f"seed:={seed}"),
        *("max_yaw:=0.5", "instruction:=lift it", f"max_seconds:={seconds}", f"domain:={DOMAIN}"),
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ))
        try:
            theirs = tmp_path / "nodes" / "episode_0000.hdf5"
            deadline = time.monotonic() + 120
            while not theirs.exists():
                assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
    config = DemonstrationConfig(tasks=(task,), shares=(1.0,), max_yaw=0.5, disturbed=False)
    (mine,) = record(config, tmp_path, [seed])
    with EpisodeReader(theirs) as node_episode, EpisodeReader(mine.path) as own_episode:
        count = len(node_episode)
        assert count > seconds * 25
        np.testing.assert_array_equal(node_episode.actions, own_episode.actions[:count])
        period_ns = node_episode.robot.period_ns
        later_ns = episode_start_ns(seed, period_ns) - period_ns  # the nodes' simulator has one clock for all seeds
        for k, (a, b) in enumerate(zip(node_episode.observations(), own_episode.observations(), strict=False)):
            assert a.stamp_ns - later_ns == b.stamp_ns, k
            assert {n: t - later_ns for n, t in a.source_stamps_ns.items()} == dict(b.source_stamps_ns), k
            assert [p.jpeg for p in a.pictures] == [p.jpeg for p in b.pictures], k
            for field in ("measured", "velocity", "effort", "leader"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=f"{field} of step {k}")
            assert a.command is None and b.command is None
