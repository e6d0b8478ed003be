"""How long a checkpoint takes to load, and how much host memory: random weights, loaded in a process of its own.

`python -m rdt_ros.bench.loading --size rdt-1b --device cpu`
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdt_ros.model.checkpoint import open_checkpoint, save_checkpoint, save_for_reference
from rdt_ros.model.config import MODEL_SIZES, ModelConfig
from rdt_ros.model.network import RdtNetwork

GB = 1e9


def load_once(path: str, device: str, dtype: torch.dtype) -> dict[str, float | None]:
    """Loads a checkpoint and reads every weight once; figures of this process alone."""
    torch.zeros(1, device=device)  # what a GPU's context takes is not the checkpoint's
    before = _memory_bytes("VmRSS")
    start_s = time.perf_counter()
    checkpoint = open_checkpoint(path)
    network = checkpoint.network(device, dtype)
    for parameter in network.parameters():
        parameter.sum(dtype=torch.float32).item()
    seconds = time.perf_counter() - start_s
    peak = _memory_bytes("VmHWM") - before
    file_bytes = checkpoint.path.stat().st_size
    on_gpu = torch.cuda.max_memory_allocated() / GB if torch.device(device).type == "cuda" else None
    return {
        "seconds": round(seconds, 2),
        "file_gb": round(file_bytes / GB, 3),
        "peak_host_gb": round(peak / GB, 3),
        "peak_host_ratio": round(peak / file_bytes, 3),
        "peak_gpu_gb": None if on_gpu is None else round(on_gpu, 3),
    }


def load_apart(path: Path, device: str, dtype: str) -> dict[str, float | None]:
    """The same in a new process, so that nothing is in its memory before."""
    command = [sys.executable, "-m", __spec__.name, "--measure", str(path), "--device", device, "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"loading {path} failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    config: ModelConfig, weights: Mapping[str, Tensor], folder: Path, device: str, dtype: str
) -> dict[str, Any]:
    """Figures of our form and of the reference's, written to `folder`."""
    save_checkpoint(folder / "ours", config, weights)
    save_for_reference(folder / "reference", config, weights)
    return {name: load_apart(folder / name, device, dtype) for name in ("ours", "reference")}


def _memory_bytes(which: str) -> int:
    """VmRSS, what is resident now, or VmHWM, the most that was; the parent's peak does not count, as in getrusage."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object."""
    parser = argparse.ArgumentParser(prog="rdt bench loading", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="rdt-1b", choices=MODEL_SIZES, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="default: %(default)s")
    parser.add_argument("--measure", metavar="PATH", help="load this checkpoint in this process and do nothing else")
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(load_once(args.measure, args.device, getattr(torch, args.dtype))))
        return 0
    config = MODEL_SIZES[args.size]
    weights = {name: tensor.bfloat16() for name, tensor in RdtNetwork(config).state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(config, weights, Path(folder), args.device, args.dtype)
    print(json.dumps({"model": args.size, "device": args.device, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
