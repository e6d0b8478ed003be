"""Episodes from a stream: start, stop, discard, limits, and a queue that says what it dropped."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import numpy as np
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

    def recorder(free_bytes=lambda _folder: 100 * GB, fsync=os.fsync, steady_s=time.monotonic, **settings):
        config = RecorderConfig(**{"output": str(tmp_path / "out"), "instruction": "fold", **settings})
        injected = {"free_bytes": free_bytes, "fsync": fsync, "steady_s": steady_s}
        recorders.append(EpisodeRecorder(maker.robot, maker.robot_text, config, **injected))
        return recorders[-1]

    yield recorder
    for made in recorders:
        made.close()


def test_an_episode_from_start_to_stop(maker, make, same):
    recorder = make()
    observations = maker.observations(20)
    recorder.put(observations[0])  # before the start: not part of it
    path = recorder.start()
    assert recorder.state.state == "recording" and recorder.state.episode == path
    for observation in observations[1:]:
        recorder.put(observation)
    assert recorder.stop() == path
    state = recorder.state
    assert (state.state, state.steps, state.lost, state.dropped, state.episodes) == ("idle", 17, 0, 0, 1)
    assert state.rate_hz == pytest.approx(25) and state.flushes == 2 and state.warnings == ()
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
        names.append(Path(recorder.stop()).name)
    assert names == ["episode_0007.hdf5", "episode_0008.hdf5"]


def test_discard_removes_the_file(maker, make, tmp_path):
    recorder = make()
    recorder.start()
    for observation in maker.observations(4):
        recorder.put(observation)
    recorder.discard()
    assert list((tmp_path / "out").iterdir()) == []
    state = recorder.state
    assert (state.notice, state.warnings, state.steps, state.episodes) == ("discarded episode_0000.hdf5", (), 0, 0)


def test_orders_that_make_no_sense_are_refused(make):
    recorder = make()
    with pytest.raises(InputError, match="recorder: not recording"):
        recorder.stop()
    for order in (recorder.discard, recorder.redo, recorder.keep):
        with pytest.raises(InputError, match="recorder: nothing to (discard|keep)"):
            order()
    with pytest.raises(InputError, match="expected a list of instructions to go on in, found one"):
        recorder.next()
    with pytest.raises(InputError, match="expected an instruction in words, found none"):
        recorder.set_instruction("  ")
    with pytest.raises(InputError, match="expected one of start, .*, found 'close'"):
        recorder.command("close")
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


def record(recorder: EpisodeRecorder, observations) -> str:
    recorder.start()
    for observation in observations:
        recorder.put(observation)
    return recorder.stop()


def test_a_stopped_episode_may_still_be_set_aside_until_it_is_kept(maker, make, tmp_path):
    recorder = make()
    observations = maker.observations(5)
    record(recorder, observations)
    recorder.discard()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["episode_0000.hdf5.discarded"]
    assert (recorder.state.episodes, recorder.state.tasks[0].recorded) == (0, 0)
    record(recorder, observations)
    assert recorder.keep() == str(tmp_path / "out" / "episode_0001.hdf5")
    with pytest.raises(InputError, match="nothing to discard"):
        recorder.discard()
    record(recorder, observations)
    recorder.start()  # what was not discarded is kept
    recorder.discard()
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["episode_0000.hdf5.discarded", "episode_0001.hdf5", "episode_0002.hdf5"]
    assert recorder.state.episodes == 2


@pytest.mark.parametrize("running", [True, False])
def test_redo_starts_again_at_once(maker, make, tmp_path, running):
    recorder = make(instruction="fold | stack", target=1)
    recorder.start()
    for observation in maker.observations(5):
        recorder.put(observation)
    if not running:
        recorder.stop()
        assert recorder.state.selected == 1  # the target of the first is reached
    path = Path(recorder.redo())
    assert recorder.state.state == "recording" and recorder.state.instruction == "fold"
    for observation in maker.observations(5):
        recorder.put(observation)
    recorder.keep()
    assert [p.name for p in (tmp_path / "out").glob("*.hdf5")] == [path.name]
    with EpisodeReader(path) as episode:
        assert episode.instruction == "fold"
    assert [task.recorded for task in recorder.state.tasks] == [1, 0]


def test_one_pedal_is_enough(maker, make, tmp_path):
    recorder = make()
    for _ in range(2):
        assert recorder.command("toggle") == recorder.state.episode
        for observation in maker.observations(4):
            recorder.put(observation)
        recorder.command("toggle")
    assert len(list((tmp_path / "out").glob("*.hdf5"))) == 2


def test_instructions_follow_each_other_as_their_targets_are_reached(maker, make, tmp_path):
    observations = maker.observations(4)
    record(make(instruction="fold"), observations)  # of an earlier day
    recorder = make(instruction="2 x fold | stack", target=1)
    assert [(t.instruction, t.target, t.recorded) for t in recorder.state.tasks] == [("fold", 2, 1), ("stack", 1, 0)]
    said = []
    for _ in range(3):
        path = record(recorder, observations)
        with EpisodeReader(path) as episode:
            said.append(episode.instruction)
    assert said == ["fold", "stack", "stack"]
    assert recorder.state.warnings == ("target reached: 2 of 1 episodes of 'stack'",)


def test_an_instruction_given_while_recording_is_that_of_the_next_episode(maker, make):
    recorder = make()
    recorder.start()
    for observation in maker.observations(4):
        recorder.put(observation)
    assert recorder.set_instruction(" stack the  cups ") == "stack the cups"
    assert recorder.state.instruction == "fold"
    with EpisodeReader(recorder.stop()) as episode:
        assert episode.instruction == "fold"
    with EpisodeReader(record(recorder, maker.observations(4))) as episode:
        assert episode.instruction == "stack the cups"
    assert recorder.next() == "fold"


def test_it_stops_by_itself_after_its_time(maker, make):
    recorder = make(max_seconds=1.0)
    recorder.start()
    for observation in maker.observations(40):
        recorder.put(observation)
    wait_until(lambda: recorder.state.episodes == 1)
    assert recorder.state.steps == 26
    assert recorder.state.warnings == ("stopped by itself after 1 s",)
    assert recorder.state.notice == "finished episode_0000.hdf5: 26 steps, 1.0 s; stopped by itself after 1 s"


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


def test_the_space_left_is_told_in_minutes_too(maker, make):
    recorder = make(free_bytes=lambda _folder: 3 * GB, steady_s=lambda: 0.0, warn_minutes=1e6)
    recorder.start()
    for observation in maker.observations(80):
        recorder.put(observation)
    wait_until(lambda: recorder.state.steps == 78)
    state = recorder.state
    size = Path(state.episode + ".partial").stat().st_size
    assert state.free_minutes == pytest.approx(2 * GB / (size / state.seconds) / 60, rel=0.2)
    assert state.warnings == (
        f"3.00 GB left on the disk, {state.free_minutes:.0f} minutes at {size / state.seconds / 1e6:.1f} MB a second",
    )


def test_a_silent_stream_is_named_while_recording(maker, make):
    now_s = 100.0
    recorder = make(steady_s=lambda: now_s)
    recorder.start()
    for observation in maker.observations(5):
        recorder.put(observation)
    wait_until(lambda: recorder.state.steps == 3)
    assert recorder.state.warnings == ()
    now_s += 7
    wait_until(lambda: recorder.state.warnings == ("no observation for 7 s",))
    recorder.stop()
    assert recorder.state.warnings == ()


def test_sources_that_come_late_or_go_missing_are_named(maker, make):
    recorder = make()
    recorder.start()
    poses = {"left": np.arange(7, dtype=np.float32)}
    for i, observation in enumerate(maker.observations(12, leader=True)):
        gone = {"velocity": None} if i >= 6 else {}
        late = {"effort": observation.measured, "poses": poses} if i >= 4 else {}
        recorder.put(dataclasses.replace(observation, **gone, **late))
    path = recorder.stop()
    assert recorder.state.warnings == (
        "velocity missing in 5 steps",
        "effort came after the first step: not stored in 7 steps; stop and start again to record it",
        "pose left came after the first step: not stored in 7 steps; stop and start again to record it",
    )
    with EpisodeReader(path) as episode:  # absent, not invented
        assert episode.observation(10).velocity is None and episode.observation(10).effort is None


def test_observations_without_what_decides_are_counted(maker, make):
    recorder = make()
    recorder.start()
    for i, observation in enumerate(maker.observations(10, leader=True)):
        recorder.put(dataclasses.replace(observation, leader=None) if i in (4, 5) else observation)
    recorder.stop()
    assert recorder.state.warnings[0] == "2 control ticks without a step"
    assert "2 observations without a leader: no action, no step" in recorder.state.warnings


def test_an_interrupted_recording_in_the_folder_is_named(maker, make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "episode_0003.hdf5.partial").touch()
    first = make()
    first.start()
    text = "episode_0003.hdf5.partial: interrupted, to be repaired by rdt episodes check --repair"
    assert first.state.warnings == (text,)
    assert make().state.warnings == (text,)  # the one that is being written is not


def test_a_stalled_disk_loses_nothing_that_the_queue_can_hold(maker, make):
    stalled, go_on = threading.Event(), threading.Event()

    def fsync(_descriptor):
        stalled.set()
        go_on.wait()

    recorder = make(fsync=fsync, queue_length=60)
    recorder.start()
    for observation in maker.observations(3):
        recorder.put(observation)
    assert stalled.wait(5)
    for i in range(40):
        recorder.put(maker.observation(103 + i))
    go_on.set()
    recorder.stop()
    assert (recorder.state.steps, recorder.state.lost, recorder.state.dropped) == (41, 0, 0)
    assert recorder.state.fsyncs >= 4


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
