"""Settings of the data: what is a data set, how a sample is made of it, how samples are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from rdt_ros.options import option


@dataclass(frozen=True)
class DatasetConfig:
    """One data set: a folder of episodes of one robot. Several of them are a mixture."""

    path: str = option("", doc="folder of episodes, searched with all folders below it")
    name: str = option("", doc="what statistics and figures call it; empty: the folder's name")
    robot: str = option("", doc="robot of files that do not carry one; empty: only files that do")
    weight: float = option(1.0, low=0.0, doc="share of the samples, in proportion to the weights of the other sets")
    control_rate_hz: float = option(0.0, low=0.0, unit="Hz", doc="what the network is told; 0: the robot's rate")
    held_out: tuple[str, ...] = option((), doc="episodes kept out of training, as file names or patterns")
    held_out_fraction: float = option(
        0.0, low=0.0, high=0.9, doc="share of the episodes kept out of training, picked by a hash of their names"
    )
    instructions: str = option("", doc="store of language embeddings; empty: the one in the folder")
    statistics: str = option("", doc="file of `rdt stats`; empty: computed from the episodes")
    colour_order: str = option(
        "",
        choices=("", "rgb", "bgr"),
        doc="of frames of files that are not ours; empty: bgr for JPEG and rgb for arrays, as published data has them",
    )
    corrupt: str = option("refuse", choices=("refuse", "skip"), doc="what to do with an episode that cannot be read")


@dataclass(frozen=True)
class SampleConfig:
    """How a sample is made. The defaults are those of the reference's fine-tuning script."""

    condition_dropout: float = option(
        0.1,
        low=0.0,
        high=1.0,
        doc="probability that the rate, the state, the mask, each picture or the instruction is hidden, each by itself",
    )
    external_camera_dropout: float = option(
        -1.0, low=-1.0, high=1.0, doc="the same for pictures of the external camera; negative: condition_dropout"
    )
    state_noise_snr_db: float = option(
        40.0, low=0.0, unit="dB", doc="noise on the state, relative to the episode's deviation; 0: none"
    )
    augment: bool = option(True, doc="change colours and sharpness of half of the pictures")
    min_steps: int = option(128, low=1, doc="episodes with fewer steps are left out")
    motion_threshold: float = option(
        0.01, low=0.0, doc="an episode starts one step before a joint has moved by more than this, in the robot's units"
    )


PLAIN = SampleConfig(condition_dropout=0.0, state_noise_snr_db=0.0, augment=False)
"""Samples for evaluation: nothing hidden, nothing disturbed."""


@dataclass(frozen=True)
class LoaderConfig:
    """How samples are loaded."""

    workers: int = option(8, low=0, doc="processes that read and decode; 0: the training process itself")
    prefetch: int = option(
        2, low=1, doc="batches that a worker prepares ahead; each takes 2.7 MB a sample at 384 pixels"
    )
    features: str = option(
        "",
        doc="folder where the tokens of every picture are kept, for a frozen encoder without augmentation; empty: "
        "computed anew in every step. A picture takes 1.7 MB at SigLIP's size in bf16",
    )
    seed: int = option(0, low=0, doc="sample i is a function of this and i alone")
