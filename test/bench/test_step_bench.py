from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rdt_ros import jpeg
from rdt_ros.bench import step, step_kernels, step_table
from rdt_ros.bench.step_inputs import Scene, textured
from rdt_ros.bench.step_timing import Rates, Work, times_ms, work_of
from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, SO400M
from rdt_ros.model.fast.stage import FastOptions
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder

CPU = torch.device("cpu")
FIGURES = (
    *("model", "device", "backend", "step_ms_p50", "step_ms_p99", "step_all_new_ms_p50", "reference_ms_p50", "ratio"),
    *("floor_ms", "relative_error", "reference_relative_error", "peak_gb", "first_chunk_s"),
)


@pytest.mark.slow
def test_the_whole_bench_on_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without compiler and reference: what was not measured is None."""
    monkeypatch.setattr(step, "PART_ROUNDS", 2)
    monkeypatch.setattr(step, "first_chunk", lambda *_: {"first_chunk_s": None})
    settings = step.Settings("tiny", CPU, FastOptions(compiled=False), "device", rounds=2, inputs=2)

    figures = step.measure(settings, tmp_path, reference=False, choices=False)

    assert set(FIGURES) <= set(figures)
    assert [name for name in FIGURES if figures[name] is None] == [
        *("reference_ms_p50", "ratio", "reference_relative_error", "peak_gb", "first_chunk_s")
    ]
    assert 0 < figures["relative_error"] < 1e-3  # the device's pictures may differ by a level
    assert figures["floor_ratio"] == pytest.approx(figures["step_all_new_ms_p50"] / figures["floor_ms"])
    parts = figures["parts_ms"]
    assert set(parts) >= {"decode of 6", "vision of 3", "vision of 6", "conditions", "solver steps"}
    assert figures["gpu_ms_per_s_of_motion"] == pytest.approx(
        25 * (parts["vision of 3"] + parts["pictures of 3 to the device"])
        + 5 * parts["conditions and solver steps, as they run"]
    )


@pytest.mark.slow
def test_the_command_prints_one_object_last():
    command = [sys.executable, "-m", "rdt_ros.bench.step", "--model", "tiny", "--device", "cpu"]
    done = subprocess.run([*command, "--rounds", "2", "--inputs", "1"], capture_output=True, text=True, check=True)

    figures = json.loads(done.stdout.splitlines()[-1])

    assert set(FIGURES) <= set(figures)
    assert figures["first_chunk_s"] > 0


def test_what_blocks_hdf5_ros_and_mujoco_does_not_block_the_bench():
    """A machine with a GPU has none of them."""
    script = (
        "import sys\n"
        "for name in ('h5py', 'rclpy', 'mujoco', 'rosbags', 'matplotlib'): sys.modules[name] = None\n"
        "import rdt_ros.bench.step, rdt_ros.bench.parity, rdt_ros.policy.rdt\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr == ""


def test_counts_below_one_are_refused():
    with pytest.raises(InputError, match="rounds, inputs: expected at least 1, found 0 and 20"):
        step.main(["--rounds", "0"])


def test_pictures_are_textured_all_different_and_of_a_cameras_size():
    pictures = [textured(seed) for seed in range(4)]

    assert len(set(pictures)) == 4
    assert all(100_000 < len(picture) < 160_000 for picture in pictures)
    assert jpeg.decode(pictures[0]).shape == (480, 640, 3)


def test_no_picture_comes_again_within_the_pool():
    observations = Scene(seed=3, pictures=12).observations()

    seen = [next(observations) for _ in range(8)]

    jpegs = [picture.jpeg for observation in seen for picture in observation.pictures]
    assert len(set(jpegs[:12])) == 12 and jpegs[12:] == jpegs[:12]
    assert len({observation.stamp_ns for observation in seen}) == 8
    assert not np.array_equal(seen[0].measured, seen[1].measured)


def test_what_comes_before_is_not_timed():
    calls: list[str] = []

    times = times_ms(lambda: calls.append("work"), CPU, 3, lambda: calls.append("before"))

    assert len(times) == 3 and (times >= 0).all()
    assert calls == ["before", "work"] * 4


def test_the_floor_of_rdt_1b_is_that_of_hand_counts():
    """1.9 GB of weights, 0.5 GB of keys and values a solver step; 0.66 TFLOP a picture; on an H100, 8 and 11 ms."""
    with torch.device("meta"):
        network = RdtNetwork(MODEL_SIZES["rdt-1b"]).bfloat16()
        vision = SiglipEncoder.random(SO400M)

    work = work_of(network, vision)
    floor = work.floor_ms(Rates(3.0e12, 788e12), 6)

    assert work.solver_bytes == pytest.approx(5 * (1.9e9 + 0.5e9), rel=0.03)
    assert work.picture_flop == pytest.approx(0.67e12, rel=0.05)
    assert floor == pytest.approx({"solver": 4.0, "conditions": 1.3, "vision": 5.3}, rel=0.1)


def test_the_floor_counts_new_pictures_only():
    assert Work(10, 20, 30).floor_ms(Rates(1e3, 1e3), 3) == {"solver": 10, "conditions": 20, "vision": 90}


def test_ways_are_timed_and_one_that_does_not_run_is_none(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(step_kernels, "ROUNDS", 1)
    monkeypatch.setattr(step_kernels, "COPIES", 2)
    config = MODEL_SIZES["tiny"]

    found = step_kernels.library_us(config, SiglipEncoder.random("tiny"), CPU, torch.float32)

    product = found["product 67x64 to 64"]
    assert set(product) == {"splits 1", "splits 2", "splits 4", "splits 8"}
    assert all(time > 0 for time in product.values())

    def fails() -> None:
        raise RuntimeError("no kernel\nand a long tale")

    assert step_kernels._or_none("attention", fails) is None
    assert capsys.readouterr().err == "not measured: attention: no kernel\n"


def test_tables_say_what_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = {"model": "rdt-1b", "device": "A", "step_all_new_ms_p50": 20.0, "peak_gb": None}
    run["parts_ms"] = {"decode of 6": 2.0, "vision of 6": 8.0, "vision of 3": 5.0}
    run["choices_ms"] = {
        "conditions and solver, as it is": 9.0,
        "conditions and solver, 2 splits": 9.5,
        "vision of 3 and 6, attention flash": [5.0, 8.0],
    }
    file = tmp_path / "figures.json"
    file.write_text("a line before\n" + json.dumps(run))

    assert step_table.main([str(file)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "| all six pictures new, p50 (ms) | 20 |" in lines
    assert "| peak memory (GB) | not measured |" in lines
    assert "| host, less what runs beside the decoding | 10 | 50% |" in lines
    assert "| 2 splits | 9.5 | 0.5 |" in lines
    assert not [line for line in lines if line.startswith("| vision of 3")]


def test_a_file_without_figures_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="expected what `rdt bench step` printed"):
        step_table.main([str(tmp_path / "absent.json")])
