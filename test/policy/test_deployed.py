"""A policy of a checkpoint together with the words that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.store import InstructionStore
from rdt_ros.policy.deployed import deploy
from rdt_ros.robot.description import load_robot

SHIPPED = "sim_cube"


def test_a_checkpoint_brings_its_robot_and_its_words():
    rdt = deploy(SHIPPED, None, instruction="  lift the red cube  and put it back ", device="cpu")

    assert rdt.policy.robot.name == "sim_aloha_small"
    assert rdt.instruction == "lift the red cube and put it back"
    assert rdt.language is not None and rdt.language.prepare("give the red cube to the left arm")
    with pytest.raises(InputError, match="fold the towel"):
        rdt.language.prepare("fold the towel")


def test_words_of_another_store_take_the_place_of_its_own(tmp_path: Path):
    width = deploy(SHIPPED, None, instruction="lift the red cube and put it back", device="cpu").language.width
    store = InstructionStore("words", width)
    store.add("fold the towel", torch.zeros(2, width))
    store.save(tmp_path / "words.safetensors")

    rdt = deploy(
        SHIPPED, None, instruction="fold the towel", instructions=str(tmp_path / "words.safetensors"), device="cpu"
    )

    assert rdt.instruction == "fold the towel"
    with pytest.raises(InputError, match="lift the red cube"):
        rdt.language.prepare("lift the red cube and put it back")


def test_an_untrained_one_takes_any_words():
    robot = load_robot("sim_aloha_small")
    rdt = deploy("random:tiny", robot, instruction="fold the towel", device="cpu", seed=3)
    assert (rdt.policy.robot, rdt.language, rdt.instruction) == (robot, None, "fold the towel")


@pytest.mark.parametrize(
    ("checkpoint", "instruction", "complaint"),
    [("", "", "checkpoint: expected a file, a folder"), (SHIPPED, "fold the towel", "fold the towel")],
)
def test_what_cannot_be_deployed_is_refused(checkpoint: str, instruction: str, complaint: str):
    with pytest.raises(InputError, match=complaint):
        deploy(checkpoint, None, instruction=instruction, device="cpu")
