"""Runs of a tiny network on small episodes: exact where exactness matters, one line where something is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import SAFETENSORS, open_checkpoint
from rdt_ros.model.config import MODEL_SIZES, config_to_json
from rdt_ros.model.language import HashedWords
from rdt_ros.model.store import InstructionStore
from rdt_ros.policy.rdt import RdtPolicy
from rdt_ros.training.config import DatasetConfig, SampleConfig
from rdt_ros.training.dataset import open_dataset
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.loader import Order, batches
from rdt_ros.training.loss import Noise, Objective
from rdt_ros.training.passes import Passes
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import settings, write_settings
from rdt_ros.training.statistics import write_statistics

TINY = {
    "checkpoint": "random:tiny",
    "vision": "random",
    "language": "hashed",
    "steps": 4,
    "batch_size": 2,
    "precision": "fp32",
    "loader": {"workers": 0, "seed": 5},
    "sample": {"augment": False},
    "optimizer": {"warmup_steps": 2, "learning_rate": 1e-3},
    "evaluation": {"samples": 2, "curves": 0},
    "logging": {"every": 1, "tracker": "none"},
}


@pytest.fixture(autouse=True)
def small_process():
    """One thread, which tiny networks are fastest with; and accelerate keeps one state a process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def episodes(maker, tmp_path_factory, tmp_path):
    made = tmp_path_factory.getbasetemp() / "finetune_set"
    if not made.exists():
        maker.folder(made, (130, 131, 132), height=12, width=16)
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture
def recipe(episodes, tmp_path):
    """Makes recipes; sections are changed key by key."""

    def make(output="run", **changes) -> Recipe:
        data = {**TINY, "output": str(tmp_path / output)}
        data["datasets"] = [{"path": str(episodes), "robot": "agilex", "held_out": ["e2.hdf5"]}]
        for name, value in changes.items():
            data[name] = {**data.get(name, {}), **value} if isinstance(value, dict) else value
        return settings(Recipe, data, "test")

    return make


def run(recipe: Recipe) -> FineTuning:
    run = FineTuning(recipe, cpu=True)
    assert run.run()
    return run


def figures(recipe: Recipe) -> list[dict]:
    return [json.loads(line) for line in (Path(recipe.output) / "metrics.jsonl").read_text().splitlines()]


def losses(recipe: Recipe) -> list[float]:
    return [row["loss"] for row in figures(recipe) if "loss" in row]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_a_checkpoint_that_the_policy_takes_as_it_is(recipe):
    run(recipe(evaluation={"samples": 4, "curves": 1}))
    folder = Path(recipe().output)
    checkpoint = open_checkpoint(folder / "checkpoints" / "step_000004")
    assert checkpoint.robot.name == "agilex" and checkpoint.norm_recorded
    assert set(checkpoint.statistics) == {"set"} and checkpoint.statistics["set"]["dataset_name"] == "set"
    policy = RdtPolicy.from_checkpoint(
        folder / "checkpoints" / "step_000004",
        device="cpu",
        vision=str(folder / "vision"),
        instruction="fold the towel",
    )
    assert policy.robot.name == "agilex"
    row = next(row for row in figures(recipe()) if "held_out/overall_avg_sample_mse" in row)
    assert row["step"] == 4 and row["held_out/set_sample_l2err"] > 0
    assert (folder / "pictures" / "step_000004_held_out.png").stat().st_size > 1000
    assert {"loss/set", "lr", "grad_norm"} <= figures(recipe())[0].keys()
    assert [row["lr"] for row in figures(recipe()) if "lr" in row] == [5e-4, 1e-3, 1e-3, 1e-3]


@pytest.mark.parametrize(
    "kind",
    [
        {"ema": {"decay": 0.9}},
        {"precision": "bf16", "weights": "split", "accumulation": 2},
        {"precision": "bf16", "weights": "split", "optimizer": {"kind": "adamw8bit"}},
        {"lora": {"rank": 2, "dropout": 0.1}, "ema": {"decay": 0.9, "device": "cpu", "every": 2}},
        {"loss": "masked", "freeze": ["lang_adaptor.*"], "recompute": True},
    ],
    ids=["ema", "split", "adamw8bit", "lora", "masked"],
)
def test_a_resumed_run_is_the_uninterrupted_one(recipe, kind):
    if "lora" in kind:
        pytest.importorskip("peft")
    if "optimizer" in kind:
        pytest.importorskip("bitsandbytes")
    whole = run(recipe("whole", **kind))
    parts = dict(saving={"every": 2})
    first = FineTuning(recipe("parts", **kind, **parts), cpu=True)
    first.recipe = dataclasses.replace(first.recipe, steps=2)
    first.run()
    assert losses(recipe("parts")) == losses(recipe("whole"))[:2]
    torch.rand(3)  # whatever another process did with its generator
    second = run(recipe("parts", **kind, **parts))

    assert losses(recipe("parts")) == losses(recipe("whole"))
    assert same(whole.weights(), second.weights())
    states = [one.folder.training(4) for one in (whole, second)]
    assert states[0]["samples"] == states[1]["samples"] == 4 * whole.samples_a_step
    torch.testing.assert_close(*(state["optimizer"]["state"] for state in states), rtol=0, atol=0)
    assert torch.equal(states[0]["rng"][0]["cpu"], states[1]["rng"][0]["cpu"])
    if whole.ema:
        assert same(whole.ema.mean, second.ema.mean)


