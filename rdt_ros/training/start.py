"""What a run starts from: weights of any form, a vision encoder, data, and what belongs into its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import Checkpoint, open_checkpoint
from rdt_ros.model.config import ModelConfig, model_size
from rdt_ros.model.efficientnet import EfficientNetEncoder
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import InstructionStore
from rdt_ros.model.vision import SiglipEncoder, VisionEncoder, load_encoder, random_encoder
from rdt_ros.policy.rdt import UNTRAINED
from rdt_ros.robot.description import Robot, load_robot, robot_path
from rdt_ros.training.dataset import Dataset, open_dataset
from rdt_ros.training.language import training_tokens
from rdt_ros.training.recipe import Recipe

RANDOM = "random"
HASHED = "hashed words"


@dataclass(frozen=True, eq=False)
class Data:
    """What is trained on, and what every checkpoint keeps of it."""

    datasets: tuple[Dataset, ...]
    tokens: Mapping[str, Tensor]
    instructions: InstructionStore
    robot_text: str

    @classmethod
    def open(cls, recipe: Recipe, config: ModelConfig, *, progress: bool) -> Data:
        """Reads every episode's vectors and looks all instructions up."""
        datasets = tuple(open_dataset(one, recipe.sample, progress=progress) for one in recipe.datasets)
        encoder = HashedWords(config.lang_token_dim) if recipe.language == "hashed" else None
        hidden = recipe.sample.condition_dropout > 0
        tokens = training_tokens(datasets, longest=config.max_lang_cond_len, hidden=hidden, encoder=encoder)
        width = next(iter(tokens.values())).shape[1]
        if width != config.lang_token_dim:
            raise InputError(f"language stores: expected width {config.lang_token_dim} of the network, found {width}")
        stores = [] if encoder else [_store(dataset) for dataset in datasets]
        instructions = InstructionStore(stores[0].model if stores else HASHED, width)
        for text, rows in tokens.items():
            known = [store.precision(text) for store in stores if text in store]
            instructions.add(text, rows, known[0] if known else HASHED)
        return cls(datasets, tokens, instructions, _robot_text(recipe, datasets))

    @property
    def robots(self) -> dict[str, Robot]:
        """By data set."""
        return {dataset.name: dataset.robot for dataset in self.datasets}


def open_start(recipe: Recipe) -> Checkpoint | None:
    """The checkpoint that a recipe names; None where the weights are random."""
    if recipe.checkpoint.startswith(UNTRAINED):
        return None
    checkpoint = open_checkpoint(recipe.checkpoint)
    if not recipe.norm:
        return checkpoint
    if checkpoint.norm_recorded and checkpoint.config.norm != recipe.norm:
        raise InputError(
            f"norm: expected {checkpoint.config.norm}, which {checkpoint.path} records, found {recipe.norm}"
        )
    return checkpoint.with_norm(recipe.norm)


def network_config(recipe: Recipe, checkpoint: Checkpoint | None) -> ModelConfig:
    """The sizes of what is trained."""
    if checkpoint is not None:
        return checkpoint.config
    config = model_size(recipe.checkpoint.removeprefix(UNTRAINED))
    return dataclasses.replace(config, norm=recipe.norm) if recipe.norm else config  # type: ignore[arg-type]


def check_robots(recipe: Recipe, checkpoint: Checkpoint | None, datasets: tuple[Dataset, ...]) -> None:
    """InputError where a data set is of another robot than the weights, and the recipe does not say that it may."""
    if checkpoint is None or checkpoint.robot is None or recipe.other_robot:
        return
    for dataset in datasets:
        try:
            checkpoint.robot_for(dataset.robot)
        except InputError as error:
            raise InputError(f"data set {dataset.name}: {error}; other_robot: true trains all the same") from None


def random_weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Those of a new network, drawn by a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return RdtNetwork(config).state_dict()


def vision_encoder(
    recipe: Recipe, config: ModelConfig, kept: Path, trained: Path | None
) -> SiglipEncoder | EfficientNetEncoder:
    """The encoder with weights `trained` before; without them that of the recipe.

    A random one that stays frozen is drawn once and read from `kept` ever after.
    """
    if trained is not None:
        return _fitting(load_encoder(config.vision, trained), config)
    if recipe.vision == RANDOM and not kept.is_dir():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.loader.seed)
            return _fitting(random_encoder(config.vision), config)
    return _fitting(load_encoder(config.vision, kept if recipe.vision == RANDOM else recipe.vision or None), config)


Encoder = TypeVar("Encoder", bound=VisionEncoder)


def _fitting(encoder: Encoder, config: ModelConfig) -> Encoder:
    if (encoder.patches, encoder.width) != (config.img_patches, config.img_token_dim):
        raise InputError(
            f"vision: expected {config.img_patches} tokens of width {config.img_token_dim} as the network takes, "
            f"found {encoder.patches} of {encoder.width}"
        )
    return encoder


def _store(dataset: Dataset) -> InstructionStore:
    return InstructionStore.open(dataset.config.instructions or dataset.config.path)


def _robot_text(recipe: Recipe, datasets: tuple[Dataset, ...]) -> str:
    """The robot file that checkpoints keep: the recipe's, the data set's, or the one in its first episode."""
    robot, named = datasets[0].robot, recipe.robot or recipe.datasets[0].robot
    if recipe.robot:
        robot = load_robot(recipe.robot)
        names = [dataset.robot.name for dataset in datasets]
        if robot.name not in names:
            raise InputError(f"robot: expected one of the data sets' {', '.join(names)}, found {robot.name}")
    if named:
        return robot_path(named).read_text()
    first = (datasets[0].train + datasets[0].held_out)[0]
    with EpisodeReader(first.path, colour_order=first.source.colour_order or None) as episode:
        return episode.content.robot_text
