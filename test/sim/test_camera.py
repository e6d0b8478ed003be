import dataclasses

import cv2
import numpy as np
import pytest

from rdt_ros.robot.description import load_robot
from rdt_ros.sim.camera import CameraRenderer
from rdt_ros.sim.expert import plan
from rdt_ros.sim.robot import SimRobot
from rdt_ros.sim.scene import CubeScene

ROBOT = load_robot("sim_aloha")
CAMERAS = {camera.name: camera for camera in ROBOT.cameras}


@pytest.fixture(scope="module")
def episode():
    """Pictures {camera: rgb} at moments {name: ...} of a scripted hand-over."""
    moments = {"start": 0.1, "grasped": 3.2, "handing over": 6.6, "taken": 10.0}
    sim = SimRobot(ROBOT)
    renderer = CameraRenderer(sim.model)
    scene = CubeScene(0)
    sim.reset(scene)
    pictures = {}
    for k, row in enumerate(plan(scene, ROBOT.control_rate_hz)):
        sim.step(row, ROBOT.period_ns)
        for name, time_s in moments.items():
            if k == round(time_s * ROBOT.control_rate_hz):
                pictures[name] = {camera.name: renderer.render(sim.data, camera) for camera in ROBOT.cameras}
    yield pictures
    renderer.close()


def red_pixels(rgb):
    red, green, blue = np.moveaxis(rgb.astype(int), 2, 0)
    return int(((red > 120) & (green < 90) & (blue < 90)).sum())


@pytest.mark.parametrize(
    ("moment", "camera"),
    [
        ("start", "cam_high"),
        ("grasped", "cam_right_wrist"),
        ("handing over", "cam_left_wrist"),
        ("handing over", "cam_right_wrist"),
        ("taken", "cam_high"),
        ("taken", "cam_left_wrist"),
    ],
)
def test_the_cube_is_seen(episode, moment, camera):
    least = 300 if camera == "cam_high" else 3000
    assert red_pixels(episode[moment][camera]) > least


def test_the_fingers_are_seen_beside_the_cube(episode):
    """The grey of the fingers stands left and right of the held cube, which a far near-plane would clip away."""
    rgb = episode["taken"]["cam_left_wrist"].astype(int)
    rows, columns = np.nonzero((rgb[..., 0] > 120) & (rgb[..., 1] < 90))
    row = int(rows.max()) - 10
    spread = np.ptp(rgb[row], axis=1)
    left, right = columns.min(), columns.max()
    assert (spread[left - 40 : left - 5] < 12).all() and (spread[right + 5 : right + 40] < 12).all()


def test_wrist_cameras_see_the_same_arm_mirrored(episode):
    left, right = (episode["start"][f"cam_{arm}_wrist"] for arm in ("left", "right"))
    gripper = slice(400, 480)
    assert np.abs(left[gripper].astype(int) - right[gripper]).mean() < 12


def test_size_follows_the_robot_file_and_a_still_scene_gives_equal_pictures():
    sim = SimRobot(ROBOT)
    renderer = CameraRenderer(sim.model)
    small = dataclasses.replace(CAMERAS["cam_high"], width=320, height=240)
    picture = renderer.render(sim.data, small)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
    full = renderer.render(sim.data, CAMERAS["cam_high"])
    assert full.shape == (480, 640, 3)
    np.testing.assert_array_equal(renderer.render(sim.data, small), picture)
    assert np.abs(full[::2, ::2].astype(int) - picture).mean() < 3
    renderer.close()


def test_jpeg_decodes_to_true_colours(episode):
    rgb = episode["taken"]["cam_left_wrist"]
    picture = CameraRenderer.encode(CAMERAS["cam_left_wrist"], 40, rgb)
    assert (picture.camera, picture.stamp_ns) == ("cam_left_wrist", 40)
    decoded = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(decoded.astype(int) - rgb).mean() < 2
    assert red_pixels(decoded) == pytest.approx(red_pixels(rgb), rel=0.05)
