"""Episodes from one layout into another and back; the reference's own loader reads what is made for it."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from rdt_ros import jpeg
from rdt_ros.episodes import instructions
from rdt_ros.episodes.convert import ConvertConfig, Source, convert, find_sources
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot
from rdt_ros.robot.vector import SLOTS

STEPS = 130
RED, BLUE = (210, 20, 30), (20, 30, 200)
SLOTS_OF_14 = [SLOTS[f"left_arm_joint_{i}_pos"] for i in range(6)] + [60] + list(range(6)) + [10]


def picture(step: int, camera: int) -> bytes:
    """Red on the left, blue on the right; a bar of another brightness tells step and camera."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = RED, BLUE
    pixels[:8] = 60 + 40 * camera + step % 32
    return jpeg.encode(pixels)


@pytest.fixture
def source(maker, tmp_path):
    """Writes an episode of the simulated robot and returns it."""

    def make(steps: int = STEPS, **kwargs) -> Source:
        observations = [
            dataclasses.replace(
                o, pictures=tuple(dataclasses.replace(p, jpeg=picture(i, k)) for k, p in enumerate(o.pictures))
            )
            for i, o in enumerate(maker.observations(steps + 2, **kwargs))
        ]
        path = tmp_path / "in" / "episode_0000.hdf5"
        path.parent.mkdir(exist_ok=True)
        maker.write(path, observations)
        return Source(path, Path("episode_0000"))

    return make


def contents(path: Path, robot: str = "", **kwargs):
    with EpisodeReader(path, load_robot(robot) if robot else None, **kwargs) as episode:
        return episode.content, list(episode.observations()), episode.instructions


def assert_true_colours(jpeg_bytes: bytes):
    pixels = jpeg.decode(jpeg_bytes)
    assert np.abs(pixels[20:, 8:24].mean((0, 1)) - RED).max() < 8
    assert np.abs(pixels[20:, 40:56].mean((0, 1)) - BLUE).max() < 8


