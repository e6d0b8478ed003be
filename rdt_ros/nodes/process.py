"""One process, one node: start, spin, and an end without a traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rdt_ros.errors import InputError
from rdt_ros.nodes.shared_memory import dead_ports_held, remove_dead_segments

try:
    from rclpy.experimental import EventsExecutor
except ImportError:  # Humble
    EventsExecutor = None

WAIT_S = 0.2  # a signal is seen between two waits


def run_node(make: Callable[[], Node], *, many_messages: bool = False) -> None:
    """Makes the node and spins it until Ctrl-C, SIGTERM, SystemExit or an error, then exits the process.

    With `many_messages` it is spun by rclpy's executor in C++ where there is one (since Jazzy), which needs a fraction
    of the time for each message; it knows no guard conditions.

    Exit codes: 0 after a signal, 2 with one line on stderr for a user's mistake. A node that ends by itself raises
    SystemExit in a callback. A node with a `close()` method gets it called before it is destroyed.
    """
    # rclpy's own handlers would end the context before the node can say its last words
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    remove_dead_segments()
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node: Node | None = None
    code: int | str | None = 0
    try:
        with dead_ports_held():
            node = make()
        executor = EventsExecutor() if many_messages and EventsExecutor is not None else SingleThreadedExecutor()
        executor.add_node(node)
        # no exceptions from here on: one inside rclpy's own code would end the process with a traceback
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        while not ended.is_set():
            executor.spin_once(timeout_sec=WAIT_S)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except InvalidParameterValueException as error:
        code = _complain(str(error))
    except InputError as error:
        code = _complain(str(error))
    except SystemExit as error:
        code = error.code
    finally:
        _close(node)
    sys.exit(code)


def _close(node: Node | None) -> None:
    """Lets the node finish its work, undisturbed by a second Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if node is not None:
        if hasattr(node, "close"):
            node.close()
        node.destroy_node()
    rclpy.try_shutdown()


def _complain(message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return 2
