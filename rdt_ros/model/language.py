"""Tokens of an instruction: read from a file of precomputed embeddings, or invented for untrained networks."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rdt_ros.errors import InputError

EMBEDDINGS_KEY = "embeddings"  # in the reference's dict and in our safetensors files
END_TOKEN = "</s>"


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


def load_tokens(path: str | Path) -> Tensor:
    """(L, width) in the stored type, on the CPU, from any file of one instruction that exists.

    A `.safetensors` file holds `embeddings`; any other is read as torch's: a dict with `embeddings`, or the tensor
    itself. The tensor is (L, width) or (1, L, width).
    """
    path = Path(path)
    try:
        stored = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError as error:
        raise InputError(f"language file {path}: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise InputError(f"language file {path}: expected tensors only, found another pickle; refused unread") from None
    except (SafetensorError, RuntimeError, EOFError):
        raise InputError(f"language file {path}: expected a torch or safetensors file, found neither") from None

    tokens = stored.get(EMBEDDINGS_KEY) if isinstance(stored, dict) else stored
    if not isinstance(tokens, Tensor):
        found = f"a dict of {', '.join(map(str, stored))}" if isinstance(stored, dict) else type(stored).__name__
        raise InputError(f"language file {path}: expected a tensor or a dict with {EMBEDDINGS_KEY!r}, found {found}")
    if tokens.ndim == 3 and len(tokens) == 1:
        tokens = tokens[0]
    if tokens.ndim != 2 or not len(tokens):
        raise InputError(
            f"language file {path}: expected shape (L, width) or (1, L, width), found {tuple(tokens.shape)}"
        )
    if not tokens.isfinite().all():
        raise InputError(f"language file {path}: expected finite values, found NaN or infinity")
    return tokens
