"""Tokens of an instruction: the interface, a stand-in for untrained networks, and files of one instruction."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.torch_file import load_torch_file

EMBEDDINGS_KEY = "embeddings"  # in the reference's dict
END_TOKEN = "</s>"
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".npy")  # an instruction that ends so is the name of a file


class LanguageEncoder(Protocol):
    """Turns an instruction into tokens."""

    width: int  # of a token

    def tokens(self, instruction: str) -> Tensor:
        """(L, width); L grows with the text."""
        ...


class HashedWords:
    """A stand-in for T5 beside networks with random weights: a normal vector for each word and the text's end.

    The same text gives the same tokens everywhere, but words that mean the same share nothing: never use it with
    trained weights.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    def tokens(self, instruction: str) -> Tensor:
        """(words + 1, width) float32."""
        words = [*instruction.lower().split(), END_TOKEN]
        return torch.from_numpy(np.stack([self._token(word) for word in words]))

    def _token(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest(), "big")
        return np.random.default_rng(seed).standard_normal(self.width, np.float32)


def normalised(text: str) -> str:
    """The text without leading, trailing and repeated white space: how instructions are compared and encoded."""
    return " ".join(text.split())


def checked_tokens(tokens: object, where: str) -> Tensor:
    """(L, width) in its own type from (L, width) or (1, L, width), or InputError that begins with `where`."""
    if not isinstance(tokens, Tensor):
        raise InputError(f"{where}: expected a tensor, found {type(tokens).__name__}")
    if tokens.ndim == 3 and len(tokens) == 1:
        tokens = tokens[0]
    if tokens.ndim != 2 or not tokens.numel() or not tokens.is_floating_point():
        kind = str(tokens.dtype).removeprefix("torch.")
        raise InputError(
            f"{where}: expected floating numbers of shape (L, width) or (1, L, width), found {kind} of shape "
            f"{tuple(tokens.shape)}"
        )
    if not tokens.isfinite().all():
        raise InputError(f"{where}: expected finite values, found NaN or infinity")
    return tokens


def load_tokens(path: str | Path) -> Tensor:
    """(L, width) in the stored type, on the CPU, from any file of one instruction that exists."""
    return read_embedding(path)[1]


def read_embedding(path: str | Path) -> tuple[str, Tensor]:
    """The text, empty where the file does not say it, and its tokens (L, width).

    A `.safetensors` file holds `embeddings`; any other is read as torch's: the dict of the reference's
    single-sentence script (`name`, `instruction`, `embeddings`), or the tensor itself.
    """
    path = Path(path)
    where = f"language file {path}"
    if path.suffix == ".npy":
        raise InputError(
            f"{where}: expected a torch or safetensors file, found NumPy's, in which AgileX's tools keep a pickle; if "
            f'you trust it, convert it: python3 -c "import numpy, torch; d = numpy.load({str(path)!r}, '
            f"allow_pickle=True).item(); torch.save(torch.tensor(d['vector']), {str(path.with_suffix('.pt'))!r})\""
        )
    stored = _load_safetensors(path) if path.suffix == ".safetensors" else load_torch_file(path, "language file")
    if not isinstance(stored, dict):
        return "", checked_tokens(stored, where)
    if EMBEDDINGS_KEY not in stored:
        found = ", ".join(map(str, list(stored)[:5])) + (", ..." if len(stored) > 5 else "")
        raise InputError(f"{where}: expected a tensor or a dict with {EMBEDDINGS_KEY!r}, found a dict of {found}")
    text = stored.get("instruction", "")
    return text if isinstance(text, str) else "", checked_tokens(stored[EMBEDDINGS_KEY], where)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise InputError(f"language file {path}: {error.strerror or error}") from None
    except SafetensorError:
        raise InputError(f"language file {path}: expected a safetensors file, found something else or a part") from None
