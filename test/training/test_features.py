"""Tokens that are kept: the same losses as with tokens computed in every step, and never those of something else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from rdt_ros.errors import InputError
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.training import features
from rdt_ros.training.features import Features
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import settings

RELATIVE = {"fp32": 1e-6, "bf16": 1e-2}  # kernels round otherwise for another number of pictures


@pytest.fixture(autouse=True)
def small_process():
    """One thread, which tiny networks are fastest with; and accelerate keeps one state a process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def recipe(maker, tmp_path):
    episodes = maker.folder(tmp_path / "set", (130, 131), height=12, width=16)

    def make(output: str, precision: str = "fp32", kept: bool = True, **changes) -> Recipe:
        data = {
            "output": str(tmp_path / output),
            "checkpoint": "random:tiny",
            "vision": "random",
            "language": "hashed",
            "datasets": [{"path": str(episodes), "robot": "agilex", "held_out": ["e1.hdf5"]}],
            "steps": 3,
            "batch_size": 2,
            "precision": precision,
            "sample": {"augment": False, "condition_dropout": 0.3},
            "loader": {"workers": 0, "features": str(tmp_path / "features") if kept else ""},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0},
            "evaluation": {"samples": 2, "curves": 0},
            "logging": {"every": 1, "tracker": "none"},
        }
        return settings(Recipe, data | changes, "test")

    return make


def losses(recipe: Recipe) -> list[float]:
    """Those of the steps, and the errors of both parts of the data at the end."""
    assert FineTuning(recipe, cpu=True).run()
    rows = map(json.loads, (Path(recipe.output) / "metrics.jsonl").read_text().splitlines())
    names = ("loss", "train/overall_avg_sample_mse", "held_out/overall_avg_sample_mse")
    return [row[name] for row in rows for name in names if name in row]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_loss_with_kept_tokens_is_that_without(recipe, tmp_path, precision):
    plain = losses(recipe("plain", precision, kept=False))
    first = losses(recipe("first", precision))
    assert len(plain) == 5 and first == pytest.approx(plain, rel=RELATIVE[precision])
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    assert len(made) == 2
    again = recipe("again", precision, loader={**vars(recipe("x").loader), "workers": 1})
    assert losses(again) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == made


def test_tokens_of_a_changed_file_or_another_encoder_are_made_anew(recipe, tmp_path):
    tuning = FineTuning(recipe("run"), cpu=True)
    (episode,) = tuning.data.datasets[0].train
    kept = tuning._features
    known = kept._path(episode)
    assert known.exists() and kept.tokens(episode, episode.cameras[0], episode.start).any()
    os.utime(episode.path, ns=(0, 1))
    assert not kept._path(episode).exists()
    with pytest.raises(InputError, match=r"no readable tokens of .*e0.hdf5: .*No such file"):
        kept.tokens(episode, episode.cameras[0], episode.start)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = Features.of(kept.folder, SiglipEncoder.random("tiny"))
    assert other.encoder != kept.encoder


def test_what_cannot_be_kept_is_refused(recipe):
    with pytest.raises(InputError, match="loader.features: expected sample.augment false, found true"):
        FineTuning(recipe("run", sample={"augment": True}), cpu=True)
    with pytest.raises(InputError, match="loader.features: expected an encoder that is frozen, found efficientnet"):
        FineTuning(recipe("run", checkpoint="random:small", batch_size=1), cpu=True)


def test_a_full_disk_is_one_line(recipe, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(InputError, match=r"features: expected 0.0 GiB of room, found 0.0"):
            FineTuning(recipe("run"), cpu=True)
    encoded, calls = features._encoded, []

    def full(*args):
        calls.append(args)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return encoded(*args)

    monkeypatch.setattr(features, "_encoded", full)
    with pytest.raises(InputError, match="could not be written: No space left on device"):
        FineTuning(recipe("run"), cpu=True)
    assert not list((tmp_path / "features").iterdir())
