"""Policies of checkpoints, several observations at once, and how actions are rounded."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import open_checkpoint, save_checkpoint
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import InstructionStore
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.policy.rdt import RdtPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
ROBOT_TEXT = (share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text()
TICK_NS = 1_700_000_000_000_000_000
TEXT = "pick up the red cube"
CONFIG = MODEL_SIZES["tiny"]
TOLERANCE = 1e-5  # relative; other batch sizes and memory alignments take other kernels


def observation(seed: int = 0, cameras: int = 3) -> Observation:
    random = np.random.default_rng(seed)
    stamp_ns = TICK_NS + seed * ROBOT.period_ns
    pictures = []
    for camera in ROBOT.cameras[:cameras]:
        _, jpeg = cv2.imencode(".jpg", random.integers(0, 256, (48, 64, 3), np.uint8))
        pictures.append(Picture(camera.name, stamp_ns, jpeg.tobytes()))
    measured = random.uniform(-1, 1, 14).astype(np.float32)
    return Observation(stamp_ns, ROBOT.name, tuple(pictures), ROBOT.joint_names, measured)


@pytest.fixture(scope="module")
def network() -> RdtNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RdtNetwork(CONFIG)
        torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight)
    return network


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vision")
    SiglipEncoder.random("tiny").tower.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(network: RdtNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    store = InstructionStore("words", CONFIG.lang_token_dim)
    store.add(TEXT, HashedWords(CONFIG.lang_token_dim).tokens(TEXT))
    save_checkpoint(folder, CONFIG, network.state_dict(), robot_text=ROBOT_TEXT, instructions=store)
    return folder


def policy_of(network: RdtNetwork, vision: str, **options: Any) -> RdtPolicy:
    encoders = SiglipEncoder.load(vision), HashedWords(CONFIG.lang_token_dim)
    return RdtPolicy(ROBOT, network, *encoders, instruction=TEXT, **options)


def test_a_checkpoint_brings_its_robot_and_instructions(checkpoint: Path, network: RdtNetwork, vision: str):
    policy = RdtPolicy.from_checkpoint(checkpoint, device="cpu", vision=vision, seed=3)

    rows = policy.step([observation()], instruction=TEXT).rows

    assert policy.robot == ROBOT
    expected = policy_of(network, vision, seed=3).step([observation()]).rows
    assert rows == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def test_a_policy_is_made_without_slow_imports(checkpoint: Path, vision: str):
    """transformers takes seconds, and nothing of a robot's start needs it."""
    code = (
        "import sys; from rdt_ros.policy.rdt import RdtPolicy; "
        f"RdtPolicy.from_checkpoint({str(checkpoint)!r}, device='cpu', backend='eager', vision={vision!r}); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"transformers", "diffusers", "accelerate", "scipy", "matplotlib", "sympy"}


def test_an_opened_checkpoint_will_do(checkpoint: Path, vision: str):
    opened = open_checkpoint(checkpoint).with_norm("mean_square")
    rows = [
        RdtPolicy.from_checkpoint(source, device="cpu", vision=vision, instruction=TEXT).step([observation()]).rows
        for source in (checkpoint, opened)
    ]

    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_the_norm_of_the_file_is_the_one_computed(network: RdtNetwork, vision: str, tmp_path: Path):
    config = dataclasses.replace(CONFIG, norm="mean_square")
    save_checkpoint(tmp_path / "c", config, network.state_dict(), robot_text=ROBOT_TEXT)
    expected = RdtNetwork(config)
    expected.load_state_dict(network.state_dict())

    language = HashedWords(CONFIG.lang_token_dim)
    policy = RdtPolicy.from_checkpoint(tmp_path / "c", device="cpu", vision=vision, language=language, instruction=TEXT)

    rows = policy_of(expected, vision).step([observation()]).rows
    assert policy.step([observation()]).rows == pytest.approx(rows, rel=TOLERANCE, abs=TOLERANCE)


def test_random_weights_take_the_place_of_a_checkpoint():
    policy = RdtPolicy.from_checkpoint("random:tiny", "sim_aloha", "cpu", "eager", instruction=TEXT, seed=5)

    expected = RdtPolicy.random("tiny", ROBOT, instruction=TEXT, seed=5).step([observation()]).rows
    assert np.array_equal(policy.step([observation()]).rows, expected)


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as refusal:
        RdtPolicy.from_checkpoint(*args, **({"device": "cpu"} | options))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_what_a_policy_cannot_be_made_of_is_refused(checkpoint: Path, network: RdtNetwork, vision: str, tmp_path: Path):
    save_checkpoint(tmp_path / "bare", CONFIG, network.state_dict())
    bare = tmp_path / "bare"

    assert refused(checkpoint, backend="compiled") == (
        "backend: expected one of auto, eager, compile, graph, found 'compiled'"
    )
    assert "expected one of float32, model, found 'bf16'" in refused(
        "random:tiny", "sim_aloha", action_dtype="bf16", instruction=TEXT
    )
    assert refused("random:tiny") == "robot: expected one for random:tiny, found none"
    assert "trained on a robot with name sim_aloha, given one with agilex" in refused(checkpoint, "agilex")
    assert "records no robot: say which robot it is for" in refused(bare, vision=vision)
    assert "records no instructions: give embeddings" in refused(bare, "sim_aloha", vision=vision)
    assert "vision encoder tiny: not on the Hub: give a folder with its weights" in refused(checkpoint)


def test_observations_together_give_the_chunks_of_each_alone(network: RdtNetwork, vision: str):
    policy = policy_of(network, vision)
    histories = [[observation(0), observation(1)], [observation(2, cameras=1)], [observation(3)]]
    texts = ["put it down", None, "pick up the green cube and hand it over to the other arm"]

    chunks = policy.step_batch(histories, instructions=texts)

    assert [chunk.stamp_ns for chunk in chunks] == [history[-1].stamp_ns for history in histories]
    assert [chunk.instruction for chunk in chunks] == [texts[0], TEXT, texts[2]]
    for history, text, chunk in zip(histories, texts, chunks, strict=True):
        alone = policy.step(history, instruction=text)
        assert alone.rows == pytest.approx(chunk.rows, rel=TOLERANCE, abs=TOLERANCE)
    assert np.abs(chunks[1].rows - chunks[2].rows).max() > 0.01


def test_a_batch_takes_its_noise_from_one_tensor_or_generator(network: RdtNetwork, vision: str):
    policy = policy_of(network, vision)
    histories = [[observation(0)], [observation(0)]]
    noise = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(5))

    given = policy.step_batch(histories, noise=noise)
    drawn = policy.step_batch(histories, generator=torch.Generator().manual_seed(5))

    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(given, drawn, strict=True))
    assert not np.array_equal(given[0].rows, given[1].rows)
    with pytest.raises(InputError, match=r"noise: expected shape \(2, 64, 128\), found \(1, 64, 128\)"):
        policy.step_batch(histories, noise=noise[:1])
    with pytest.raises(InputError, match="instructions: expected 2, one a history, found 1"):
        policy.step_batch(histories, instructions=["one"])


def test_bf16_targets_leave_unrounded_unless_asked_for(network: RdtNetwork, vision: str):
    def rows(action_dtype: str, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        cast = RdtNetwork(CONFIG)
        cast.load_state_dict(network.state_dict())
        policy = policy_of(cast.to(dtype), vision, action_dtype=action_dtype)
        return torch.from_numpy(policy.step([observation()]).rows)

    exact, rounded = rows("float32"), rows("model")

    assert torch.equal(rounded, rounded.bfloat16().float())
    assert (exact != exact.bfloat16().float()).float().mean() > 0.9
    assert torch.equal(rows("float32", torch.float32), rows("model", torch.float32))
