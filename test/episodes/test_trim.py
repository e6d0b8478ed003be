"""Trimming keeps every byte of what stays."""

from __future__ import annotations

import dataclasses
import shutil

import h5py
import numpy as np
import pytest

from rdt_ros.episodes import frames, layout
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.trim import Cut, StillEnds, between, still_ends, write_trimmed
from rdt_ros.errors import InputError

STILL_HEAD, MOVING, STILL_TAIL = 30, 20, 40
MARGIN = 12  # periods that begin within the default margin of 0.5 s


@pytest.fixture
def path(maker, tmp_path):
    """An episode of an arm that stands, moves one joint, and stands again."""
    observations = []
    count = STILL_HEAD + MOVING + STILL_TAIL + 2  # the last two have no action yet
    position = np.clip(np.arange(count) - STILL_HEAD + 1, 0, MOVING) * 0.05
    for i, observation in enumerate(maker.observations(count)):
        pose = np.full(14, 0.3, np.float32)
        pose[4] = position[i]
        # the command of an Observation is that of the tick before
        command = np.full(14, 0.3, np.float32)
        command[4] = position[max(0, i - 1)]
        observations.append(dataclasses.replace(observation, measured=pose, command=command))
    maker.write(tmp_path / "e.hdf5", observations)
    return tmp_path / "e.hdf5"


def chunks(path) -> dict[str, list[bytes]]:
    """The stored bytes of every picture, as they lie in the file."""
    with h5py.File(path) as file:
        images = file["/observations/images"]
        return {name: [d.id.read_direct_chunk((i,))[1] for i in range(len(d))] for name, d in images.items()}


def test_still_ends_go_but_for_the_margin(path):
    with EpisodeReader(path) as episode:
        assert len(episode) == STILL_HEAD + MOVING + STILL_TAIL
        cut = still_ends(episode, StillEnds())
        # the command of step t is that of tick t + 1: motion begins there
        assert cut == Cut(STILL_HEAD - 1 - MARGIN, STILL_HEAD + MOVING - 1 + MARGIN, len(episode))
        assert still_ends(episode, StillEnds(margin_s=10.0)).nothing
        with pytest.raises(InputError, match="expected motion beyond 1.5 rad, found none"):
            still_ends(episode, StillEnds(moved_rad=1.5))


def test_a_moving_base_is_motion(maker, tmp_path):
    still = np.full(14, 0.3, np.float32)
    observations = [
        dataclasses.replace(o, measured=still, command=still, base=np.array([0.2 * (40 <= i < 50), 0, 0], np.float32))
        for i, o in enumerate(maker.observations(92))
    ]
    maker.write(tmp_path / "e.hdf5", observations)
    with EpisodeReader(tmp_path / "e.hdf5") as episode:
        assert still_ends(episode, StillEnds()) == Cut(40 - MARGIN, 50 + MARGIN, 90)


def test_what_stays_is_what_was_there_bit_by_bit(path, tmp_path, same):
    target = tmp_path / "cut.hdf5"
    with EpisodeReader(path) as episode:
        write_trimmed(episode, Cut(17, 61, 90), target)
        with EpisodeReader(target) as trimmed:
            assert len(trimmed) == 44 and trimmed.complete and trimmed.instruction == episode.instruction
            assert all(same(trimmed.observation(i), episode.observation(17 + i)) for i in range(44))
            assert np.array_equal(trimmed.actions, episode.actions[17:61])
    before = chunks(path)
    assert chunks(target) == {name: stored[17:61] for name, stored in before.items()} and len(before) == 3
    with h5py.File(path) as old, h5py.File(target) as new:
        changed = {"steps": 44, "trimmed_head": 17, "trimmed_tail": 29}
        assert {name: int(new.attrs[name]) for name in changed} == changed
        kept = set(old.attrs) - set(changed)
        assert all(np.array_equal(new.attrs[name], old.attrs[name]) for name in kept)
        assert set(new.attrs) == set(old.attrs) | set(changed)
        images = new[layout.image_path("cam_high")]
        assert frames.unpacked(images.id.read_direct_chunk((0,))[1], images.dtype.itemsize) is not None


def test_steps_lost_are_counted_anew_and_cuts_add_up(maker, tmp_path):
    lost = (110, 130)
    observations = [o for o in maker.observations(60, leader=True) if o.stamp_ns // maker.period_ns not in lost]
    maker.write(tmp_path / "e.hdf5", observations)
    for cut in (Cut(0, 20, 55), Cut(5, 19, 20)):
        with EpisodeReader(tmp_path / "e.hdf5") as episode:
            assert len(episode) == cut.steps
            write_trimmed(episode, cut, tmp_path / "e.hdf5", overwrite=True)
    with h5py.File(tmp_path / "e.hdf5") as file:
        assert (file.attrs["trimmed_head"], file.attrs["trimmed_tail"]) == (5, 36)
        ticks = file[layout.TICK][:]
        assert file.attrs["steps_lost"] == (ticks[-1] - ticks[0]) // maker.period_ns + 1 - 14 == 2


def test_places_are_steps_or_seconds(path):
    with EpisodeReader(path) as episode:
        assert between(episode, "10", "80") == Cut(10, 80, 90)
        assert between(episode, "0.4s", None) == Cut(10, 90, 90)
        assert between(episode, None, "0.41s") == Cut(0, 11, 90)
        for first, end, message in [
            ("ten", None, "--from: expected a step such as 120 or seconds such as 4.8s, found 'ten'"),
            (None, "91", "--to: expected a place within 0 to 90 steps, found 91"),
            ("-1s", None, "--from: expected a place within 0 to 90 steps, found -1s"),
            ("50", "50", "expected --from before --to, found steps 50 and 50"),
            ("nans", None, "--from: expected a step"),
        ]:
            with pytest.raises(InputError) as refusal:
                between(episode, first, end)
            assert message in str(refusal.value)


def test_nothing_is_overwritten_unless_told(path, tmp_path):
    shutil.copy(path, tmp_path / "other.hdf5")
    before = (tmp_path / "other.hdf5").read_bytes()
    with EpisodeReader(path) as episode, pytest.raises(InputError, match="other.hdf5: exists already"):
        write_trimmed(episode, Cut(1, 50, 90), tmp_path / "other.hdf5")
    assert (tmp_path / "other.hdf5").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.hdf5", "other.hdf5"]


def test_a_failure_leaves_the_episode_as_it_was(path, tmp_path, monkeypatch):
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("rdt_ros.episodes.trim._copy_steps", full)
    with EpisodeReader(path) as episode, pytest.raises(InputError, match="could not be made: No space left on device"):
        write_trimmed(episode, Cut(1, 50, 90), path, overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_other_files_and_interrupted_ones_are_sent_elsewhere(maker, tmp_path):
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file["/observations/qpos"] = file["/action"] = np.full((20, 14), 0.03)
    with EpisodeReader(tmp_path / "old.hdf5", maker.robot) as episode:
        with pytest.raises(InputError, match="not recorded by rdt_ros: first `rdt episodes convert` it"):
            still_ends(episode, StillEnds())
        with pytest.raises(InputError, match="not recorded by rdt_ros"):
            between(episode, "1", None)
    unfinished = maker.write(tmp_path / "e.hdf5", maker.observations(10), finish=False).unfinished
    with (
        EpisodeReader(unfinished) as episode,
        pytest.raises(InputError, match="check --repair` it"),
    ):
        still_ends(episode, StillEnds())
