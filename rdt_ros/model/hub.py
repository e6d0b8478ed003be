"""Repositories of the Hugging Face Hub as local folders, and how weights are called there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub

from rdt_ros.errors import InputError

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"  # of weights in several files
SAFETENSORS_PARTS = "model-*.safetensors"
TORCH_WEIGHTS = "pytorch_model.bin"


def local_copy(repository: str, files: Sequence[str], expected: str) -> Path:
    """The folder of a repository with these files, names or patterns; TORCH_WEIGHTS only where there are no others.

    InputError where it is neither cached nor can be reached; `expected` is how that begins.
    """
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(files)))
        if not any(folder.glob("model*.safetensors")):
            huggingface_hub.snapshot_download(repository, allow_patterns=[TORCH_WEIGHTS])
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{expected}, or a Hub id that is cached or can be reached, found {repository!r} ({reason})"
        ) from None
    return folder
