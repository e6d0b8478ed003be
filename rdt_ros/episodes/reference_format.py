"""The one form that the `HDF5VLADataset` of RDT's reference code reads as it was meant.

That class wants JPEG byte strings with red and blue exchanged, the joints of a Cobot Magic in the units of its ARX
arms, and in the same folder the instructions as JSON. It finds a file by `*.hdf5` at any depth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdt_ros.episodes import aloha_format, instructions, units
from rdt_ros.episodes.content import Content, Track, untracked
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.errors import InputError

ROBOT = "agilex"  # whose units, order and rate the reference has in its code
MIN_STEPS = 128  # it drops an episode with fewer
MOVED = 1e-2  # it fails where no joint, in the robot's units, ever differs by more from its first value


def write(folder: Path, name: str, content: Content, texts: Instructions, track: Track = untracked) -> None:
    """Makes the folder with `<name>.hdf5`; `content` is of the robot ROBOT.

    InputError for an episode that the reference would drop or fail on.
    """
    _check(content, texts)
    folder.mkdir(parents=True)
    instructions.save(folder / instructions.FOLDER_FILE, texts)
    aloha_format.write(folder / f"{name}.hdf5", content, texts.original, aloha_format.STRINGS, track)


def _check(content: Content, texts: Instructions) -> None:
    if not texts.original.strip():
        raise InputError("instruction: expected one, the reference fails without, found none")
    steps = len(content.ticks)
    if steps < MIN_STEPS:
        raise InputError(f"steps: expected at least {MIN_STEPS}, the reference drops shorter episodes, found {steps}")
    measured = units.to_robot(content.robot, "measured", content.vectors["measured"]).astype(np.float32)
    moved = np.abs(measured - measured[0]).max()
    if moved <= MOVED:
        raise InputError(
            f"joints: expected one to move by over {MOVED}, the reference fails otherwise, found {moved:.4f}"
        )
