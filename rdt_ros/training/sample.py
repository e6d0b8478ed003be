"""One sample: what is drawn at random, apart from what is made of it.

`draw` decides by a random generator, `SampleMaker.make` is a pure function of an episode and these decisions. The rules
are those of the reference's data/hdf5_vla_dataset.py and train/dataset.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rdt_ros.model.preprocess import CAMERA_ROLES
from rdt_ros.training.augmentation import augmented
from rdt_ros.training.config import SampleConfig
from rdt_ros.training.dataset import Dataset, Episode, unified
from rdt_ros.training.features import Features
from rdt_ros.training.pictures import FrameReader, background, resized

HISTORY = 2  # moments of a sample: one control step before, and now
PICTURES = HISTORY * len(CAMERA_ROLES)


@dataclass(frozen=True, eq=False)
class Draws:
    """All that is random in a sample. What is hidden is replaced by what stands for "unknown"."""

    step: int
    instruction: str
    state_noise: np.ndarray | None = None  # (J,) in standard deviations of the noise; None: no noise
    hide_rate: bool = False
    hide_state: bool = False
    hide_mask: bool = False
    hide_instruction: bool = False
    hide_pictures: tuple[bool, ...] = (False,) * PICTURES  # older moment first, in the order of CAMERA_ROLES
    augment: Callable[[np.ndarray], np.ndarray] | None = None  # of (H, W, 3) uint8 RGB


@dataclass(frozen=True, eq=False)
class Sample:
    """What the network is given for one step of one episode. T rows of a chunk."""

    state: np.ndarray  # (128,) float32
    actions: np.ndarray  # (T, 128) float32
    mask: np.ndarray  # (128,) float32: 1 where the robot has something, or zeros where hidden
    rate_hz: float  # 0: hidden
    instruction: str  # empty: hidden
    pictures: np.ndarray  # (PICTURES, size, size, 3) uint8, or their tokens (PICTURES, patches, width) as kept
    shown: np.ndarray  # (PICTURES,) bool: the others are background
    state_norm: np.ndarray  # (128,) float32: root mean square of the episode's states
    dataset: str  # name of its data set
    where: str  # file and step


def draw(rng: np.random.Generator, episode: Episode, step: int, config: SampleConfig) -> Draws:
    """Decides everything about a sample but its step; the rates are those of `config`."""
    hidden = rng.random(4) < config.condition_dropout
    external = config.external_camera_dropout if config.external_camera_dropout >= 0 else config.condition_dropout
    dropout = [external if role == "external" else config.condition_dropout for role in CAMERA_ROLES] * HISTORY
    wording = episode.wordings[rng.integers(len(episode.wordings))]
    return Draws(
        step=step,
        instruction=wording[rng.integers(len(wording))],
        state_noise=rng.standard_normal(episode.measured.shape[1:]) if config.state_noise_snr_db else None,
        hide_rate=hidden[0],
        hide_state=hidden[1],
        hide_mask=hidden[2],
        hide_instruction=hidden[3],
        hide_pictures=tuple(rng.random(PICTURES) < dropout),
        augment=(lambda rgb: augmented(rgb, rng)) if config.augment else None,
    )


@dataclass(frozen=True, eq=False)
class SampleMaker:
    """Makes samples of a size: `horizon` rows of actions, pictures of `image_size` pixels."""

    state_noise_snr_db: float  # 0: no noise, whatever is drawn
    horizon: int
    image_size: int
    frames: FrameReader
    features: Features | None = None  # where tokens are kept, which then take the place of pixels

    def make(self, dataset: Dataset, episode: Episode, draws: Draws) -> Sample:
        """The sample of these draws; InputError names file and step where a picture cannot be read."""
        robot = episode.source.robot
        mask = unified(np.full(len(robot.joints), not draws.hide_mask), robot)
        pictures, shown = self._pictures(episode, draws)
        return Sample(
            state=self._state(dataset, episode, draws).astype(np.float32),
            actions=unified(self._actions(episode, draws.step), robot).astype(np.float32),
            mask=mask.astype(np.float32),
            rate_hz=0.0 if draws.hide_rate else dataset.rate_hz,
            instruction="" if draws.hide_instruction else draws.instruction,
            pictures=pictures,
            shown=shown,
            state_norm=unified(episode.state_norm, robot).astype(np.float32),
            dataset=dataset.name,
            where=f"{episode.path} step {draws.step}",
        )

    def _state(self, dataset: Dataset, episode: Episode, draws: Draws) -> np.ndarray:
        """(128,) float64."""
        if draws.hide_state:
            return dataset.statistics.mean
        joints = episode.measured[draws.step].astype(float)
        if draws.state_noise is not None and self.state_noise_snr_db:
            joints += draws.state_noise * episode.state_std / 10 ** (self.state_noise_snr_db / 20)
        return unified(joints, episode.source.robot)

    def _actions(self, episode: Episode, step: int) -> np.ndarray:
        """(T, J): from this step on, the last one repeated behind the episode's end."""
        rows = np.minimum(np.arange(step, step + self.horizon), len(episode.actions) - 1)
        return episode.actions[rows]

    def _pictures(self, episode: Episode, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        cameras = {camera.role: camera.name for camera in episode.source.robot.cameras}
        moments = range(draws.step - HISTORY + 1, draws.step + 1)
        wanted = [(step, cameras.get(role)) for step in moments for role in CAMERA_ROLES]
        missing = background(self.image_size) if self.features is None else self.features.background
        found = [
            None
            # before the first motion lies what the network shall not see, as at the start of a run
            if hidden or step < episode.start or camera not in episode.cameras
            else self._picture(episode, camera, step, draws)
            for (step, camera), hidden in zip(wanted, draws.hide_pictures, strict=True)
        ]
        return (
            np.stack([missing if picture is None else picture for picture in found]),
            np.array([picture is not None for picture in found]),
        )

    def _picture(self, episode: Episode, camera: str, step: int, draws: Draws) -> np.ndarray:
        if self.features is not None:
            return self.features.tokens(episode, camera, step)
        rgb = self.frames.rgb(episode.source, camera, step)
        return resized(draws.augment(rgb) if draws.augment else rgb, self.image_size)
