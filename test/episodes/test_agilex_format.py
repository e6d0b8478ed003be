"""AgileX's newer episodes: pictures beside the file or in it, units, and what is refused."""

from __future__ import annotations

import cv2
import h5py
import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot

ROBOT = load_robot("agilex_piper")
STEPS = 4
RGB = np.full((24, 32, 3), (200, 90, 30), np.uint8)
SIDES = ("Left", "Right")


@pytest.fixture
def write(tmp_path):
    """Makes an episode as the vendor's converter does, with some data sets changed; None removes one."""

    def make(pictures="jpg", **change):
        folder = tmp_path / "episode0"
        data = {"timestamp": 1_760_000_000 + 0.05 * np.arange(STEPS), "size": STEPS}
        for i, side in enumerate(SIDES):
            for j, role in enumerate(("puppet", "master")):
                values = np.full((STEPS, 7), 0.1 * (i + 1))
                values[:, 6] = 0.02 * (j + 1)
                values[:, 0] = np.arange(STEPS)
                data[f"arm/jointStatePosition/{role}{side}"] = values
            data[f"arm/jointStateVelocity/puppet{side}"] = np.full((STEPS, 7), 0.04)
        data["instructions/full_instructions/text"] = [b"null"]
        for camera in ("front", "left", "right"):
            (folder / "camera/color" / camera).mkdir(parents=True)
            names = [f"camera/color/{camera}/{1_760_000_000 + 0.05 * i + 0.001:.6f}.{pictures}" for i in range(STEPS)]
            if pictures == "array":
                data[f"camera/color/{camera}"] = np.tile(RGB[..., ::-1], (STEPS, 1, 1, 1))
                continue
            for name in names:
                cv2.imwrite(str(folder / name), RGB[..., ::-1])
            data[f"camera/color/{camera}"] = np.array(names, "S")
        with h5py.File(folder / "data.hdf5", "w") as file:
            for path, value in {**data, **change}.items():
                if value is not None:
                    file[path] = value
        return folder / "data.hdf5"

    return make


@pytest.mark.parametrize("pictures", ["jpg", "png", "array"])
def test_pictures_come_in_true_colours(write, pictures):
    path = write(pictures)
    with EpisodeReader(path, ROBOT) as episode:
        observation = episode.observation(1)
        assert [p.camera for p in observation.pictures] == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
        assert all(np.abs(jpeg.decode(p.jpeg).astype(int) - RGB).max() < 6 for p in observation.pictures)
        if pictures == "jpg":
            assert (
                observation.pictures[0].jpeg == next((path.parent / "camera/color/front").glob("*.051*")).read_bytes()
            )
        # the name of a picture's file is its stamp
        late_ns = 0 if pictures == "array" else 1_000_000
        assert observation.pictures[0].stamp_ns - observation.stamp_ns == pytest.approx(late_ns, abs=1000)


def test_joints_and_actions_come_in_the_projects_units(write):
    with EpisodeReader(write(), ROBOT) as episode:
        assert len(episode) == STEPS
        observation = episode.observation(2)
        assert observation.measured[[0, 6, 7, 13]] == pytest.approx([2, 0.25, 2, 0.25])
        assert observation.velocity[[0, 6]] == pytest.approx([0.04, 0.5])
        assert observation.leader[6] == episode.actions[2, 6] == pytest.approx(0.5)
        assert np.diff(episode.ticks) == pytest.approx([50_000_000] * 3, abs=1000)


def test_the_action_of_a_robot_with_an_offset_is_that_of_a_later_row(write):
    with EpisodeReader(write(), load_robot("agilex")) as episode:
        assert len(episode) == STEPS - 1
        assert episode.actions[:, 0].tolist() == [1, 2, 3]
        assert episode.content.vectors["measured"][:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Instructions()),
        ({"instructions/full_instructions/text": [b"fold", b"fold it"]}, Instructions("fold", (), ("fold it",))),
        ({"instructions/full_instructions/text": None, "instruction": "fold"}, Instructions("fold")),
        ({"instructions/full_instructions/text": None, "instruction": "../instructions.npy"}, Instructions()),
    ],
)
def test_instructions(write, change, expected):
    with EpisodeReader(write(**change), ROBOT) as episode:
        assert episode.instructions == expected


ONE = "arm/jointStatePosition/puppetLeft"
FRONT = "camera/color/front"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({ONE: None}, f"missing {ONE}"),
        ({ONE: np.zeros((STEPS, 6))}, rf"{ONE}: expected shape \(N, 7\), found \(4, 6\)"),
        (
            {ONE: np.full((STEPS, 7), np.inf)},
            r"expected a finite position of left_joint1, found inf at step 0",
        ),
        ({f"{ONE[:-4]}Right": np.zeros((2, 7))}, rf"{ONE[:-4]}Right: expected shape \(4, 7\)"),
        ({"timestamp": np.zeros(3)}, r"timestamp: expected shape \(4,\), found \(3,\)"),
        ({"timestamp": np.full(STEPS, np.nan)}, "timestamp: expected seconds"),
        ({"timestamp": None}, "missing timestamp"),
        ({FRONT: np.zeros((STEPS, 9))}, f"{FRONT}: expected paths or"),
        ({FRONT: np.array([b"x.jpg"] * 3)}, f"{FRONT}: expected 4 pictures"),
        ({FRONT: np.array([b"none.jpg"] * STEPS)}, rf"{FRONT}\[1\]: none.jpg: No such file"),
        (
            {FRONT: np.array([b"../../secret.jpg"] * STEPS)},
            rf"{FRONT}\[1\]: expected a picture below the",
        ),
        ({FRONT: np.array([b"data.hdf5"] * STEPS)}, rf"{FRONT}\[1\]: data.hdf5: expected a JPEG or PNG picture"),
    ],
)
def test_a_wrong_file_is_refused_with_the_data_set(write, change, message):
    path = write(**change)
    with pytest.raises(InputError, match=f"data.hdf5: .*{message}") as error, EpisodeReader(path, ROBOT) as episode:
        episode.observation(1)
    assert "\n" not in str(error.value)
