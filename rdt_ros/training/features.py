"""Tokens of every picture of some episodes, computed once and kept in files: for a frozen encoder and plain pictures.

One file an episode, in the form of NumPy: (steps from the first motion on, cameras, patches, width). Its name is a hash
of all that its content follows from, so what was made of another encoder or file is never taken. bfloat16, which NumPy
lacks, is kept as its bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rdt_ros.errors import InputError
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.training.dataset import Episode
from rdt_ros.training.pictures import FrameReader, background, normalised, resized

STEPS = 16  # of an episode that are encoded at once
GIB = 2**30


@dataclass(frozen=True, eq=False)
class Features:
    """Where the tokens are. Files are mapped anew in each process."""

    folder: Path
    encoder: str  # what names the encoder, its weights and their type
    background: np.ndarray  # (patches, width), as all tokens float32 or the bits of bfloat16 in int16
    _open: dict[Path, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, folder: str | Path, encoder: SiglipEncoder) -> Features:
        """Those of an encoder, none of them made yet."""
        grey = torch.from_numpy(background(encoder.image_size))[None]
        return cls(Path(folder), _fingerprint(encoder), _encoded(encoder, grey)[0])

    def __reduce__(self) -> tuple[type[Features], tuple[Path, str, np.ndarray]]:
        """Another process maps files itself."""
        return Features, (self.folder, self.encoder, self.background)

    def make(self, episodes: Sequence[Episode], encoder: SiglipEncoder, workers: int) -> Iterator[Path]:
        """Makes the files that are missing, and gives each episode's name when its tokens are there.

        InputError where they do not fit on the disk.
        """
        missing = [episode for episode in episodes if not self._path(episode).exists()]
        self._check_room(missing)
        for episode in episodes:
            if not self._path(episode).exists():
                self._write(episode, encoder, workers)
            yield episode.path

    def tokens(self, episode: Episode, camera: str, step: int) -> np.ndarray:
        """(patches, width) of one picture."""
        path = self._path(episode)
        if path not in self._open:
            try:
                self._open[path] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: no readable tokens of {episode.path}: {error}") from None
        return self._open[path][step - episode.start, episode.cameras.index(camera)]

    def _path(self, episode: Episode) -> Path:
        file = episode.path.stat()
        told = (episode.path.resolve(), file.st_size, file.st_mtime_ns, episode.source.colour_order, episode.cameras)
        text = repr((*map(str, told), episode.start, self.encoder))
        return self.folder / f"{episode.path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"

    def _check_room(self, episodes: Sequence[Episode]) -> None:
        need = sum(episode.usable * len(episode.cameras) for episode in episodes) * self.background.nbytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise InputError(f"loader.features {self.folder}: {error.strerror}") from None
        if need > free:
            raise InputError(
                f"loader.features {self.folder}: expected {need / GIB:.1f} GiB of room, found {free / GIB:.1f}"
            )

    def _write(self, episode: Episode, encoder: SiglipEncoder, workers: int) -> None:
        path = self._path(episode)
        partial = path.with_suffix(".partial")
        frames = DataLoader(
            _Frames(episode, encoder.image_size), STEPS, num_workers=workers, generator=torch.Generator()
        )
        shape = (episode.usable, len(episode.cameras), *self.background.shape)
        header = {"descr": self.background.dtype.str, "fortran_order": False, "shape": shape}
        try:
            with partial.open("wb") as file:  # not mapped: on a full disk that kills the process
                np.lib.format.write_array_header_1_0(file, header)
                for pictures in frames:
                    file.write(_encoded(encoder, pictures.flatten(0, 1)).tobytes())
            partial.rename(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise InputError(f"loader.features {path}: could not be written: {error.strerror}") from None


class _Frames(Dataset[Tensor]):
    """Steps of an episode from its first motion on: (cameras, size, size, 3) uint8."""

    def __init__(self, episode: Episode, size: int) -> None:
        self._episode, self._size, self._frames = episode, size, FrameReader()

    def __len__(self) -> int:
        return self._episode.usable

    def __getitem__(self, i: int) -> Tensor:
        source, step = self._episode.source, self._episode.start + i
        pictures = [self._frames.rgb(source, camera, step) for camera in self._episode.cameras]
        return torch.from_numpy(np.stack([resized(picture, self._size) for picture in pictures]))


@torch.no_grad()
def _encoded(encoder: SiglipEncoder, pictures: Tensor) -> np.ndarray:
    """(n, size, size, 3) uint8 -> (n, patches, width)."""
    tokens = encoder.tokens(normalised(pictures.to(encoder.tower.device))).cpu()
    return (tokens.view(torch.int16) if tokens.dtype == torch.bfloat16 else tokens).numpy()


def as_tensor(tokens: np.ndarray) -> Tensor:
    """Tokens as they are kept, as numbers."""
    found = torch.from_numpy(tokens)
    return found.view(torch.bfloat16) if found.dtype == torch.int16 else found


def _fingerprint(encoder: SiglipEncoder) -> str:
    digest = hashlib.sha256(repr(encoder.tower.dtype).encode())
    for name, tensor in encoder.tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
