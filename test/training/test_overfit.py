"""The whole loop learns: a tiny network repeats four demonstrations of the scripted expert."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from rdt_ros import jpeg
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.evaluation.rollout import roll_out
from rdt_ros.policy.trajectory import TrajectoryPolicy
from rdt_ros.robot.description import load_robot, robot_path
from rdt_ros.sim.expert import plan
from rdt_ros.sim.scene import CubeScene
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import read_settings
from rdt_ros.types import Picture

ROBOT = load_robot("sim_aloha")
SECONDS = 3.0
INSTRUCTION = "hand the red cube over to the left arm"
RECIPE = Path(__file__).parents[2] / "config" / "finetune" / "tiny_cpu.yaml"


def record(path: Path, seed: int) -> None:
    """An episode whose pictures show where the cube lies, seen from above."""
    scene = CubeScene(seed)
    rgb = np.full((48, 64, 3), 127, np.uint8)
    x, y = (int(250 * scene.position[0]) + 5, int(180 * (scene.position[1] - 0.4)) + 5)
    cv2.rectangle(rgb, (x - 4, y - 4), (x + 4, y + 4), (255, 0, 0), -1)
    shown = jpeg.encode(rgb)

    def draw(sim):
        return tuple(Picture(camera.name, sim.time_ns, shown) for camera in ROBOT.cameras)

    expert = TrajectoryPolicy(ROBOT, plan(scene, ROBOT.control_rate_hz))
    done = roll_out(ROBOT, expert, scene, seconds=SECONDS, draw=draw)
    recording = Recording(ROBOT.period_ns, ROBOT.action_offset_steps, "command")
    writer = EpisodeWriter(path, Header(ROBOT, robot_path("sim_aloha").read_text(), INSTRUCTION))
    for observation in done.observations:
        for step in recording.add(observation):
            writer.add(step)
    writer.finish()


@pytest.mark.slow
def test_a_tiny_network_repeats_four_demonstrations(tmp_path):
    (tmp_path / "set").mkdir()
    for seed in range(4):
        record(tmp_path / "set" / f"e{seed}.hdf5", seed)
    given = [f"datasets.0.path={tmp_path / 'set'}", f"output={tmp_path / 'run'}", "logging.tracker=none"]
    given += ["sample.min_steps=48"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert FineTuning(read_settings(Recipe, RECIPE, given), cpu=True).run()
    finally:
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "train/overall_avg_sample_mse" in row][-1]
    assert last["train/overall_avg_sample_mse"] < 1e-3
