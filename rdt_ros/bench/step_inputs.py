"""What `rdt bench step` runs on: a checkpoint of random weights, and Observations with textured pictures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from rdt_ros import jpeg
from rdt_ros.bench.parity import WEIGHT_SPREAD, save_vision
from rdt_ros.model.checkpoint import save_checkpoint
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import InstructionStore
from rdt_ros.policy.rdt import default_type
from rdt_ros.robot.description import Robot, load_robot
from rdt_ros.share import share_dir
from rdt_ros.types import Observation, Picture

ROBOT = "agilex"
TEXT = "hand the red cube over to the left arm"
VISION_FOLDER = "vision"
POLICY_FOLDER = "policy"
PICTURES = 240  # different ones; a policy keeps the tokens of far fewer
WIDTH, HEIGHT = 640, 480
NOISE_LEVELS = 10  # makes a picture of about 130 KB
TICK_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Folders:
    """Where the weights lie."""

    policy: Path
    vision: Path


def save_weights(model: str, device: torch.device, folder: Path) -> Folders:
    """A checkpoint in our form and a SigLIP beside it, of bf16 numbers drawn on the device; every weight matters."""
    config = MODEL_SIZES[model]
    with device, default_type(torch.bfloat16 if device.type == "cuda" else torch.float32), torch.no_grad():
        torch.manual_seed(0)
        network = RdtNetwork(config)
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.normal_(1, WEIGHT_SPREAD)
            elif name.endswith("bias"):
                parameter.normal_(0, WEIGHT_SPREAD)
        network.model.final_layer.ffn_final.fc2.weight.normal_(std=config.hidden_size**-0.5)
    weights = {name: tensor.bfloat16().cpu() for name, tensor in network.state_dict().items()}
    store = InstructionStore("words", config.lang_token_dim)
    store.add(TEXT, HashedWords(config.lang_token_dim).tokens(TEXT).bfloat16())
    robot = (share_dir() / "config" / "robots" / f"{ROBOT}.yaml").read_text()
    folders = Folders(folder / POLICY_FOLDER, folder / VISION_FOLDER)
    save_checkpoint(folders.policy, config, weights, robot_text=robot, instructions=store)
    with device:
        save_vision(config.vision, folders.vision, seed=0)
    return folders


class Scene:
    """An endless run of Observations, no picture of which was there a short while before."""

    def __init__(self, seed: int, pictures: int = PICTURES) -> None:
        self.robot: Robot = load_robot(ROBOT)
        self._random = np.random.default_rng(seed)
        with ThreadPoolExecutor() as threads:
            self._jpegs = list(threads.map(textured, range(seed * pictures, (seed + 1) * pictures)))
        self._at = 0
        self._tick = 0

    def observations(self) -> Iterator[Observation]:
        """One a control period, joints anywhere between -1 and 1 (rad, opening)."""
        while True:
            stamp_ns = TICK_NS + self._tick * self.robot.period_ns
            self._tick += 1
            pictures = tuple(Picture(camera.name, stamp_ns, self._next()) for camera in self.robot.cameras)
            measured = self._random.uniform(-1, 1, len(self.robot.joints)).astype(np.float32)
            yield Observation(stamp_ns, self.robot.name, pictures, self.robot.joint_names, measured)

    def _next(self) -> bytes:
        self._at += 1
        return self._jpegs[self._at % len(self._jpegs)]


def textured(seed: int) -> bytes:
    """A JPEG of colours that change smoothly, with noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = random.integers(-NOISE_LEVELS, NOISE_LEVELS + 1, smooth.shape, np.int16)
    return jpeg.encode(np.clip(smooth + noise, 0, 255).astype(np.uint8))
