"""Signals to a run, for real: a checkpoint is left, nothing keeps running, and the same command goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rdt_ros.training.interrupt import ECHO_S, Interrupt

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180.0  # before a run that hangs fails the test
LAUNCHERS: dict[str, list[str]] = {
    "alone": [],
    # what `accelerate launch` runs for several GPUs; with --cpu it starts a single process
    "two processes": ["torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m"],
}


class Run:
    """`rdt finetune` of a tiny recipe in a folder."""

    def __init__(self, folder: Path, launcher: str) -> None:
        self.recipe, self.output = folder / "recipe.yaml", folder / "run"
        self._command = [
            sys.executable,
            "-m",
            *LAUNCHERS[launcher],
            "rdt_ros.cli",
            "finetune",
            str(self.recipe),
            "--cpu",
        ]
        self.process: subprocess.Popen | None = None

    def write(self, steps: int, workers: int = 0) -> None:
        data = {
            "output": str(self.output),
            "checkpoint": "random:tiny",
            "vision": "random",
            "language": "hashed",
            "datasets": [{"path": str(self.recipe.parent / "set"), "robot": "agilex"}],
            "steps": steps,
            "batch_size": 2,
            "precision": "fp32",
            "sample": {"augment": False},
            "loader": {"workers": workers},
            "evaluation": {"every": 0, "samples": 2, "curves": 0},
            "saving": {"every": 10**6},
            "logging": {"every": 1, "tracker": "none"},
        }
        self.recipe.write_text(yaml.safe_dump(data))

    def start(self, limit: Callable[[], None] | None = None) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=ROOT, env=environment, start_new_session=True, preexec_fn=limit,
        )  # fmt: skip
        return self.process

    def end(self) -> tuple[int, str]:
        """Exit code and output."""
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def steps(self) -> list[int]:
        file = self.output / "metrics.jsonl"
        rows = file.read_text().splitlines() if file.exists() else []
        return [row["step"] for row in map(json.loads, rows) if "loss" in row]

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.output / "checkpoints").iterdir())

    def processes(self) -> list[int]:
        """All that run for this recipe, the loader's too."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and str(self.recipe) in _command_line(entry)
        ]


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return ""


def until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(condition())


@pytest.fixture
def started(maker, tmp_path):
    """Makes runs, and ends what is left of them."""
    maker.folder(tmp_path / "set", (130, 131), height=12, width=16)
    runs = []

    def make(launcher: str) -> Run:
        runs.append(Run(tmp_path, launcher))
        return runs[-1]

    yield make
    for run in runs:
        for process in run.processes():
            os.kill(process, signal.SIGKILL)


def to_group(run: Run, number: int) -> None:
    """As a terminal does."""
    os.killpg(run.process.pid, number)


def to_all(run: Run, number: int) -> None:
    """As a service manager does; the launcher then passes on what the others have got already."""
    for process in run.processes():
        os.kill(process, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "send", "number"),
    [
        ("alone", to_group, signal.SIGINT),
        ("alone", to_group, signal.SIGTERM),
        ("two processes", to_group, signal.SIGINT),
        ("two processes", to_all, signal.SIGTERM),
    ],
)
def test_a_signal_leaves_a_checkpoint_and_no_process_and_the_command_goes_on(started, launcher, send, number):
    run = started(launcher)
    run.write(steps=10**6, workers=2)
    run.start()
    assert until(lambda: len(run.steps()) > 2 or run.process.poll() is not None)
    send(run, number)
    code, output = run.end()
    assert until(lambda: not run.processes())
    # a launcher has an exit code of its own
    assert code == 130 if launcher == "alone" else code != 0
    done = run.steps()[-1]
    assert run.checkpoints() == [f"step_{done:06d}"]
    assert f"interrupted at step {done}; the same command goes on from there" in output

    run.write(steps=done + 2, workers=2)
    run.start()
    code, output = run.end()
    assert code == 0, output
    assert run.steps() == list(range(1, done + 3)) and f"goes on from step {done}" in output
    assert not run.processes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_full_disk_is_one_line_and_leaves_the_last_good_checkpoint(started, launcher):
    """Files that may not grow further stand for the disk."""
    run = started(launcher)
    run.write(steps=2)
    run.start()
    assert run.end()[0] == 0
    weights = run.output / "checkpoints" / "step_000002" / "model.safetensors"
    before, most = weights.read_bytes(), weights.stat().st_size // 2
    run.write(steps=4)
    run.start(limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    code, output = run.end()
    assert code == 2 if launcher == "alone" else code != 0
    (line,) = [line for line in output.splitlines() if line.startswith("rdt: ")]
    assert "step_000004: could not be written" in line and line.endswith("step_000002")
    assert run.checkpoints() == ["step_000002"] and weights.read_bytes() == before
    assert "Traceback" not in output.split("rdt: ")[0]
    assert until(lambda: not run.processes())


def test_an_echo_is_no_second_signal():
    now = [0.0]
    with Interrupt(lambda: now[0]) as interrupt:
        assert not interrupt.asked
        for at_s in (1.0, 1.0 + ECHO_S / 2):
            now[0] = at_s
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.asked
        now[0] = 1.1 + ECHO_S
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