def reference(folder: Path, workplace: Path, monkeypatch):
    """The loader class of the reference, on this folder; it wants to be started where its own files are."""
    package = importlib.util.find_spec("dora_rdt_1b")
    if package is None:
        pytest.skip("dora-rdt-1b is not installed")
    root = Path(package.origin).parent / "RoboticsDiffusionTransformer"
    (workplace / "data/datasets/agilex").mkdir(parents=True)
    (workplace / "data/datasets/agilex/rdt_data").symlink_to(folder)
    (workplace / "configs").symlink_to(root / "configs")
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(root))
    spec = importlib.util.spec_from_file_location("reference_loader", root / "data" / "hdf5_vla_dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HDF5VLADataset()


@pytest.mark.parametrize("kind", ["rdt_ros", "aloha"])
def test_the_reference_reads_what_is_made_for_it(source, tmp_path, monkeypatch, kind):
    given = source()
    texts = Instructions("fold the towel", ("fold",), ("fold it once", "fold it neatly"))
    instructions.save(instructions.path_for(given.path), texts)
    if kind == "aloha":  # from a file of another layout, with swapped colours
        result = convert(given, tmp_path / "aloha", ConvertConfig("aloha", pictures="padded"))
        given = Source(result.path, Path("episode_0000"))
    result = convert(given, tmp_path / "out", ConvertConfig("rdt-reference"))
    assert result.steps == STEPS and "encoded again" in " ".join(result.notes)
    with EpisodeReader(given.path) as episode:
        measured, action = episode.content.vectors["measured"], episode.actions
    loader = reference(tmp_path / "out", tmp_path / "workplace", monkeypatch)
    assert len(loader) == 1 and loader.episode_sample_weights.tolist() == [1.0]
    whole = loader.get_item(0, state_only=True)
    first = STEPS - len(whole["state"])  # it leaves out the still start
    np.testing.assert_allclose(whole["state"][:, SLOTS_OF_14], measured[first:], atol=2e-6)
    np.testing.assert_allclose(whole["action"][:, SLOTS_OF_14], action[first:], atol=2e-6)
    rest = np.setdiff1d(np.arange(128), SLOTS_OF_14)
    assert not whole["state"][:, rest].any() and not whole["action"][:, rest].any()
    heard = set()
    for _ in range(30):
        sample = loader.get_item(0)
        step = sample["meta"]["step_id"]
        heard.add(sample["meta"]["instruction"])
        np.testing.assert_allclose(sample["state"][0, SLOTS_OF_14], measured[step], atol=2e-6)
        due = np.minimum(np.arange(step, step + 64), STEPS - 1)
        np.testing.assert_allclose(sample["actions"][:, SLOTS_OF_14], action[due], atol=2e-6)
        assert np.flatnonzero(sample["state_indicator"]).tolist() == sorted(SLOTS_OF_14)
        np.testing.assert_allclose(sample["state_mean"][SLOTS_OF_14], measured.mean(0), atol=1e-5)
        for k, camera in enumerate(("cam_high", "cam_left_wrist", "cam_right_wrist")):
            assert sample[f"{camera}_mask"].tolist() == [step > first, True]
            for age, frame in ((1, sample[camera][0]), (0, sample[camera][1])):
                # what it hands to its network, which takes the channels for red, green, blue
                assert np.abs(frame[20:, 8:24].mean((0, 1)) - RED).max() < 10
                assert np.abs(frame[20:, 40:56].mean((0, 1)) - BLUE).max() < 10
                assert frame[:6].mean() == pytest.approx(60 + 40 * k + max(0, step - age) % 32, abs=1)
    assert heard <= {"fold the towel", "fold", "fold it once", "fold it neatly"} and len(heard) > 1


@pytest.mark.parametrize(
    ("to", "pictures"),
    [("aloha", "raw"), ("aloha", "padded"), ("rdt-reference", "raw"), ("agilex", "raw"), ("rdt_ros", "raw")],
)
def test_there_and_back(source, tmp_path, to, pictures):
    given = source(STEPS if to == "rdt-reference" else 8, leader=True, command=False, skew_ns=20_000_000)
    instructions.save(instructions.path_for(given.path), Instructions("stack", ("s",), ("x", "y")))
    there = convert(given, tmp_path / "there", ConvertConfig(to, pictures=pictures))
    (found,) = find_sources([tmp_path / "there"])
    back = convert(found, tmp_path / "back", ConvertConfig("rdt_ros"))
    original, observations, _ = contents(given.path)
    again, observations_again, texts = contents(back.path)
    # in AgileX's layout the leader is that of the same row, so the first row has none
    start = 1 if to == "agilex" else 0
    expected = original.rows(start, len(original.ticks))
    assert there.steps == back.steps == len(again.ticks) == len(expected.ticks)
    np.testing.assert_allclose(again.action, original.action[: len(again.ticks)], atol=2e-6)
    np.testing.assert_allclose(again.vectors["measured"], expected.vectors["measured"], atol=2e-6)
    np.testing.assert_allclose(again.vectors["velocity"], expected.vectors["velocity"], atol=2e-6)
    assert (again.ticks == expected.ticks).all()
    for before, after in zip(observations[start:], observations_again, strict=True):
        for a, b in zip(before.pictures, after.pictures, strict=True):
            assert a.stamp_ns == b.stamp_ns
            assert_true_colours(b.jpeg)
            assert a.jpeg == b.jpeg or to in ("aloha", "rdt-reference")
    assert texts == Instructions("stack", ("s",), ("x", "y"))


def test_velocity_effort_and_base_are_absent_where_the_robot_gave_none(maker, tmp_path):
    observations = [dataclasses.replace(o, velocity=None) for o in maker.observations(6)]
    maker.write(tmp_path / "e.hdf5", observations)
    for to in ("aloha", "agilex"):
        convert(Source(tmp_path / "e.hdf5", Path("e")), tmp_path / to, ConvertConfig(to))
    with h5py.File(tmp_path / "aloha" / "e.hdf5") as file:
        assert set(file["observations"]) == {"qpos", "images"} and "base_action" not in file
        assert not file.attrs["compress"] and file["observations/images/cam_high"].shape == (4, 24, 32, 3)
    with h5py.File(tmp_path / "agilex" / "e" / "data.hdf5") as file:
        assert set(file["arm"]) == {"jointStatePosition"} and "robotBase" not in file
        assert file["instructions/full_instructions/text"][0].decode() == "stapel die Würfel"


def test_a_padded_file_is_what_mobile_aloha_compresses(source, tmp_path):
    convert(source(6), tmp_path, ConvertConfig("aloha", pictures="padded"))
    with h5py.File(tmp_path / "episode_0000.hdf5") as file:
        images, lengths = file["observations/images/cam_left_wrist"], file["compress_len"][()]
        assert file.attrs["compress"] and images.ndim == 2 and lengths.shape == (3, 6)
        # its reader takes what OpenCV decodes for red, green, blue
        pixels = cv2.imdecode(images[2], cv2.IMREAD_COLOR)
        assert np.abs(pixels[20:, 8:24].mean((0, 1)) - RED).max() < 10
        assert not images[2][int(lengths[1, 2]) :].any() and images[2][int(lengths[1, 2]) - 1] == 0xD9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o[:100], "steps: expected at least 128, the reference drops shorter episodes, found 98"),
        (lambda o: [dataclasses.replace(x, measured=o[0].measured) for x in o], "expected one to move by over 0.01"),
    ],
)
def test_what_the_reference_fails_on_is_refused(maker, tmp_path, change, message):
    maker.write(tmp_path / "e.hdf5", change(maker.observations(132)))
    with pytest.raises(InputError, match=f"e.hdf5: .*{message}"):
        convert(Source(tmp_path / "e.hdf5", Path("e")), tmp_path / "out", ConvertConfig("rdt-reference"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_reference_needs_three_cameras(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", [dataclasses.replace(o, pictures=o.pictures[:2]) for o in maker.observations(132)])
    with pytest.raises(InputError, match="e.hdf5: .*pictures of a camera with role right_wrist, found none"):
        convert(Source(tmp_path / "e.hdf5", Path("e")), tmp_path / "out", ConvertConfig("rdt-reference"))


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(source, tmp_path):
    given = source(6)
    convert(given, tmp_path / "out", ConvertConfig("rdt_ros"))
    before = (tmp_path / "out" / "episode_0000.hdf5").read_bytes()
    with pytest.raises(InputError, match="episode_0000.hdf5: exists already, nothing is overwritten"):
        convert(given, tmp_path / "out", ConvertConfig("rdt_ros"))
    assert (tmp_path / "out" / "episode_0000.hdf5").read_bytes() == before
    with h5py.File(given.path, "r+") as file:
        address = file["observations/images/cam_high"].id.get_chunk_info(3)
    data = bytearray(given.path.read_bytes())
    data[address.byte_offset : address.byte_offset + 40] = bytes(40)
    given.path.write_bytes(data)
    for to in ("aloha", "agilex", "rosbag2"):
        expected = r"episode_0000.hdf5: /observations/images/cam_high\[3\]: "
        with pytest.raises(InputError, match=expected) as error:
            convert(given, tmp_path / to, ConvertConfig(to))
        assert "\n" not in str(error.value) and list((tmp_path / to).iterdir()) == []


def test_pictures_of_two_sizes_do_not_fit_into_an_array(maker, tmp_path):
    observations = maker.observations(6)
    other = tuple(dataclasses.replace(p, jpeg=maker.jpeg(height=16)) for p in observations[2].pictures)
    observations[2] = dataclasses.replace(observations[2], pictures=other)
    maker.write(tmp_path / "e.hdf5", observations)
    with pytest.raises(InputError, match=r"e.hdf5: cam_high: expected pictures of \(24, 32, 3\), found .* at step 2"):
        convert(Source(tmp_path / "e.hdf5", Path("e")), tmp_path / "out", ConvertConfig("aloha"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: could not be made: "):
        convert(Source(tmp_path / "e.hdf5", Path("e")), tmp_path / "file", ConvertConfig("aloha"))


def test_sources_are_found_and_named(tmp_path):
    for name in ("a/episode_0000.hdf5", "a/b/episode_0000.hdf5", "a/episode3/data.hdf5", "a/x.mcap", "a/bag/bag_0.db3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/bag/metadata.yaml").touch()
    found = {str(s.path.relative_to(tmp_path)): (str(s.name), s.is_bag) for s in find_sources([tmp_path / "a"])}
    assert found == {
        "a/episode_0000.hdf5": ("episode_0000", False),
        "a/b/episode_0000.hdf5": ("b/episode_0000", False),
        "a/episode3/data.hdf5": ("episode3", False),
        "a/x.mcap": ("x", True),
        "a/bag": ("bag", True),
    }
    assert [str(s.name) for s in find_sources([tmp_path / "a/bag"])] == ["bag"]
    assert [str(s.name) for s in find_sources([tmp_path / "a/episode3/data.hdf5"])] == ["episode3"]
    with pytest.raises(InputError, match="both would become episode_0000"):
        find_sources([tmp_path / "a/episode_0000.hdf5", tmp_path / "a/b/episode_0000.hdf5"])
    with pytest.raises(InputError, match="no such file or folder"):
        find_sources([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: expected episodes"):
        find_sources([tmp_path / "empty"])
