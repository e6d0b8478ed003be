"""A child process for work that may hang or crash: HDF5 can do both on a damaged file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

MEMORY_BYTES = 8 << 30  # of address space: a damaged size must not take the machine's memory


class WorkerError(Exception):
    """The work was not finished, in one line: it crashed, took too long, or raised."""


class Worker:
    """Calls one function for one argument at a time in a process that is started anew where it dies of it.

    Function, arguments and results must be picklable. To be closed at the end.
    """

    def __init__(self, function: Callable[[Any], Any], timeout_s: float) -> None:
        self._function, self._timeout_s = function, timeout_s
        self._process: Any = None
        self._connection: Connection | None = None

    def do(self, argument: Any) -> Any:
        """The function's result; WorkerError where there is none."""
        connection = self._started()
        connection.send(argument)
        if not connection.poll(self._timeout_s):
            self.close()
            raise WorkerError(f"no answer within {self._timeout_s:g} s")
        try:
            finished, result = connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerError(f"crashed: {reason}") from None
        if not finished:
            raise WorkerError(result)
        return result

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
            self._process.start()
            theirs.close()  # so that its death is the end of the pipe
        return self._connection

    def close(self) -> None:
        """Ends the process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Answers until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg and HDF5 write there what the answer says
    with contextlib.suppress(EOFError):
        while True:
            argument = connection.recv()
            try:
                answer = (True, function(argument))
            except Exception as error:  # whatever it is, it is reported, and the next one is tried
                answer = (False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            connection.send(answer)
