"""Instructions with their tokens in one file, and a reader for the files and folders that came before it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rdt_ros.errors import InputError
from rdt_ros.model.language import checked_tokens, normalised, read_embedding

STORE_NAME = "instructions.safetensors"  # in a folder
FORMAT = "rdt_ros.instructions.1"
UNKNOWN = "unknown"  # model and precision of files that do not say them
INSTRUCTION_KEYS = ("instruction", "simplified_instruction", "expanded_instruction")
LISTED = 5  # texts that a miss names

# The reference's batch script writes lang_embed_{i}.pt, and other names are looked up elsewhere: all mean the same.
NUMBERED_FILE = re.compile(r"lang_embeds?(?:_(\d+))?")
NAMED_FILE = re.compile(r"lang_embed|text_embed")


@dataclass(frozen=True)
class Entry:
    """Tokens (L, width) on the CPU, and in which precision their encoder computed."""

    tokens: Tensor
    precision: str


class InstructionStore:
    """Tokens by text, all of one encoder model; a LanguageEncoder that knows what it holds and nothing else."""

    def __init__(self, model: str, width: int, where: str | Path = "new") -> None:
        self.model = model
        self.width = width
        self.where = str(where)
        self._entries: dict[str, Entry] = {}

    @classmethod
    def open(cls, path: str | Path) -> InstructionStore:
        """A store, a folder with a store, or any older form: a file of one instruction, or a folder of such files."""
        path = Path(path)
        if path.is_dir():
            return cls._read(path / STORE_NAME) if (path / STORE_NAME).is_file() else cls._read_folder(path)
        if not path.exists():
            raise InputError(f"language store {path}: No such file or directory; `rdt encode` makes one")
        if path.suffix == ".safetensors" and _metadata(path).get("format") is not None:
            return cls._read(path)
        return cls._of_files([path], [])

    @classmethod
    def _read(cls, path: Path) -> InstructionStore:
        where = f"language store {path}"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = [file.get_tensor(str(i)) for i in range(len(file.keys()))]
        except (OSError, SafetensorError):
            raise InputError(f"{where}: expected a safetensors file, found something else or a part of it") from None
        if metadata.get("format") != FORMAT:
            raise InputError(f"{where}: expected format {FORMAT}, found {metadata.get('format')}")
        if metadata.get("sha256") != _digest(metadata, tensors):
            raise InputError(f"{where}: expected the content of its sha256, found another: it was changed or damaged")
        store = cls(metadata["model"], int(metadata["width"]), path)
        for record, tokens in zip(json.loads(metadata["instructions"]), tensors, strict=True):
            store.add(record["text"], tokens, record["precision"])
        return store

    @classmethod
    def _read_folder(cls, folder: Path) -> InstructionStore:
        files = sorted((p for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".safetensors")), key=_natural)
        files = [path for path in files if NAMED_FILE.match(path.stem)] or files
        if not files:
            names = sorted(path.name for path in folder.iterdir())
            found = _some(names) if names else "nothing"
            raise InputError(f"language store {folder}: expected {STORE_NAME} or lang_embed_0.pt ..., found {found}")
        return cls._of_files(files, _texts_beside(folder))

    @classmethod
    def _of_files(cls, files: Sequence[Path], texts: Sequence[str]) -> InstructionStore:
        """`texts` are what the numbers in the files' names count; a file with no number is the first."""
        store: InstructionStore | None = None
        for path in files:
            text, tokens = read_embedding(path)
            numbered = NUMBERED_FILE.fullmatch(path.stem)
            if not text and texts and numbered:
                index = int(numbered[1] or 0)
                if index >= len(texts):
                    raise InputError(
                        f"language file {path}: expected a number below {len(texts)}, as many texts as the "
                        f"instruction JSON beside it holds, found {index}"
                    )
                text = texts[index]
            text = text or path.stem
            store = store or cls(UNKNOWN, tokens.shape[1], files[0] if len(files) == 1 else path.parent)
            if text in store and len(store.tokens(text)) != len(tokens):
                raise InputError(
                    f"language file {path}: expected {len(store.tokens(text))} tokens as in another file for {text!r}, "
                    f"found {len(tokens)}"
                )
            if text not in store:
                store.add(text, tokens)
        assert store is not None  # the callers give at least one file
        return store

    @property
    def texts(self) -> tuple[str, ...]:
        """In the order in which they were added; the empty text, which stands for a hidden instruction, is none."""
        return tuple(text for text in self._entries if text)

    def __contains__(self, text: str) -> bool:
        return normalised(text) in self._entries

    def __len__(self) -> int:
        return len(self.texts)

    def tokens(self, instruction: str) -> Tensor:
        """(L, width) in the stored type, on the CPU; InputError with the nearest texts where it is not held."""
        if instruction not in self:
            raise missing(instruction, [self])
        return self._entries[normalised(instruction)].tokens

    def precision(self, instruction: str) -> str:
        """In which its tokens were computed: fp32, bf16, 8bit, 4bit or unknown."""
        self.tokens(instruction)
        return self._entries[normalised(instruction)].precision

    def add(self, text: str, tokens: Tensor, precision: str = UNKNOWN) -> None:
        """Keeps tokens (L, width) or (1, L, width) for a text, in place of those that it had; the text may be empty."""
        text = normalised(text)
        where = f"language store {self.where}: {text!r}"
        tokens = checked_tokens(tokens, where)
        if tokens.shape[1] != self.width:
            raise InputError(f"{where}: expected width {self.width}, found {tokens.shape[1]}")
        # A copy of its own: a slice would keep alive, and save, the batch that it was cut from.
        self._entries[text] = Entry(tokens.detach().to("cpu", copy=True).contiguous(), precision)

    def merge(self, other: InstructionStore, model: str = "") -> None:
        """Adds what another store holds; `model` is said for one that does not say it itself."""
        found = other.model if other.model != UNKNOWN else model or UNKNOWN
        if (found, other.width) != (self.model, self.width):
            raise InputError(
                f"language store {other.where}: expected {self.model} of width {self.width} as in {self.where}, "
                f"found {found} of width {other.width}"
            )
        for text, entry in other._entries.items():
            self.add(text, entry.tokens, entry.precision)

    def save(self, path: str | Path) -> None:
        """Writes the file, or STORE_NAME into the folder, whole or not at all."""
        path = Path(path)
        path = path if path.suffix == ".safetensors" else path / STORE_NAME
        tensors = [entry.tokens for entry in self._entries.values()]
        records = [{"text": text, "precision": entry.precision} for text, entry in self._entries.items()]
        metadata = {
            "format": FORMAT,
            "model": self.model,
            "width": str(self.width),
            "instructions": json.dumps(records, ensure_ascii=False),
        }
        metadata["sha256"] = _digest(metadata, tensors)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({str(i): tokens for i, tokens in enumerate(tensors)}, draft, metadata)
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise InputError(f"language store {path}: could not be written: {error}") from None


