"""Samples a second and memory of fine-tuning: our loop, and the reference's own, on the same synthetic episodes.

Both read textured 640x480 pictures and start from random weights; saving and evaluating are left out. Settings of a
recipe may follow as key=value.

The reference's loop is its train(), under accelerate in bf16. With `--zero2` it runs under DeepSpeed with its own
configs/zero2.json, as its finetune.sh has it, which keeps float32 masters; without, its weights and moments are bf16
and nothing else. Its augmentation needs a library that fails on NumPy 2: it has none, ours has it on. It needs h5py,
opencv-python-headless, deepspeed==0.19.8 for `--zero2`, and:
pip install --no-deps --target ref dora-rdt-1b==0.3.13 timm==1.0.3 diffusers==0.42.1
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from accelerate.logging import get_logger
from accelerate.state import AcceleratorState
from transformers import SiglipImageProcessor

from rdt_ros.bench.dataset import INSTRUCTION, convert, record, reference_dataset, reference_folder
from rdt_ros.bench.reference import HOW_TO, Reference, quiet
from rdt_ros.model.config import MODEL_SIZES, model_size
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.training.finetune import FineTuning
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import read_settings

GB, GIB = 1e9, 2**30
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
BASE: dict[str, Any] = {
    "vision": "random",
    "language": "hashed",
    "logging": {"tracker": "none", "every": 1},
    "optimizer": {"warmup_steps": 0},
}


class _Timed(FineTuning):
    """Our loop, which writes down when steps ended and saves nothing."""

    def __init__(self, recipe: Recipe, *, cpu: bool) -> None:
        self.times: list[float] = []
        super().__init__(recipe, cpu=cpu)

    def _step(self, *args: Any) -> tuple[float, float]:
        found = super()._step(*args)  # has read the loss, as the reference has when it is asked for the time
        self.times.append(time.perf_counter())
        return found

    def _evaluate(self, journal: Any) -> None:
        """Is no part of a step."""

    def save(self) -> None:
        """Is no part of a step."""


class _Enough(Exception):
    """Ends the reference's loop, which would write its weights otherwise."""


