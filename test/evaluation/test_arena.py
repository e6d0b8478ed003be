"""Episodes of a condition in one process, and in several."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.evaluation.arena import Arena, Job
from rdt_ros.evaluation.condition import Condition
from rdt_ros.evaluation.crew import Crew
from rdt_ros.evaluation.episode_clock import episode_start_ns
from rdt_ros.model.checkpoint import save_checkpoint
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import InstructionStore
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.robot.description import load_robot, robot_path

SCRIPTED = Condition("hand_over", "hand it over", policy="scripted")
RANDOM = Condition(
    "lift",
    "lift it",
    checkpoint="random:tiny",
    device="cpu",
    robot="sim_aloha_small",
    replan_rows=64,
    noise_seed=1,  # with the weights of some the arm pushes against the table and the executor stops it
)


@pytest.mark.parametrize("task", ["hand_over", "lift"])
def test_the_expert_succeeds_and_the_episode_ends_soon_after(task):
    arena = Arena(dataclasses.replace(SCRIPTED, task=task, max_yaw=0.5))
    results = [done.result for done in arena.run([Job(3), Job(11)])]
    arena.close()
    assert [(r.seed, r.success, r.stage, r.fault) for r in results] == [(s, True, "success", "") for s in (3, 11)]
    assert all(r.seconds == pytest.approx(r.success_s + 0.52, abs=0.03) and r.task == task for r in results)
    assert all(len(r.step_ms) == -(-round(r.seconds * 25) // 32) for r in results)


def test_latency_is_injected_in_whole_ticks():
    robot = load_robot("sim_aloha")
    runs = [Arena(dataclasses.replace(SCRIPTED, latency_ms=ms)).roll_out(3)[0] for ms in (0, 200)]
    moves = [int(np.argmax((run.commands != run.commands[0]).any(axis=1))) for run in runs]
    assert moves[1] - moves[0] == 5 and all(run.success for run in runs)
    with pytest.raises(InputError, match="expected a multiple of the control period of sim_aloha, 40 ms, found 30 ms"):
        dataclasses.replace(SCRIPTED, latency_ms=30).latency_ticks(robot)


@pytest.mark.slow
def test_a_network_is_told_the_same_whether_all_is_drawn_or_not_and_masks_change_it(tmp_path):
    arena = Arena(RANDOM)
    robot = arena.robot
    lean, step_ms = arena.roll_out(2)
    rich, _ = arena.roll_out(2, draw_all=True)
    arena.close()
    assert not lean.fault
    assert (lean.commands == rich.commands).all() and len(step_ms) == 5
    assert lean.observations[0].stamp_ns == episode_start_ns(2, robot.period_ns)
    drawn = [i for i, observation in enumerate(lean.observations) if observation.pictures]
    assert drawn == [0, 63, 64, 127, 128, 191, 192, 255, 256]
    assert all(len(observation.pictures) == 3 for observation in rich.observations)
    for masked in ({"mask_history": True}, {"without_cameras": ("cam_high",)}):
        other = Arena(dataclasses.replace(RANDOM, **masked))
        assert not (other.roll_out(2)[0].commands == lean.commands).all(), masked
        other.close()


def test_a_wrong_name_is_one_line():
    for wrong, message in (
        ({"without_cameras": ("cam_low",)}, "without-camera: expected one of cam_high, .* found 'cam_low'"),
        ({"task": "juggle"}, "task: expected one of hand_over, lift, found 'juggle'"),
        ({"robot": "agilex"}, "robot agilex: the simulator has no "),
    ):
        with pytest.raises(InputError, match=message):
            Arena(dataclasses.replace(SCRIPTED, **wrong))


@pytest.mark.slow
def test_several_processes_give_what_one_gives(tmp_path):
    seeds = range(4, 7)
    arena = Arena(SCRIPTED)
    alone = {done.result.seed: done.result for done in arena.run(Job(seed) for seed in seeds)}
    with Crew(SCRIPTED, 2) as crew:
        together = {done.result.seed: done.result for done in crew.run(Job(seed) for seed in seeds)}
        filmed = list(crew.run([Job(4, tmp_path)]))
    assert together.keys() == alone.keys()
    for seed, result in together.items():
        assert dataclasses.replace(result, step_ms=()) == dataclasses.replace(alone[seed], step_ms=())
    assert (tmp_path / "success_4.mp4").stat().st_size > 10_000 and filmed[0].strip is not None


def test_the_mistake_of_a_process_is_that_of_the_crew():
    with (
        Crew(dataclasses.replace(SCRIPTED, robot="agilex"), 1) as crew,
        pytest.raises(InputError, match="robot agilex: the simulator has no "),
    ):
        list(crew.run([Job(1)]))


@pytest.mark.slow
def test_a_checkpoint_brings_its_robot_and_follows_the_instructions_that_it_knows(tmp_path):
    config, text = MODEL_SIZES["tiny"], "lift the red cube and put it back"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RdtNetwork(config)
        torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=0.02)
        vision = SiglipEncoder.random("tiny")
    vision.tower.save(tmp_path / "vision")
    store = InstructionStore("words", config.lang_token_dim)
    store.add(text, HashedWords(config.lang_token_dim).tokens(text))
    robot_text = robot_path("sim_aloha_small").read_text()
    save_checkpoint(tmp_path / "tiny", config, network.state_dict(), robot_text=robot_text, instructions=store)
    known = Condition(
        "lift", text, checkpoint=str(tmp_path / "tiny"), vision=str(tmp_path / "vision"), device="cpu", replan_rows=64
    )
    with closing(Arena(known)) as arena:
        (done,) = arena.run([Job(1)])
        assert arena.robot.name == "sim_aloha_small"
    assert (done.result.success, len(done.result.step_ms)) == (False, 5)
    with pytest.raises(InputError, match="give it to me"):
        Arena(dataclasses.replace(known, instruction="give it to me"))