FORMS = {"safetensors": "model.safetensors", "deepspeed": "mp_rank_00_model_states.pt", "torch": "pytorch_model.bin"}


@pytest.fixture
def start(recipe, tmp_path):
    """A file of weights in a form, none of them zero, and its content."""

    def make(form: str, dtype=torch.float32) -> tuple[Path, dict[str, torch.Tensor]]:
        fresh = FineTuning(recipe("fresh"), cpu=True).weights()
        weights = {n: (t + 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(len(n)))).to(dtype)
                   for n, t in fresh.items()}  # fmt: skip
        path = tmp_path / form / FORMS[form]
        path.parent.mkdir()
        if form == "safetensors":
            save_file(weights, path)
        else:
            torch.save({"module": weights} if form == "deepspeed" else weights, path)
        (path.parent / "config.json").write_text(json.dumps(config_to_json(MODEL_SIZES["tiny"])))
        return path, weights

    return make


def still(recipe, path, **changes) -> Recipe:
    """One batch over and over at a learning rate of 0."""
    return recipe("still", checkpoint=str(path), language="store", steps=2, optimizer={"learning_rate": 0.0}, **changes)


@pytest.fixture
def store(episodes):
    """Embeddings beside the episodes, as `rdt encode` would leave them."""
    words, found = HashedWords(64), InstructionStore("test", 64)
    for text in ("fold the towel", "fold towel", "fold it", "take the towel and fold it twice", ""):
        found.add(text, words.tokens(text), "fp32")
    found.save(episodes)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", ["float32", "split"])
def test_at_learning_rate_0_weights_and_loss_stay_those_of_the_file(recipe, start, store, form, weights):
    path, content = start(form)
    precision = "bf16" if weights == "split" else "fp32"
    chosen = still(recipe, path, weights=weights, precision=precision)
    tuning = FineTuning(chosen, cpu=True)
    passes = passes_of(tuning, 2)
    first, _ = tuning._step(passes, 0.0, _Losses())
    second, _ = tuning._step(passes, 0.0, _Losses())
    assert first == second and first > 0
    assert same(tuning.weights(), content)


def batch_and_noise(tuning: FineTuning):
    order = Order(2, 0, 1)
    noises = Noise.stream(tuning.recipe.loader.seed, order, tuning.network)
    return zip(batches(tuning._mixture, order, tuning.recipe.loader), noises, strict=True)


def passes_of(tuning: FineTuning, count: int) -> Passes:
    """The first batch so many times."""
    return Passes([next(batch_and_noise(tuning))] * count, tuning._slot_weights, tuning.device)


class _Losses:
    def add(self, *_):
        """Forgets them."""


LAUNCHED = """
import argparse, sys
from rdt_ros import finetune_command
parser = argparse.ArgumentParser()
finetune_command.add_parser(parser.add_subparsers())
args = parser.parse_args(["finetune", *sys.argv[1:]])
sys.exit(args.run(args))
"""


