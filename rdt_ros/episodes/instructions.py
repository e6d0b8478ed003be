"""Instructions beside episodes: JSON in the form of RDT's data, for one episode or for a whole folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from rdt_ros.errors import InputError

# One for all episodes of its folder; the reference's loader reads this name only.
FOLDER_FILE = "expanded_instruction_gpt-4-turbo.json"
SUFFIX = ".instructions.json"  # of one episode: after its name without extension
KEYS = {"original": "instruction", "simplified": "simplified_instruction", "expanded": "expanded_instruction"}


@dataclass(frozen=True)
class Instructions:
    """One task in words."""

    original: str = ""
    simplified: tuple[str, ...] = ()
    expanded: tuple[str, ...] = ()

    @property
    def has_more(self) -> bool:
        """Whether there is more than the original."""
        return bool(self.simplified or self.expanded)


def path_for(target: Path) -> Path:
    """Where the instructions of an episode, or of a folder of episodes, are kept."""
    return target / FOLDER_FILE if target.is_dir() else target.with_name(target.stem + SUFFIX)


def beside(episode: Path) -> Instructions | None:
    """Those of an episode: its own file first, then its folder's; None where there is neither."""
    own, folder = path_for(episode), episode.parent / FOLDER_FILE
    path = next((path for path in (own, folder) if path.exists()), None)
    return None if path is None else load(path)


def load(path: Path) -> Instructions:
    """Reads such a file; InputError with the key where it is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not isinstance(data.get(KEYS["original"]), str):
        raise InputError(f"{path}: expected an object with the text {KEYS['original']!r}")
    original = data[KEYS["original"]]
    simplified, expanded = (
        _texts(data.get(KEYS[name], []), original, f"{path}.{KEYS[name]}") for name in ("simplified", "expanded")
    )
    return Instructions(original, simplified, expanded)


def save(path: Path, instructions: Instructions) -> None:
    """Writes such a file, whole or not at all; InputError without an original.

    The reference draws one of the three keys and fails on an empty list, so a list that is empty here is the original
    there.
    """
    if not instructions.original.strip():
        raise InputError(f"{path}: expected an original instruction, found none")
    data: dict[str, str | list[str]] = {KEYS["original"]: instructions.original}
    for name in ("simplified", "expanded"):
        texts = getattr(instructions, name)
        if not all(text.strip() for text in texts):
            raise InputError(f"{path}: expected {name} instructions with words in them, found an empty one")
        data[KEYS[name]] = list(texts) or instructions.original
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror}") from None


def _texts(value: object, original: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return () if value == original else (value,)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: expected a text or a list of texts, found {str(value)[:80]}")
    return tuple(value)
