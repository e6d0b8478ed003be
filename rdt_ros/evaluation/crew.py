"""Several arenas, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait

from rdt_ros.errors import InputError
from rdt_ros.evaluation.arena import Arena, Done, Job
from rdt_ros.evaluation.condition import Condition

END_S = 10.0  # for a process to end by itself


class Crew:
    """Processes that share the episodes of one condition, as a context: leaving it ends them.

    They are spawned, so that each has a CUDA context of its own, and share the cores evenly.
    """

    def __init__(self, condition: Condition, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max((os.cpu_count() or 1) // processes, 1)
        self._processes = {}
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, condition, threads), daemon=True)
            process.start()
            theirs.close()  # so that its death is the end of the pipe
            self._processes[ours] = process

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        for connection, process in self._processes.items():
            connection.close()  # the end of their work
            if kind is not None:
                process.terminate()  # in the middle of it
        for process in self._processes.values():
            process.join(END_S)
            process.kill()
            process.join()

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """The results in the order in which they come; InputError as the first process had it, or where one died."""
        waiting, idle, busy = deque(jobs), list(self._processes), set[Connection]()
        while waiting or busy:
            while waiting and idle:
                connection = idle.pop()
                connection.send(waiting.popleft())
                busy.add(connection)
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                yield self._received(ready)
                busy.remove(ready)
                idle.append(ready)

    def _received(self, connection: Connection) -> Done:
        try:
            answer = connection.recv()
        except EOFError:
            process = self._processes[connection]
            process.join()
            raise InputError(f"eval: a process of the evaluation ended with exit code {process.exitcode}") from None
        if isinstance(answer, InputError):
            raise answer
        return answer


def _serve(connection: Connection, condition: Condition, threads: int) -> None:
    """Runs jobs until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        arena = Arena(condition, threads)
        for answer in arena.run(_jobs(connection)):
            connection.send(answer)
        arena.close()
    except InputError as error:
        connection.send(error)


def _jobs(connection: Connection) -> Iterator[Job]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return
