"""Work that crashes, hangs or raises, in a process of its own."""

from __future__ import annotations

import os
import time

import pytest

from rdt_ros.check_command import judge
from rdt_ros.episodes.check.episode import Task
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.check.worker import Worker, WorkerError


@pytest.fixture
def worker():
    made = []

    def make(function, timeout_s=60.0) -> Worker:
        made.append(Worker(function, timeout_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_one_process_does_one_after_the_other(worker):
    one = worker(abs)
    assert [one.do(-3), one.do(-4.5)] == [3, 4.5]


def test_what_is_raised_is_a_line_and_the_next_one_is_tried(worker):
    one = worker(len)
    with pytest.raises(WorkerError, match=r"^TypeError: object of type 'int' has no len\(\)$"):
        one.do(5)
    assert one.do("four") == 4


def test_a_crash_is_a_line_and_the_next_one_is_tried(worker):
    one = worker(eval)
    with pytest.raises(WorkerError, match="crashed: SIGSEGV"):
        one.do("__import__('os').kill(__import__('os').getpid(), 11)")
    with pytest.raises(WorkerError, match="crashed: exit code 3"):
        one.do("__import__('os')._exit(3)")
    assert one.do("6 * 7") == 42


def test_a_hang_is_a_line_and_its_process_is_gone(worker):
    one = worker(time.sleep, timeout_s=0.2)
    with pytest.raises(WorkerError, match=r"no answer within 0.2 s"):
        one.do(3600)


def test_a_damaged_size_does_not_take_the_machines_memory(worker):
    with pytest.raises(WorkerError, match="MemoryError"):
        worker(bytes).do(1 << 40)


def test_a_file_that_hangs_or_crashes_is_one_finding(tmp_path):
    pipe = tmp_path / "pipe.hdf5"
    os.mkfifo(pipe)  # opening it waits for a writer that never comes
    (verdict,) = judge([Task(pipe, Thresholds(timeout_s=1.5))])
    assert [(item.kind, item.severity) for item in verdict.findings] == [("crashed", "error")]
    assert verdict.findings[0].found == "no answer within 1.5 s"
