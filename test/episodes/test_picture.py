"""The picture of an episode shows what the episode holds, and nothing else."""

from __future__ import annotations

import dataclasses

import cv2
import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure

from rdt_ros import jpeg
from rdt_ros.episodes.picture import SMALLEST_SPAN, draw_episode
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.types import Picture


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved: rendering them takes seconds."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_args, **_kwargs: figures.append(figure))
    return figures


def draw(path, robot=None):
    with EpisodeReader(path, robot) as episode:
        draw_episode(episode, path.with_suffix(".png"))


def labels(figure) -> list[str]:
    """What stands beside strips and panels."""
    return [axis.get_ylabel().split("\n")[0] for axis in figure.axes if axis.axison]


def test_what_the_cameras_saw_and_what_is_lost_can_be_seen(maker, tmp_path):
    red = jpeg.encode(np.full((48, 64, 3), (250, 0, 0), np.uint8))
    observations = [
        dataclasses.replace(o, pictures=tuple(Picture(p.camera, p.stamp_ns, red) for p in o.pictures))
        for o in maker.observations(60)
    ]
    maker.write(tmp_path / "e.hdf5", observations[:20] + observations[40:])

    draw(tmp_path / "e.hdf5")

    pixels = cv2.cvtColor(cv2.imread(str(tmp_path / "e.png")), cv2.COLOR_BGR2RGB).astype(int)
    assert min(pixels.shape[:2]) > 1000
    share = {
        name: (np.abs(pixels - colour) < 12).all(axis=2).mean()
        for name, colour in {"strips": (250, 0, 0), "gap": (245, 201, 201)}.items()
    }
    assert share["strips"] > 0.15 and share["gap"] > 0.05


def test_cameras_joints_base_skew_and_rate_have_their_places(maker, tmp_path, drawn):
    still = np.zeros(3, np.float32)
    observations = [dataclasses.replace(o, base=still) for o in maker.observations(30, skew_ns=10_000_000)]
    maker.write(tmp_path / "e.hdf5", observations)

    draw(tmp_path / "e.hdf5")

    left, right = maker.robot.joint_names[:7], maker.robot.joint_names[7:]
    assert labels(drawn[0]) == [
        "cam_high", "cam_left_wrist", "cam_right_wrist",
        *(name for pair in zip(left, right, strict=True) for name in pair),
        "base", "skew", "rate",
    ]  # fmt: skip
    panels = {axis.get_ylabel().split("\n")[0]: axis for axis in drawn[0].axes}
    assert not any(axis.patches for axis in panels.values())  # nothing is lost
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        commanded, measured = (line.get_ydata() for line in panels["right_elbow"].lines)
        column = maker.robot.joint_names.index("right_elbow")
        assert np.array_equal(commanded, episode.actions[:, column])
        assert np.array_equal(measured, episode.content.vectors["measured"][:, column])
        stamps = episode.content.stamps["camera/cam_left_wrist"]
        assert np.array_equal(panels["skew"].lines[1].get_ydata(), (stamps - episode.ticks) / 1e6)
        assert set(panels["rate"].lines[0].get_ydata()) == {25.0}


def test_what_a_file_has_not_has_no_panel(maker, tmp_path, drawn):
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file["/observations/qpos"] = file["/action"] = np.full((20, 14), 0.03)
    draw(tmp_path / "old.hdf5", maker.robot)
    assert sorted(labels(drawn[0])) == sorted(maker.robot.joint_names)
    # a joint that stands looks like one
    assert all(np.ptp(axis.get_ylim()) == pytest.approx(SMALLEST_SPAN) for axis in drawn[0].axes if axis.axison)


def test_one_step_is_enough(maker, tmp_path, drawn):
    maker.write(tmp_path / "e.hdf5", maker.observations(3))
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        assert len(episode) == 1
    draw(tmp_path / "e.hdf5")
    assert "skew" in labels(drawn[0]) and "rate" not in labels(drawn[0])
