"""An interrupted recording becomes an episode of its durable steps."""

from __future__ import annotations

import shutil

import h5py
import pytest

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.repair import repair
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.errors import InputError


@pytest.fixture
def interrupted(maker, tmp_path):
    """A recording of six durable steps as a kill leaves it, and its Observations."""
    observations = maker.observations(8, skew_ns=30_000_000)
    (tmp_path / "live").mkdir()
    writer = maker.write(tmp_path / "live" / "e.hdf5", observations, finish=False)
    shutil.copy(writer.unfinished, tmp_path)
    writer.discard()
    return tmp_path / "e.hdf5.partial", observations


def test_every_durable_step_is_kept(interrupted, same):
    unfinished, observations = interrupted
    path = repair(unfinished)
    assert path == unfinished.with_suffix("") and not unfinished.exists()
    with EpisodeReader(path) as episode:
        assert episode.complete and len(episode) == 6
        assert all(same(a, b) for a, b in zip(observations, episode.observations(), strict=False))
        assert (episode.instruction, episode.content.action_source) == ("stapel die Würfel", "command")
    with h5py.File(path) as file:
        assert file.attrs["repaired"] and file.attrs["complete"] and file.attrs["steps"] == 6


def test_steps_after_a_damaged_picture_are_left_out(interrupted):
    unfinished, _ = interrupted
    with h5py.File(unfinished, "r", swmr=True, locking=False) as file:
        at = file["/observations/images/cam_left_wrist"].id.get_chunk_info(4).byte_offset
    with unfinished.open("r+b") as raw:
        raw.seek(at + 50)
        raw.write(bytes(20))
    with EpisodeReader(repair(unfinished)) as episode:
        assert len(episode) == 4


def test_a_repair_without_room_leaves_the_recording_and_nothing_else(interrupted, monkeypatch):
    def full(_writer, _step) -> None:
        raise InputError("could not write: No space left on device")

    unfinished, _ = interrupted
    monkeypatch.setattr(EpisodeWriter, "add", full)
    with pytest.raises(InputError, match="No space left"):
        repair(unfinished)
    assert sorted(p.name for p in unfinished.parent.iterdir()) == ["e.hdf5.partial", "live"]
    monkeypatch.undo()
    assert repair(unfinished).exists()


def test_a_file_that_is_being_written_is_left_alone(maker, tmp_path):
    writer = maker.write(tmp_path / "e.hdf5", maker.observations(4), finish=False)
    with pytest.raises(InputError, match=r"e.hdf5.partial: a recorder is writing it"):
        repair(writer.unfinished)
    assert writer.finish() == tmp_path / "e.hdf5"


def test_an_episode_that_exists_is_not_replaced(interrupted):
    unfinished, _ = interrupted
    unfinished.with_suffix("").write_bytes(b"kept")
    with pytest.raises(InputError, match=r"e.hdf5: exists already"):
        repair(unfinished)
    assert unfinished.exists() and unfinished.with_suffix("").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "interrupted before its first step"), (b"\x89HDF\r\n\x1a\n and no more", "no readable HDF5 episode")],
)
def test_a_file_without_steps_is_refused(tmp_path, content, message):
    unfinished = tmp_path / "e.hdf5.partial"
    unfinished.write_bytes(content)
    with pytest.raises(InputError, match=message):
        repair(unfinished)
    assert [path.name for path in tmp_path.iterdir()] == ["e.hdf5.partial"]


def test_only_interrupted_recordings_are_repaired(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", maker.observations(4))
    with pytest.raises(InputError, match=r"expected an interrupted recording, named \*.partial"):
        repair(tmp_path / "e.hdf5")
    with pytest.raises(InputError, match=r"f.hdf5.partial: No such file"):
        repair(tmp_path / "f.hdf5.partial")
