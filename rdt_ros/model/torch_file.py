"""Reads torch files that hold tensors and plain containers, and says what a refused one wanted."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from rdt_ros.errors import InputError


def load_torch_file(path: Path, what: str) -> Any:
    """What torch saved, on the CPU, mapped from the disk; nothing in the file is run. `what` is for a refusal.

    Files of torch before 1.6, bare pickles, cannot be mapped and are read whole.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; a pickle that matters is refused below
            return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        wanted = _imports(path) if "GLOBAL" in str(error) or "operand" in str(error) else []
        if not wanted:
            raise InputError(f"{what} {path}: expected a torch file, found something else or a part of it") from None
        raise InputError(
            f"{what} {path}: expected tensors only, found a pickle that asks for {', '.join(wanted)}; nothing was run"
        ) from None
    except Exception:  # whatever bytes of another kind make torch's own pickle machine stumble over
        raise InputError(f"{what} {path}: expected a torch file, found something else or a part of it") from None


def _imports(path: Path) -> list[str]:
    """What a pickle would import, as module.name without torch's own, from its opcodes alone."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                data = archive.read(name)
        else:
            data = path.read_bytes()
        found, texts = [], [""]
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                found.append(".".join(str(argument).split(" ")))
            elif opcode.name == "STACK_GLOBAL":
                found.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception:  # no pickle after all
        return []
    return [name for name in dict.fromkeys(found) if not name.startswith(("torch.", "collections."))]
