from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rdt_ros.checkpoint_command import add_parser
from rdt_ros.episodes.layout import Header
from rdt_ros.episodes.recording import Recording
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import open_checkpoint, save_checkpoint
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import InstructionStore
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir
from rdt_ros.types import Observation, Picture

CONFIG = MODEL_SIZES["tiny"]
ROBOT = load_robot("sim_aloha")
ROBOT_TEXT = (share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text()
TEXT = "pick up the cube"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RdtNetwork(CONFIG).bfloat16().state_dict()


@pytest.fixture
def plain(weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save(weights, tmp_path / "rdt.pt")
    return tmp_path / "rdt.pt"


def write_episode(path: Path) -> None:
    """Six ticks of arms that stand, commanded where they are."""
    recording, home = Recording(ROBOT.period_ns, ROBOT.action_offset_steps), np.array(ROBOT.home[-1], np.float32)
    writer = EpisodeWriter(path, Header(ROBOT, ROBOT_TEXT, TEXT))
    jpeg = cv2.imencode(".jpg", np.full((24, 32, 3), 90, np.uint8))[1].tobytes()
    for tick in range(100, 106):
        stamp_ns = tick * ROBOT.period_ns
        sources = [f"camera/{camera.name}" for camera in ROBOT.cameras]
        sources += [f"{kind}/{group.name}" for kind in ("measured", "command") for group in ROBOT.groups]
        observation = Observation(
            stamp_ns,
            ROBOT.name,
            tuple(Picture(camera.name, stamp_ns, jpeg) for camera in ROBOT.cameras),
            ROBOT.joint_names,
            measured=home,
            command=home,
            source_stamps_ns=dict.fromkeys(sources, stamp_ns),
        )
        for step in recording.add(observation):
            writer.add(step)
    writer.finish(steps_lost=recording.lost, steps_without_action=recording.waiting)


def run(argv: list[str]) -> int:
    """`rdt checkpoint` with these arguments."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["checkpoint", *argv])
    return args.run(args)


def inspect(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, str]:
    """What is printed, by the first word of each line."""
    assert run(["inspect", *argv]) == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_inspect_says_what_a_bare_file_is(plain: Path, capsys: pytest.CaptureFixture[str]):
    shown = inspect(capsys, str(plain))

    assert shown["weights"] == str(plain)
    assert shown["form"] == "state dict"
    assert shown["sizes"] == ("hidden 64, 4 blocks, 4 heads, horizon 64, language 64 x 128, pictures 32 x 2 x 3 x 16")
    assert shown["parameters"] == f"{sum(p.numel() for p in RdtNetwork(CONFIG).parameters()):,} in 114 entries"
    assert shown["type"] == "bfloat16"
    assert shown["norm"] == "variance (not recorded: as in the published models)"
    assert (shown["robot"], shown["statistics"], shown["instructions"]) == ("none", "none", "none")


def test_convert_records_what_is_given_and_inspect_shows_it(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = InstructionStore("words", 64)
    store.add(TEXT, torch.ones(2, 64))
    store.save(tmp_path / "store.safetensors")
    options = ["--norm", "mean_square", "--robot", "sim_aloha", "--dtype", "float32"]

    code = run(
        ["convert", str(plain), str(tmp_path / "rdt"), *options, "--instructions", str(tmp_path / "store.safetensors")]
    )

    assert code == 0
    assert capsys.readouterr().out == f"{tmp_path / 'rdt'}\n"
    shown = inspect(capsys, str(tmp_path / "rdt"))
    assert shown["form"] == "folder with model.safetensors"
    assert (shown["type"], shown["norm"]) == ("float32", "mean_square")
    assert (shown["robot"], shown["instructions"]) == ("sim_aloha, 14 joints, 25 Hz", f"1: '{TEXT}'")
    converted, source = open_checkpoint(tmp_path / "rdt"), open_checkpoint(plain)
    assert all(torch.equal(converted.weights[key], tensor.float()) for key, tensor in source.weights.items())


def test_convert_to_the_reference_and_back_keeps_weights_and_norm(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    there, back = str(tmp_path / "there"), str(tmp_path / "back")

    assert run(["convert", str(plain), there, "--to", "reference", "--norm", "mean_square"]) == 0
    assert "warning: norm mean_square: the reference computes it with timm 1.0.13" in capsys.readouterr().err
    assert run(["convert", there, back]) == 0

    source, result = open_checkpoint(plain), open_checkpoint(back)
    assert result.config.norm == "mean_square"
    assert all(torch.equal(result.weights[key], tensor) for key, tensor in source.weights.items())


def test_an_episode_compares_both_norms(
    weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """An untrained network answers zero with either norm: its error is the distance of the actions from zero."""
    write_episode(tmp_path / "e.hdf5")
    SiglipEncoder.random("tiny").tower.save(tmp_path / "vision")
    store = InstructionStore("words", 64)
    store.add(TEXT, HashedWords(64).tokens(TEXT))
    save_checkpoint(tmp_path / "rdt", CONFIG, weights, robot_text=ROBOT_TEXT, instructions=store)
    options = ["--episode", str(tmp_path / "e.hdf5"), "--vision", str(tmp_path / "vision"), "--device", "cpu"]
    home, gripper = np.array(ROBOT.home[-1]), ROBOT.is_gripper
    arms, grippers = (np.sqrt(np.square(home[which]).mean()) for which in (~gripper, gripper))
    expected = f"arms {arms:.5f} rad, grippers {grippers:.5f} (root mean square, 3 chunks)"

    assert run(["inspect", str(tmp_path / "rdt"), *options]) == 0
    printed = capsys.readouterr()
    assert f"open loop, norm variance     {expected}" in printed.out
    assert f"open loop, norm mean_square  {expected}" in printed.out
    assert "random tokens" not in printed.err

    torch.save(weights, tmp_path / "rdt.pt")
    assert run(["inspect", str(tmp_path / "rdt.pt"), *options]) == 0
    assert "warning: no instruction embeddings: random tokens take their place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inspect", "absent.pt"], "checkpoint absent.pt: no such file or folder, and no Hub id"),
        (["convert", "RDT", "TARGET", "--robot", "sim_alhoa"], "robot: expected one of"),
        (["convert", "RDT", "."], "checkpoint .: expected a new folder, found one that exists"),
        (["convert", "RDT", "TARGET", "--to", "reference", "--robot", "agilex"], "--to reference: expected neither"),
        (["inspect", "RDT", "--config", "absent.yaml"], "absent.yaml: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], message: str, plain: Path, tmp_path: Path):
    named = {"RDT": str(plain), "TARGET": str(tmp_path / "rdt")}

    with pytest.raises(InputError) as refusal:
        run([named.get(word, word) for word in argv])

    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "rdt").exists()
