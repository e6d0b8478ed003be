"""Batches out of a mixture of data sets, in an order that is a function of a seed alone.

Sample i is a pure function of (seed, i): a run is resumed by the number of samples that it has seen, whatever the
number of workers. Each worker opens the files that it reads itself.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from rdt_ros import options
from rdt_ros.errors import InputError
from rdt_ros.training.config import LoaderConfig, SampleConfig
from rdt_ros.training.dataset import Dataset, Episode
from rdt_ros.training.features import Features, as_tensor
from rdt_ros.training.pictures import FrameReader
from rdt_ros.training.sample import Sample, SampleMaker, draw

ROUND = 8  # pictures are encoded in multiples of this, so that batches have few sizes
ATTEMPTS = 10  # samples drawn anew in place of an unreadable one, where a data set allows it


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples. L is the longest instruction, T the rows of a chunk."""

    states: Tensor  # (B, 1, 128) float32
    actions: Tensor  # (B, T, 128) float32
    mask: Tensor  # (B, 1, 128) float32
    rates_hz: Tensor  # (B,) float32, 0 where hidden
    tokens: Tensor  # (B, L, width) in the store's type, zeros behind the end
    token_mask: Tensor  # (B, L) bool
    pictures: Tensor  # (B, 6, size, size, 3) uint8; `pictures.normalised` makes the encoder's input of them; or tokens
    distinct: Tensor  # (K,) int64: which of the B * 6 pictures to encode: those shown, and background once
    encoded: Tensor  # (B * 6,) int64: which of these K each picture is
    state_norms: Tensor  # (B, 128) float32
    datasets: tuple[str, ...]  # (B,) names
    where: tuple[str, ...]  # (B,) file and step

    def __len__(self) -> int:
        return len(self.where)

    def pin_memory(self) -> Batch:
        """In page-locked memory; the DataLoader calls it."""
        return self._each(Tensor.pin_memory)

    def to(self, device: str | torch.device) -> Batch:
        """On a device; from page-locked memory without waiting."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**values)


class Mixture(torch.utils.data.Dataset[Sample]):
    """Samples of several data sets by their weights, endless; within a set every step is as likely as any other.

    `tokens` are those of every instruction (`training_tokens`). `part` is "train" or "held_out". With `features`
    samples hold tokens in place of pictures.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        config: SampleConfig,
        tokens: Mapping[str, Tensor],
        *,
        horizon: int,
        image_size: int,
        seed: int = 0,
        part: str = "train",
        features: Features | None = None,
    ) -> None:
        options.check(config, "samples")
        names = [dataset.name for dataset in datasets]
        if len(set(names)) < len(names):
            raise InputError(f"mixture: expected data sets of different names, found {', '.join(sorted(names))}")
        self.datasets = tuple(datasets)
        self.config = config
        self.seed = seed
        self._tokens = tokens
        self._episodes: list[tuple[Episode, ...]] = [getattr(dataset, part) for dataset in self.datasets]
        self._ends = [np.cumsum([episode.usable for episode in episodes]) for episodes in self._episodes]
        weights = np.array([d.config.weight if e else 0 for d, e in zip(self.datasets, self._episodes, strict=True)])
        if not weights.sum():
            raise InputError(f"mixture: expected {part} episodes in a data set of positive weight, found none")
        self._weights = weights / weights.sum()
        self._maker = SampleMaker(config.state_noise_snr_db, horizon, image_size, FrameReader(), features)

    @property
    def steps(self) -> int:
        """Different steps that samples are made of."""
        return sum(int(ends[-1]) for ends, weight in zip(self._ends, self._weights, strict=True) if weight)

    def __getitem__(self, index: int) -> Sample:
        attempt = 0
        while True:
            rng = np.random.default_rng([self.seed, index, attempt])
            dataset, episode, step = self._place(rng)
            try:
                return self._maker.make(dataset, episode, draw(rng, episode, step, self.config))
            except InputError as error:
                attempt += 1
                if dataset.config.corrupt == "refuse" or attempt == ATTEMPTS:
                    raise
                warnings.warn(f"skipped: {error}", RuntimeWarning, stacklevel=2)

    def _place(self, rng: np.random.Generator) -> tuple[Dataset, Episode, int]:
        chosen = int(rng.choice(len(self.datasets), p=self._weights))
        ends = self._ends[chosen]
        place = int(rng.integers(ends[-1]))
        which = int(np.searchsorted(ends, place, side="right"))
        episode = self._episodes[chosen][which]
        return self.datasets[chosen], episode, len(episode.measured) - int(ends[which] - place)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """The batch of these samples."""
        tokens = [self._tokens[sample.instruction] for sample in samples]
        padded = pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([[len(rows)] for rows in tokens])
        distinct, encoded = _distinct(np.concatenate([sample.shown for sample in samples]))

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))

        return Batch(
            states=stacked("state")[:, None],
            actions=stacked("actions"),
            mask=stacked("mask")[:, None],
            rates_hz=torch.tensor([sample.rate_hz for sample in samples]),
            tokens=padded,
            token_mask=torch.arange(padded.shape[1]) < lengths,
            pictures=as_tensor(np.stack([sample.pictures for sample in samples])),
            distinct=torch.from_numpy(distinct),
            encoded=torch.from_numpy(encoded),
            state_norms=stacked("state_norm"),
            datasets=tuple(sample.dataset for sample in samples),
            where=tuple(sample.where for sample in samples),
        )


def _distinct(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Batch.distinct` and `Batch.encoded` of (B * 6,) bool; the background is the first that is not shown."""
    first = int(shown.argmin())
    one_of_all = shown.copy()
    one_of_all[first] = True
    distinct = np.flatnonzero(one_of_all)
    encoded = one_of_all.cumsum() - 1
    encoded[~shown] = encoded[first]
    more = min(-len(distinct) % ROUND, len(shown) - len(distinct))
    return np.concatenate([distinct, np.full(more, distinct[0])]), encoded


@dataclass(frozen=True)
class Order:
    """Which samples make up the batches of one process: consecutive ones, `world` batches side by side."""

    batch_size: int  # of one process
    start: int  # samples that all processes together have seen
    batches: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.batches):
            first = self.start + (batch * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def batches(
    mixture: Mixture, order: Order, config: LoaderConfig, *, start_method: str | None = None
) -> Iterator[Batch]:
    """The batches of an order, from `config.workers` processes; InputError where they are larger than the data.

    `start_method` is that of the workers: fork, spawn, forkserver or the system's own.
    """
    if order.batch_size * order.world > mixture.steps:
        raise InputError(
            f"batch of {order.batch_size * order.world} samples: expected at most {mixture.steps}, "
            "as many steps as the episodes have"
        )
    loader: DataLoader[Sample] = DataLoader(
        mixture,
        batch_sampler=order,
        collate_fn=mixture.collate,
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        worker_init_fn=_alone,
        generator=torch.Generator(),  # it draws a seed, which shall not come out of the training's own generator
        multiprocessing_context=start_method if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except InputError as error:
        # a worker's error comes with its traceback around it
        raise InputError(
            str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        ) from None


def _alone(worker: int) -> None:
    """One thread a worker: they share the cores already, and OpenCV's threads do not survive a fork.

    A signal to the whole group is for the process that trains, which has a step to end and ends its workers itself.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
