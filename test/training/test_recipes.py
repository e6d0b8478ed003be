"""Every recipe that is shipped runs to its end, on a tiny network and a few steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from rdt_ros.model.checkpoint import open_checkpoint
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import read_settings

RECIPES = sorted((Path(__file__).parents[2] / "config" / "finetune").glob("*.yaml"))
SMALL = [
    "language=hashed",
    "steps=2",
    "batch_size=2",
    "accumulation=1",
    "loader.workers=0",
    "evaluation.samples=2",
    "evaluation.curves=1",
    "logging.tracker=none",
    "compile=false",  # a minute and more on a CPU; test_frozen_tower.py compiles
]


@pytest.fixture(autouse=True)
def small_process():
    """One thread, which tiny networks are fastest with; and accelerate keeps one state a process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_to_its_end(recipe, maker, tmp_path):
    maker.folder(tmp_path / "set", (130, 131), height=12, width=16)
    given = [*SMALL, "checkpoint=random:tiny", "vision=random", f"output={tmp_path / 'run'}"]
    given += [f"datasets.0.path={tmp_path / 'set'}", "datasets.0.robot=agilex"]
    asked = read_settings(Recipe, recipe, given)
    # bitsandbytes has kernels for the CPU too, but is not everywhere
    if asked.optimizer.kind == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        given.append("optimizer.kind=adamw")
    if asked.lora.rank:
        pytest.importorskip("peft")
    tuning = FineTuning(read_settings(Recipe, recipe, given), cpu=True)
    assert tuning.run()
    assert open_checkpoint(tuning.folder.checkpoint(2)).robot.name == "agilex"
