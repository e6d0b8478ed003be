"""Films of episodes and the sheet of many, read back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.errors import InputError
from rdt_ros.evaluation.contact_sheet import GREEN, HEADER_HEIGHT, RED, write_sheet
from rdt_ros.evaluation.film import FRAME_WIDTH, MOMENTS, film_name, shown, strip_of, write_film
from rdt_ros.evaluation.success import EpisodeResult
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
STEPS = 29


def result(seed: int, success: bool) -> EpisodeResult:
    return EpisodeResult(seed, "lift", "lift it", success, None, "touched", False, "", 1.2)


def observations(pictures: bool = True) -> list[Observation]:
    """The external camera brightens from step to step, the others are black."""
    found = []
    for step in range(STEPS):
        stamp_ns = (100 + step) * ROBOT.period_ns
        taken = []
        for camera in ROBOT.cameras if pictures else ():
            value = 8 * step if camera.role == "external" else 0
            taken.append(Picture(camera.name, stamp_ns, jpeg.encode(np.full((48, 64, 3), value, np.uint8))))
        found.append(Observation(stamp_ns, ROBOT.name, tuple(taken), ROBOT.joint_names, np.zeros(14, np.float32)))
    return found


def test_the_first_success_and_the_first_failures_are_shown():
    results = [result(seed, success) for seed, success in ((5, True), (4, False), (3, True), (2, False), (9, False))]
    assert [(r.seed, r.success) for r in shown(results, 2)] == [(3, True), (2, False), (4, False)]
    assert shown(results, 0) == []
    assert [r.seed for r in shown(results[1:2], 8)] == [4]


def test_a_film_shows_every_step_at_its_time(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / film_name(result(7, True))
    write_film(observations(), path, ROBOT, result(7, True))
    with av.open(str(path)) as container:
        frames = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(container.streams.video[0])]
        assert container.metadata["title"] == "lift it"
    assert path.name == "success_7.mp4" and len(frames) == STEPS
    np.testing.assert_allclose([time for time, _ in frames], np.arange(STEPS) * 0.04, atol=1e-3)
    for step, (_, pixels) in enumerate(frames):
        assert pixels[50:70, 20:40].mean() == pytest.approx(8 * step, abs=6) and pixels[50:70, 100:120].max() < 10


def test_a_strip_is_the_external_camera_at_even_moments():
    strip = strip_of(observations(), ROBOT, result(7, False))
    assert [round(seconds, 2) for seconds, _ in strip.moments] == [0.16 * k for k in range(MOMENTS)]
    for (_, pixels), step in zip(strip.moments, range(0, STEPS, 4), strict=True):
        assert pixels.shape == (180, FRAME_WIDTH, 3) and pixels.mean() == pytest.approx(8 * step, abs=2)


def test_the_sheet_has_a_row_an_episode_with_the_colour_of_its_outcome(tmp_path):
    strips = [strip_of(observations(), ROBOT, result(seed, success)) for seed, success in ((1, True), (2, False))]
    write_sheet(strips, tmp_path / "sheet.png")
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "sheet.png")), cv2.COLOR_BGR2RGB)
    height = sheet.shape[0] // 2
    assert height > 180 + HEADER_HEIGHT and sheet.shape[1] > MOMENTS * FRAME_WIDTH
    for row, colour in enumerate((GREEN, RED)):
        header = sheet[row * height : row * height + HEADER_HEIGHT]
        assert (header[2, -5] == colour).all() and (header > 250).all(axis=2).any()  # and there is text
        last = sheet[row * height + 100, (MOMENTS - 1) * (FRAME_WIDTH + 4) + 100]
        assert last == pytest.approx([8 * (STEPS - 1)] * 3, abs=3)


def test_without_pictures_or_a_place_to_write_it_is_one_line(tmp_path):
    with pytest.raises(InputError, match="expected pictures in every Observation"):
        write_film(observations(pictures=False), tmp_path / "a.mp4", ROBOT, result(1, True))
    with pytest.raises(InputError, match="expected pictures in every Observation"):
        strip_of([], ROBOT, result(1, True))
    strip = strip_of(observations(), ROBOT, result(1, True))
    with pytest.raises(InputError, match="could not be written"):
        write_sheet([strip], tmp_path / "nowhere" / "sheet.png")