def missing(instruction: str, stores: Sequence[InstructionStore]) -> InputError:
    """The refusal of a text that none of the stores holds: what they hold, nearest first, and how to add it."""
    text = normalised(instruction)
    if not text:
        return InputError(f"instruction: expected a text, found {instruction!r}")
    if not stores:
        return InputError(
            f"instruction {text!r}: expected a language store, an embedding file or an encoder to find its tokens, "
            f"found none; make a store: rdt encode {shlex.quote(text)} --store {STORE_NAME}"
        )
    texts = [known for store in stores for known in store.texts]
    texts.sort(key=lambda known: -difflib.SequenceMatcher(None, text.lower(), known.lower()).ratio())
    return InputError(
        f"instruction {text!r}: not in {' or '.join(store.where for store in stores)}, which holds "
        f"{_some([repr(known) for known in texts]) or 'nothing'}; add it: rdt encode {shlex.quote(text)} "
        f"--store {shlex.quote(stores[-1].where)}"
    )


def read_instructions(path: str | Path) -> list[str]:
    """The texts of a file: one a line, or of an instruction JSON: original, simplified, then expanded."""
    path = Path(path)
    where = f"instruction file {path}"
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            texts = [line for line in content.splitlines() if line.strip()]
        else:
            texts = _texts_of_json(json.loads(content), where)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
        raise InputError(f"{where}: expected {'JSON' if path.suffix == '.json' else 'UTF-8 text'}: {error}") from None
    if not texts:
        raise InputError(f"{where}: expected at least one instruction, found none")
    return texts


def _texts_of_json(data: object, where: str) -> list[str]:
    if not isinstance(data, dict) or not any(key in data for key in INSTRUCTION_KEYS):
        raise InputError(f"{where}: expected an object with {', '.join(INSTRUCTION_KEYS)}, found none of these keys")
    texts: list[str] = []
    for key in INSTRUCTION_KEYS:
        value = data.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) and text.strip() for text in values):
            raise InputError(f"{where}.{key}: expected a text or a list of texts, none empty, found {value!r}"[:300])
        texts += values
    return texts


def _texts_beside(folder: Path) -> list[str]:
    """The texts of the instruction JSON in a folder of embeddings; none where there is no such file."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # some other program's
        if isinstance(data, dict) and INSTRUCTION_KEYS[0] in data:
            found.append(path)
    if len(found) > 1:
        raise InputError(
            f"language store {folder}: expected one instruction JSON, found {_some([p.name for p in found])}"
        )
    return read_instructions(found[0]) if found else []


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        raise InputError(
            f"language store {path}: expected a safetensors file, found something else or a part of it"
        ) from None


def _digest(metadata: dict[str, str], tensors: Iterable[Tensor]) -> str:
    content = hashlib.sha256("\0".join(metadata.get(key, "") for key in ("model", "width", "instructions")).encode())
    for tokens in tensors:
        content.update(f"{tokens.dtype} {tuple(tokens.shape)}".encode())
        content.update(tokens.view(torch.uint8).numpy().data)
    return content.hexdigest()


def _natural(path: Path) -> list[int | str]:
    """Sorts lang_embed_2 before lang_embed_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
