import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.sim.disturbance import PAUSE_S, RAMP_S, SIGMAS_RAD, TIME_CONSTANT_S, Disturbance

RATE_HZ = 25.0
PERIOD_S = 1 / RATE_HZ
seeds = st.integers(0, 2**32)


@given(seeds, st.floats(1.0, 20.0))
def test_plan_time_never_runs_back_nor_ahead_and_reaches_the_end(seed, plan_s):
    disturbance = Disturbance.draw(np.random.default_rng(seed), plan_s)
    times = disturbance.plan_times(plan_s, RATE_HZ)
    steps = np.diff(times)
    assert times[0] == 0 and times[-1] == pytest.approx(plan_s)
    assert (steps >= 0).all() and (steps <= PERIOD_S + 1e-9).all()
    stood_s = (len(times) - 1) * PERIOD_S - plan_s
    expected_s = sum(stands_s + RAMP_S for _, stands_s in disturbance.pauses)
    for begins_s, _ in disturbance.pauses[-1:]:  # ramps at the end have less plan time left than they would take
        expected_s += max(0.0, begins_s + RAMP_S - plan_s)
    assert stood_s == pytest.approx(expected_s, abs=2 * PERIOD_S * (1 + len(disturbance.pauses)))


def test_a_pause_stands_where_it_was_drawn_and_comes_to_rest_slowly():
    times = Disturbance(pauses=((2.0, 0.6),)).plan_times(5.0, RATE_HZ)
    pace = np.diff(times) * RATE_HZ
    still = np.flatnonzero(pace < 1e-9)
    assert len(still) * PERIOD_S == pytest.approx(0.6, abs=2 * PERIOD_S)
    assert 2.0 < times[still[0]] < 2.0 + RAMP_S
    assert np.abs(np.diff(pace)).max() < 1.5 * PERIOD_S / RAMP_S
    np.testing.assert_allclose(Disturbance().plan_times(5.0, RATE_HZ), np.arange(126) / RATE_HZ)


def test_draws_have_every_strength_and_a_third_has_pauses():
    drawn = [Disturbance.draw(np.random.default_rng(seed), 10.0) for seed in range(600)]
    strengths = np.array([d.sigma_rad for d in drawn])
    assert all(0.27 < (strengths == sigma_rad).mean() < 0.4 for sigma_rad in SIGMAS_RAD)
    assert 0.27 < np.mean([bool(d.pauses) for d in drawn]) < 0.4
    assert {d.sigma_rad for d in drawn if d.pauses} == set(SIGMAS_RAD)
    stands_s = [stands_s for d in drawn for _, stands_s in d.pauses]
    assert min(stands_s) >= PAUSE_S[0] and max(stands_s) <= PAUSE_S[1]


def test_noise_has_its_strength_and_its_memory_and_spares_the_grippers():
    moved = np.array([True, False, True])
    noise = Disturbance(0.02).noise(np.random.default_rng(0), 200_000, RATE_HZ, moved)
    assert (noise[:, 1] == 0).all() and (noise[0] == 0).all()
    np.testing.assert_allclose(noise[:, moved].std(axis=0), 0.02, rtol=0.05)
    lag = round(TIME_CONSTANT_S * RATE_HZ)
    correlation = np.corrcoef(noise[:-lag, 0], noise[lag:, 0])[0, 1]
    assert correlation == pytest.approx(np.exp(-1), abs=0.03)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 2])[0, 1]) < 0.05
    assert (Disturbance().noise(np.random.default_rng(0), 100, RATE_HZ, moved) == 0).all()