def ours(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of our loop."""
    data = BASE | {
        "output": str(work / "run"),
        "checkpoint": f"random:{args.model}",
        "datasets": [{"path": str(work / "ours")}],
        "steps": args.warmup + args.steps,
        "batch_size": args.batch,
        "loader": {"workers": args.workers},
    }
    (work / "recipe.yaml").write_text(yaml.safe_dump(data))
    recipe = read_settings(Recipe, work / "recipe.yaml", [f"optimizer.kind={args.optimizer}", *args.settings])
    _reset_peak()
    run = _Timed(recipe, cpu=args.cpu)
    run.run()
    world, main = run.accelerator.num_processes, run.accelerator.is_main_process
    lines = run.folder.metrics.read_text().splitlines() if main else []
    samples = recipe.batch_size * recipe.accumulation * world
    found = {
        "samples_per_s": _rate(run.times, args.warmup, samples),
        "peak_gb": _peak_gb(),
        "reserved_gb": torch.cuda.max_memory_reserved() / GB if torch.cuda.is_available() else None,
        "processes": world,
        "losses": [json.loads(line)["loss"] for line in lines],
        "main": main,
    }
    AcceleratorState._reset_state(reset_partial_state=world == 1)
    return found


def theirs(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of the reference's train()."""
    reference, config = Reference(), model_size(args.model)
    convert(work / "ours", work / "theirs", work / "lang_embed.pt")
    tokens = torch.zeros(20, config.lang_token_dim, dtype=torch.bfloat16)
    torch.save(tokens, work / "lang_embed.pt")
    # Its data set is as long as there are files.
    for i in range(args.batch * (args.warmup + args.steps) - 1):
        (work / "theirs" / f"again_{i}.hdf5").symlink_to(work / "theirs" / "episode.hdf5")
    vision = work / "siglip"
    encoder = SiglipEncoder.random(config.vision)
    size = encoder.image_size
    encoder.tower.save(vision)
    SiglipImageProcessor(size={"height": size, "width": size}).save_pretrained(vision)
    (work / "base.yaml").write_text(yaml.safe_dump(reference.base_yaml(config)))
    with reference_folder(reference, work / "theirs", work / "cwd"):
        torch.save(tokens[:1], work / "empty.pt")
        Path("data/empty_lang_embed.pt").unlink()
        Path("data/empty_lang_embed.pt").symlink_to(work / "empty.pt")
        reference_dataset(
            reference, use_precomp_lang_embed=True, image_size=size
        )  # puts a stand-in for imgaug in place
        train, main = importlib.import_module("train.train"), importlib.import_module("main")
        words = ["--load_from_hdf5", "--precomp_lang_embed", "--dataset_type=finetune", "--state_noise_snr=40"]
        words += [f"--train_batch_size={args.batch}", f"--max_train_steps={args.warmup + args.steps}"]
        words += [f"--config_path={work / 'base.yaml'}", f"--pretrained_vision_encoder_name_or_path={vision}"]
        words += ["--mixed_precision=bf16", f"--dataloader_num_workers={max(1, args.workers)}"]
        words += ["--checkpointing_period=1000000", f"--sample_batch_size={args.batch}", f"--output_dir={work / 'out'}"]
        words += ["--use_8bit_adam"] if args.optimizer == "adamw8bit" else []
        words += [f"--deepspeed={reference.folder / 'configs' / 'zero2.json'}"] if args.zero2 else []
        times: list[float] = []

        class Bar:
            """Stands in for its progress bar, which moves once a step."""

            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def set_description(self, *_: Any) -> None:
                """Has nothing to show."""

            def set_postfix(self, **_: Any) -> None:
                """The loss has been read, so the device is done."""
                times.append(time.perf_counter())
                if len(times) == args.warmup + args.steps:
                    raise _Enough

            def update(self, *_: Any) -> None:
                """Has nothing to show."""

        _reset_peak()
        untracked = mock.patch.object(train.Accelerator, "init_trackers")
        bar = mock.patch.object(train, "tqdm", Bar)
        alone = mock.patch.dict(os.environ, ALONE if args.zero2 else {})
        with untracked, _on_cpu(train, args.cpu), bar, alone, contextlib.suppress(_Enough), quiet():
            train.train(main.parse_args(words), get_logger("reference"))
    AcceleratorState._reset_state(reset_partial_state=True)
    return {
        "reference_samples_per_s": _rate(times, args.warmup, args.batch),
        "reference_peak_gb": _peak_gb(),
    }


@contextlib.contextmanager
def _on_cpu(train: Any, cpu: bool) -> Any:
    """Its Accelerator takes a GPU where there is one."""
    make = train.Accelerator
    with mock.patch.object(train, "Accelerator", lambda **options: make(**options, cpu=cpu)):
        yield


def _rate(times: Sequence[float], warmup: int, samples: int) -> float:
    """Samples a second, from the median step after the warm-up."""
    steps = [after - before for before, after in zip(times[warmup - 1 :], times[warmup:], strict=False)]
    return samples / statistics.median(steps)


def _reset_peak() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gb() -> float | None:
    return torch.cuda.max_memory_allocated() / GB if torch.cuda.is_available() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object; the last line of output."""
    parser = argparse.ArgumentParser(prog="rdt bench finetune", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe, e.g. weights=split")
    parser.add_argument("--model", choices=tuple(MODEL_SIZES), default="rdt-1b", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="samples of one process; default: %(default)s")
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw", help="default: %(default)s")
    parser.add_argument("--cap-gib", type=float, help="GPU memory that the process may take; default: all")
    parser.add_argument("--steps", type=int, default=20, help="that count; default: %(default)s")
    parser.add_argument("--warmup", type=int, default=6, help="steps before; default: %(default)s")
    parser.add_argument("--workers", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--no-reference", action="store_true", help="leave the reference away")
    parser.add_argument("--zero2", action="store_true", help="the reference under DeepSpeed, as its own script runs it")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    args = parser.parse_intermixed_args(argv)
    if args.zero2 and args.cpu:
        parser.error("--zero2: expected a GPU, found --cpu")
    if args.cap_gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gib * GIB / total))
    found: dict[str, Any] = {"model": args.model, "batch": args.batch, "cap_gib": args.cap_gib}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "ours").mkdir()
        record(work / "ours")
        found |= ours(work, args)
        found |= {"reference_samples_per_s": None, "reference_peak_gb": None, "ratio": None}
        if found.pop("main") and not args.no_reference and found["processes"] == 1:
            try:
                found |= theirs(work, args)
                found["ratio"] = found["samples_per_s"] / found["reference_samples_per_s"]
            except (ImportError, torch.cuda.OutOfMemoryError) as error:
                print(f"the reference did not run ({error}): {HOW_TO}")
    print(json.dumps(found | {"instruction": INSTRUCTION}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