LAUNCHERS = {  # accelerate itself starts several processes on GPUs only
    1: ["accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"],
    2: ["torch.distributed.run", "--nproc-per-node=2", "--standalone"],
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", LAUNCHERS)
def test_the_same_under_launchers(recipe, start, store, tmp_path, processes):
    path, content = start("safetensors")
    alone = still(recipe, path, batch_size=2)
    run(alone)
    launched = dataclasses.replace(alone, output=str(tmp_path / "launched"), batch_size=2 // processes)
    write_settings(launched, tmp_path / "recipe.yaml")
    (tmp_path / "launched.py").write_text(LAUNCHED)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[processes], tmp_path / "launched.py", tmp_path / "recipe.yaml", "--cpu"],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert same(load_file(tmp_path / "launched" / "checkpoints" / "step_000002" / SAFETENSORS), content)
    assert losses(launched) == pytest.approx(losses(alone), rel=1e-5)
    errors = [[row for row in figures(one) if "train/overall_avg_sample_mse" in row] for one in (alone, launched)]
    assert errors[1][0]["train/set_sample_mse"] == pytest.approx(errors[0][0]["train/set_sample_mse"], rel=1e-4)


def test_data_order_and_noise_do_not_depend_on_workers_or_accumulation(recipe):
    """One step of four samples, or of two times two."""
    one = run(recipe("one", batch_size=4, steps=2))
    two = run(recipe("two", batch_size=2, accumulation=2, steps=2, loader={"workers": 1}))
    assert losses(recipe("one")) == pytest.approx(losses(recipe("two")), rel=1e-5)
    for name, tensor in one.weights().items():
        torch.testing.assert_close(tensor, two.weights()[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_as_a_whole_also_when_they_are_accumulated(recipe):
    """Plain descent, whose step is the learning rate times the clipped gradient."""
    for name, accumulation in (("a", 1), ("b", 2)):
        tuning = FineTuning(recipe(name, accumulation=accumulation, optimizer={"max_grad_norm": 0.01}), cpu=True)
        tuning.optimizer = torch.optim.SGD(tuning.trained.values(), lr=1.0)
        before = {name: parameter.detach().clone() for name, parameter in tuning.trained.items()}
        _, norm = tuning._step(passes_of(tuning, accumulation), 1.0, _Losses())
        moved = torch.cat([(parameter - before[name]).flatten() for name, parameter in tuning.trained.items()]).norm()
        assert norm > 0.05 and moved.item() == pytest.approx(0.01, rel=1e-2)


def test_recomputing_changes_no_gradient(recipe):
    kept, again = (run(recipe(str(flag), recompute=flag, steps=2)) for flag in (False, True))
    assert same(kept.weights(), again.weights())


def test_frozen_weights_stay(recipe):
    tuning = FineTuning(recipe(freeze=["model.blocks.*", "img_adaptor.*"]), cpu=True)
    before = {name: tensor.clone() for name, tensor in tuning.weights().items()}
    tuning.run()
    moved = {name for name, tensor in tuning.weights().items() if not torch.equal(tensor, before[name])}
    assert moved and all(not name.startswith(("model.blocks", "img_adaptor")) for name in moved)
    with pytest.raises(InputError, match="freeze: expected a pattern of weights in .*img_adaptor.*, found 'vision.*'"):
        FineTuning(recipe("other", freeze=["vision.*"]), cpu=True)


def test_lora_is_merged_into_what_is_saved(recipe):
    pytest.importorskip("peft")
    tuning = run(recipe(lora={"rank": 2}, steps=3))
    merged = open_checkpoint(tuning.folder.checkpoint(3))
    plain = merged.network()
    (batch, _) = next(batch_and_noise(tuning))
    noise = Noise.draw(0, [0, 1], plain)
    with torch.no_grad():
        tuning._objective.eval()
        ours, theirs = tuning._objective.predict(batch, noise), Objective(plain, tuning.vision).predict(batch, noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    fresh = FineTuning(recipe("fresh"), cpu=True).weights()
    assert not torch.equal(merged.weights["model.blocks.0.attn.qkv.weight"], fresh["model.blocks.0.attn.qkv.weight"])


def test_checkpoints_are_pruned_as_told(recipe):
    tuning = run(recipe(steps=7, saving={"every": 1, "keep": 2, "keep_every": 4}, evaluation={"samples": 1}))
    assert tuning.folder.steps() == [4, 6, 7]
    assert {entry.name for entry in (tuning.folder.path / "checkpoints").iterdir()} == {
        "step_000004", "step_000006", "step_000007"
    }  # fmt: skip


def test_an_interrupted_checkpoint_is_never_taken_for_a_whole_one(recipe, monkeypatch):
    run(recipe(steps=2))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(InputError, match=r"step_000004: could not be written: .*No space left.*step_000002"):
            FineTuning(recipe(), cpu=True).run()
    assert FineTuning(recipe(), cpu=True).done == 2
    # and one that was killed while it wrote
    leftover = Path(recipe().output) / "checkpoints" / ".step_000003.partial"
    leftover.mkdir()
    (leftover / SAFETENSORS).write_bytes(b"half")
    assert FineTuning(recipe(), cpu=True).done == 2 and not leftover.exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(recipe, monkeypatch):
    tuning = FineTuning(recipe(), cpu=True)
    step = tuning._step

    def interrupted(*args):
        if tuning.done == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(tuning, "_step", interrupted)
    assert not tuning.run() and tuning.folder.steps() == [2]
    run(recipe())
    assert len(losses(recipe())) == 4


def test_nan_stops_and_names_the_samples(recipe, monkeypatch):
    tuning = FineTuning(recipe(), cpu=True)
    before = {name: tensor.clone() for name, tensor in tuning.weights().items()}
    forward = tuning._objective.forward

    def poisoned(batch, noise, weights):
        return forward(batch, noise, weights) * torch.tensor([1.0, np.nan])

    monkeypatch.setattr(tuning._objective, "forward", poisoned)
    with pytest.raises(InputError, match=r"step 1: expected a finite loss .* samples \S*e\d.hdf5 step \d+; weights"):
        tuning.run()
    assert same(tuning.weights(), before)


def test_gpu_out_of_memory_says_which_settings_to_lower(recipe, monkeypatch):
    tuning = FineTuning(recipe(recompute=True, precision="bf16"), cpu=True)

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tuning._objective, "forward", full)
    with pytest.raises(InputError, match="GPU out of memory at batch_size 2: in this order, lower batch_size") as error:
        tuning.run()
    assert "adamw8bit" in str(error.value) and "split" in str(error.value) and "recompute" not in str(error.value)


def test_a_compiler_that_fails_says_how_to_do_without(recipe):
    from torch._inductor import config, exc

    tuning = FineTuning(recipe(compile=True), cpu=True)
    missing = pytest.raises(InputError, match=r"compile: .* found InvalidCxxCompiler: .*: compile=false does without")
    with config.patch({"cpp.cxx": (None, "/missing"), "force_disable_caches": True}), missing as error:
        tuning.run()
    assert isinstance(error.value.__cause__, exc.InductorError)
    assert tuning.done == 0


def test_missing_embeddings_name_the_command(recipe, store, start, episodes):
    path, _ = start("torch")
    (episodes / "instructions.safetensors").unlink()
    short = InstructionStore("test", 64)
    short.add("fold it", HashedWords(64).tokens("fold it"), "fp32")
    short.save(episodes)
    with pytest.raises(InputError, match="missing .*rdt encode 'fold the towel'"):
        FineTuning(still(recipe, path), cpu=True)


def test_another_robots_weights_are_refused_unless_allowed(recipe, start, store):
    path, _ = start("torch")
    text = Path("config/robots/sim_aloha.yaml").read_text()
    (path.parent / "robot.yaml").write_text(text)
    with pytest.raises(InputError, match="data set set: .*trained on a robot with name sim_aloha, given .* agilex"):
        FineTuning(still(recipe, path), cpu=True)
    assert FineTuning(still(recipe, path, other_robot=True), cpu=True).done == 0


def test_statistics_of_another_set_are_refused(recipe, tmp_path, episodes):
    own = open_dataset(DatasetConfig(path=str(episodes), robot="agilex"), SampleConfig()).statistics
    write_statistics(tmp_path / "other.json", [dataclasses.replace(own, low=own.low + 1, high=own.high - 1)])
    sets = [{"path": str(episodes), "robot": "agilex", "statistics": str(tmp_path / "other.json")}]
    with pytest.raises(InputError, match="statistics of set: expected those of this data, found another's"):
        FineTuning(recipe(datasets=sets), cpu=True)


def test_a_batch_larger_than_the_data_is_refused(recipe):
    with pytest.raises(InputError, match="batch of 500 samples: expected at most"):
        FineTuning(recipe(batch_size=500), cpu=True).run()


def test_tensorboard_gets_figures_and_pictures(recipe):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tuning = run(recipe(steps=1, logging={"tracker": "tensorboard"}, evaluation={"curves": 1}))
    events = accumulator.EventAccumulator(str(tuning.folder.tracker / "rdt"))
    events.Reload()
    assert {"loss", "held_out/overall_avg_sample_mse", "grad_norm"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"train/curves", "held_out/curves"}


def test_a_tracker_that_cannot_start_is_one_line(recipe, monkeypatch):
    pytest.importorskip("tensorboard")

    def refused(*_, **__):
        raise ConnectionError("no route to api.wandb.ai")

    tuning = FineTuning(recipe(logging={"tracker": "tensorboard"}), cpu=True)
    monkeypatch.setattr(tuning.accelerator, "init_trackers", refused)
    tuning.recipe = dataclasses.replace(
        tuning.recipe, logging=dataclasses.replace(tuning.recipe.logging, tracker="wandb")
    )
    with pytest.raises(InputError, match="wandb: could not start: no route .*logging.offline=true needs no network"):
        tuning.run()


def test_a_tracker_that_is_not_installed_is_named(recipe, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="expected wandb to be installed, found none: pip install wandb"):
        FineTuning(recipe(logging={"tracker": "wandb"}), cpu=True)


def test_the_robot_of_the_recipe_must_be_one_of_the_data(recipe):
    with pytest.raises(InputError, match="robot: expected one of the data sets' agilex, found sim_aloha"):
        FineTuning(recipe(robot="sim_aloha"), cpu=True)
