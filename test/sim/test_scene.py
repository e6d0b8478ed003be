import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.sim.scene import CUBE_HALF_M, POSITION_HIGH_M, POSITION_LOW_M, CubeScene

seeds = st.integers(0, 2**32)


@given(seeds, st.floats(0, np.pi))
def test_the_cube_lies_on_the_table_within_its_region(seed, max_yaw):
    scene = CubeScene(seed, max_yaw)
    assert (scene.position[:2] >= POSITION_LOW_M).all() and (scene.position[:2] <= POSITION_HIGH_M).all()
    assert scene.position[2] == CUBE_HALF_M
    assert abs(scene.yaw) <= max_yaw


@given(seeds)
def test_equal_scenes_are_equal_and_a_turn_does_not_move_the_cube(seed):
    assert CubeScene(seed) == CubeScene(seed)
    np.testing.assert_array_equal(CubeScene(seed).position, CubeScene(seed, 0.7).position)
    assert CubeScene(seed).yaw == 0
    assert CubeScene(seed, 1.0).yaw == 2 * CubeScene(seed, 0.5).yaw


def test_a_scene_survives_its_dictionary():
    scene = CubeScene(7, 0.3)
    assert scene.yaw != 0  # also once its cached values exist
    assert CubeScene(**dataclasses.asdict(scene)) == scene


def test_seeds_fill_the_region():
    places = np.array([CubeScene(seed).position[:2] for seed in range(200)])
    np.testing.assert_allclose(places.min(0), POSITION_LOW_M, atol=0.01)
    np.testing.assert_allclose(places.max(0), POSITION_HIGH_M, atol=0.01)
