"""A recorded episode drives the robot again, as a person would let it: `rdt demo`, then `policy:=replay`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("rclpy")

from rdt_ros.bringup import environment  # noqa: E402
from rdt_ros.nodes.operator import Operator  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.slow]
DOMAIN = "83"
SEED = 3
HELD_S = 0.5  # by the left arm alone
PATIENCE_S = 240.0  # for nodes that start on a busy machine and 14 simulated seconds


@pytest.fixture(scope="module")
def episode(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "rdt_ros.cli", "demo"]
    command += ["--seed", str(SEED), "--out", str(out), "--domain", DOMAIN]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.splitlines()[-1])["episode"]


@pytest.fixture
def up():
    """Starts `rdt up inference` with these arguments; it ends with the test."""
    processes = []

    def start(**arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "rdt_ros.cli", "up", "inference", "policy:=replay", f"domain:={DOMAIN}"]
        command += [f"{name}:={value}" for name, value in arguments.items()]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("lockstep", ["true", "false"])
def test_the_cube_is_handed_over_again(lockstep, episode, up, monkeypatch, tmp_path):
    patient = tmp_path / "patient.yaml"  # a busy machine may be late with joints; that is not what is tested here
    patient.write_text('"/**/executor": {ros__parameters: {stale_after_s: 10.0}}\n')
    for name, value in {**os.environ, **environment(DOMAIN)}.items():
        monkeypatch.setenv(name, value)
    process = up(sim="true", episode=episode, seed=str(SEED), lockstep=lockstep, enable="true", params=str(patient))
    with Operator("sim") as operator:

        def held() -> bool:
            assert process.poll() is None, process.stderr.read()
            outcome = operator.outcome
            return outcome is not None and outcome["success"] and outcome["held_s"] > HELD_S

        assert operator.wait_for(held, PATIENCE_S), (operator.outcome, operator.executor_state)
        assert operator.outcome["seed"] == SEED


def test_an_episode_of_another_robot_is_one_line(episode, up):
    process = up(robot="agilex", episode=episode)
    assert process.wait(60) == 2
    line = process.stderr.read()
    assert f"{episode}: expected an episode of robot agilex, found sim_aloha" in line and len(line.splitlines()) == 1
