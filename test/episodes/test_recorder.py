"""Episodes from a stream: start, stop, discard, limits, and a queue that says what it dropped."""

from __future__ import annotations

import dataclasses
import os
import threading
import time

import pytest

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.episodes.recorder import EpisodeRecorder, RecorderConfig
from rdt_ros.errors import InputError

GB = 1_000_000_000


def wait_until(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def make(maker, tmp_path):
    recorders = []

    def recorder(free_bytes=lambda _folder: 100 * GB, **settings) -> EpisodeRecorder:
        config = RecorderConfig(**{"output": str(tmp_path / "out"), "instruction": "fold", **settings})
        recorders.append(EpisodeRecorder(maker.robot, maker.robot_text, config, free_bytes=free_bytes))
        return recorders[-1]

    yield recorder
    for made in recorders:
        made.close()


def test_an_episode_from_start_to_stop(maker, make, same):
    recorder = make()
    observations = maker.observations(20)
    recorder.put(observations[0])  # before the start: not part of it
    path = recorder.start()
    assert recorder.state.state == "recording" and recorder.state.episode == str(path)
    for observation in observations[1:]:
        recorder.put(observation)
    assert recorder.stop() == path
    state = recorder.state
    assert (state.state, state.steps, state.lost, state.dropped, state.episodes) == ("idle", 17, 0, 0, 1)
    assert state.rate_hz == pytest.approx(25) and state.flushes == 1 and state.warnings == ()
    with EpisodeReader(path) as episode:
        assert [o.stamp_ns for o in episode.observations()] == [o.stamp_ns for o in observations[1:18]]
        assert same(episode.observation(0), observations[1])


def test_numbers_count_up_past_whatever_is_there(maker, make, tmp_path):
    recorder = make()
    (tmp_path / "out" / "episode_0006.hdf5.partial").touch()
    names = []
    for _ in range(2):
        recorder.start()
        for observation in maker.observations(4):
            recorder.put(observation)
        names.append(recorder.stop().name)
    assert names == ["episode_0007.hdf5", "episode_0008.hdf5"]


def test_discard_removes_the_file(maker, make, tmp_path):
    recorder = make()
    recorder.start()
    for observation in maker.observations(4):
        recorder.put(observation)
    recorder.discard()
    assert list((tmp_path / "out").iterdir()) == []
    assert recorder.state.warnings == ("discarded episode_0000.hdf5",)


def test_orders_that_make_no_sense_are_refused(make):
    recorder = make()
    for order in (recorder.stop, recorder.discard):
        with pytest.raises(InputError, match="recorder: not recording"):
            order()
    recorder.start()
    with pytest.raises(InputError, match="recorder: already recording episode_0000.hdf5"):
        recorder.start()


@pytest.mark.parametrize(
    ("count", "command", "why"),
    [(0, True, "no Observation came"), (5, False, "no leader and no command came"), (2, True, "it was too short")],
)
def test_an_episode_without_steps_is_not_kept(maker, make, tmp_path, count, command, why):
    recorder = make()
    recorder.start()
    for observation in maker.observations(count, command=command):
        recorder.put(observation)
    with pytest.raises(InputError, match=f"episode_0000.hdf5: no step, nothing kept: {why}"):
        recorder.stop()
    assert list((tmp_path / "out").iterdir()) == []


def test_it_stops_by_itself_after_its_time(maker, make):
    recorder = make(max_seconds=1.0)
    recorder.start()
    for observation in maker.observations(40):
        recorder.put(observation)
    wait_until(lambda: recorder.state.episodes == 1)
    assert recorder.state.steps == 26
    assert recorder.state.warnings == ("stopped by itself after 1 s",)


def test_it_warns_early_and_stops_before_the_disk_is_full(maker, make):
    free_gb = 1.5
    recorder = make(free_bytes=lambda _folder: int(free_gb * GB))
    recorder.start()
    for observation in maker.observations(6):
        recorder.put(observation)
    wait_until(lambda: recorder.state.steps == 4)
    assert recorder.state.warnings == ("1.50 GB left on the disk",)
    free_gb = 0.5
    wait_until(lambda: recorder.state.episodes == 1)
    assert recorder.state.warnings[0] == "stopped by itself: 0.50 GB left on the disk"
    with pytest.raises(InputError, match="expected 1 GB of free space, found 0.50"):
        recorder.start()


def test_what_the_queue_drops_is_counted(maker, make):
    stalled, go_on = threading.Event(), threading.Event()

    def free_bytes(_folder):  # called by the writing thread for each Observation: a disk that stalls
        if stalled.is_set():
            go_on.wait()
        return 100 * GB

    recorder = make(free_bytes=free_bytes, queue_length=5)
    recorder.start()
    stalled.set()
    for observation in maker.observations(20):
        recorder.put(observation)  # never waits
    go_on.set()
    recorder.stop()
    state = recorder.state
    # one or two in the thread's hands, five in the queue
    assert 13 <= state.dropped <= 15
    assert f"{state.dropped} observations dropped: the disk is too slow" in state.warnings


def test_a_fault_ends_the_episode_and_keeps_its_steps(maker, make):
    recorder = make()
    path = recorder.start()
    observations = maker.observations(8)
    observations[4] = dataclasses.replace(observations[4], pictures=observations[4].pictures[:1])
    for observation in observations:
        recorder.put(observation)
    wait_until(lambda: recorder.state.state == "fault")
    assert "expected pictures of" in recorder.state.reason
    with EpisodeReader(path) as episode:
        assert len(episode) == 4
    recorder.start()
    assert recorder.state.state == "recording"


def test_a_disk_that_is_gone_is_a_full_one(maker, make):
    def free_bytes(_folder):
        if gone.is_set():
            raise OSError(5, "Input/output error")
        return 100 * GB

    gone = threading.Event()
    recorder = make(free_bytes=free_bytes)
    recorder.start()
    for observation in maker.observations(5):
        recorder.put(observation)
    wait_until(lambda: recorder.state.steps == 3)
    gone.set()
    wait_until(lambda: recorder.state.episodes == 1)
    assert recorder.state.warnings[0] == "stopped by itself: 0.00 GB left on the disk"


def test_missing_instruction_is_a_warning(make):
    recorder = make(instruction="")
    recorder.start()
    assert recorder.state.warnings == ("no instruction: the episode will say nothing about its task",)


def test_lost_ticks_and_an_older_observation_are_warned_of(maker, make):
    recorder = make()
    recorder.start()
    observations = maker.observations(12)
    for observation in [*observations[:5], *observations[6:], observations[2]]:
        recorder.put(observation)
    recorder.stop()
    # the tick that did not come, and the one whose action it carried
    assert recorder.state.lost == 2
    assert "2 control ticks without a step" in recorder.state.warnings
    assert "1 observations refused: stamped before the one before them" in recorder.state.warnings


def test_closing_finishes_the_episode(maker, make, tmp_path):
    recorder = make()
    path = recorder.start()
    for observation in maker.observations(4):
        recorder.put(observation)
    recorder.close()
    with EpisodeReader(path) as episode:
        assert len(episode) == 2


def test_a_folder_that_cannot_be_written_is_refused(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output .*/file: cannot be written: (Not a directory|File exists)"):
        make(output=str(tmp_path / "file"))
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot be written: Permission denied"):
            make(output=str(tmp_path / "locked"))
