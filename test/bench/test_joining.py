from __future__ import annotations

import json

import numpy as np
import pytest

from rdt_ros.bench import executor, joining
from rdt_ros.bench.joining import MODES, REFERENCE, Case, Figures, Oracle, Plan, Run
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot

ROBOT = load_robot("sim_aloha")
ARMS = ~ROBOT.is_gripper
DOMAIN = "63"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(ROBOT, seed=0, rate_hz=200, seconds=6.0)


def run(plan: Plan, mode: str, latency_ms: int, **changes: float) -> Run:
    found = joining.run(ROBOT, plan, Case(mode, latency_ms, **changes), seed=1)
    assert found is not None
    return found


def test_the_plan_between_its_rows(plan):
    assert plan.last_row == 150 and plan.positions.shape == (1201, 14)
    assert plan.at(np.array([-3.0, 10.0, 200.0])) == pytest.approx(plan.positions[[0, 80, 1200]])
    assert plan.at(10 + 1 / 16) == pytest.approx((plan.positions[80] + plan.positions[81]) / 2)


def test_neighbouring_chunks_disagree_in_arm_joints_alone(plan):
    oracle = Oracle(ROBOT, plan, Case("switch", 0), seed=3)
    chunks = [oracle.rows(20) for _ in range(50)]
    assert chunks[0] - plan.at(20 + 1 + np.arange(64)) == pytest.approx(
        np.tile(oracle.start - plan.positions[0], (64, 1))
    )
    apart = np.abs(np.diff(chunks, axis=0))
    assert not apart[:, :, ROBOT.is_gripper].any()
    assert {0.0, 0.05} == set(apart[:, :, ARMS].round(9).ravel())


@pytest.mark.parametrize("mode", [REFERENCE, *MODES])
def test_without_disagreement_and_latency_every_mode_follows_the_plan(plan, mode):
    found = joining.measure(run(plan, mode, 0, disagreement_rad=0.0), plan, ROBOT)
    assert found.standstill_ms == 0
    assert found.late_ms == 0
    assert found.seam_rad < 2e-3
    assert found.control_rate_jerk_ratio == pytest.approx(1, abs=0.05)
    assert found.rms_error_rad < 5e-3  # what holding a command costs the blocking loop
    # a command that holds for a control period is half of one late
    assert found.lag_ms == pytest.approx(20 if mode == REFERENCE else 0, abs=5)


@pytest.mark.parametrize("latency_ms", [100, 300, 600])
def test_the_blocking_loop_stands_for_the_latency_at_every_edge(plan, latency_ms):
    blocking = run(plan, REFERENCE, latency_ms)
    found = joining.measure(blocking, plan, ROBOT)
    assert len(blocking.edges) == 3
    assert found.standstill_ms == pytest.approx(2 * latency_ms)
    assert found.late_ms == pytest.approx(2 * latency_ms)
    assert found.seam_rad == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("latency_ms", [0, 300, 600])
def test_the_executor_never_waits(plan, mode, latency_ms):
    one = run(plan, mode, latency_ms)
    found = joining.measure(one, plan, ROBOT)
    assert found.standstill_ms == 0
    assert len(one.edges) >= 4
    assert (np.diff(one.rows) >= 0).all() and one.rows[-1] >= plan.last_row
    assert found.max_acceleration_rad_s2 <= ROBOT.limits("acceleration").max() * (1 + 1e-6)
    assert found.rms_error_rad < 0.1


def test_crossfade_is_smoother_than_switch_and_not_later(plan):
    switch, crossfade = (joining.measure(run(plan, mode, 300), plan, ROBOT) for mode in ("switch", "crossfade"))
    assert crossfade.seam_rad < switch.seam_rad / 2
    assert crossfade.rms_jerk_ratio < switch.rms_jerk_ratio / 2
    assert crossfade.lag_ms <= switch.lag_ms
    assert crossfade.rms_error_unshifted_rad <= switch.rms_error_unshifted_rad


def test_figures_of_a_run_that_is_known(plan):
    standing = np.repeat(plan.positions[[400]], 40, axis=0)  # 200 ms in the middle of a motion
    late = Run(
        np.concatenate([plan.positions[:400], standing, plan.positions[400:]]),
        np.concatenate([np.arange(400), np.full(40, 400.0), np.arange(400, 1201)]) / 8,
        1,
        (),
    )
    found = joining.measure(late, plan, ROBOT)
    assert found.standstill_ms == pytest.approx(200)
    assert found.late_ms == pytest.approx(200)
    assert 0 < found.lag_ms <= 200
    assert 0 < found.rms_error_rad < found.rms_error_unshifted_rad
    assert found.rms_acceleration_ratio > 1
    shifted = Run(np.concatenate([np.repeat(plan.positions[:1], 20, axis=0), plan.positions]), late.rows[:1221], 1, ())
    found = joining.measure(shifted, plan, ROBOT)
    assert found.lag_ms == pytest.approx(100) and found.rms_error_rad == pytest.approx(0, abs=1e-12)
    assert found.rms_jerk_ratio == pytest.approx(1, abs=0.01)


def test_a_summary_keeps_the_worst_of_what_is_a_maximum():
    low, high = (Figures(*([value] * 11)) for value in (1.0, 3.0))
    merged = joining.summary([low, high])
    assert (merged.max_step_rad, merged.seam_rad, merged.standstill_ms) == (3.0, 3.0, 2.0)


def test_the_last_line_holds_the_figures(capsys, tmp_path):
    assert executor.main(["--part", "joining", "--quick", "--pictures", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert figures["rate_hz"] == 200 and figures["period_error_us_p99"] is None
    cases = {(case["mode"], case["latency_ms"]): case for case in figures["joining"]}
    assert set(cases) == {(m, ms) for m in (REFERENCE, *MODES, "realtime_chunking") for ms in (0, 300)}
    assert cases[REFERENCE, 300]["standstill_ms"] == 300
    assert cases["crossfade", 300]["standstill_ms"] == 0
    assert cases["realtime_chunking", 300]["rms_jerk_ratio"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joining_0ms.png", "joining_300ms.png"]


@pytest.mark.ros
@pytest.mark.slow
def test_the_period_is_measured_beside_the_cameras_and_on_busy_cores(capsys):
    pytest.importorskip("rclpy")
    assert executor.main(["--part", "period", "--quick", "--domain", DOMAIN]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for load in ("", "loaded_"):
        for whose in ("", "bare_"):
            p50, p99, worst = (figures[f"{load}{whose}period_error_us_{part}"] for part in ("p50", "p99", "max"))
            assert 0 <= p50 <= p99 <= worst
    assert figures["joining"] is None


@pytest.mark.parametrize(
    "options",
    [["--rate", "210"], ["--rate", "600"], ["--seeds", "0"], ["--pictures", "/no/folder"], ["--robot", "agilx"]],
)
def test_a_wrong_option_is_refused(options):
    with pytest.raises(InputError):
        executor.main(options)
