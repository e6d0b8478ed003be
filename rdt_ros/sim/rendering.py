"""Which OpenGL draws off screen, and whether it works here; imports MuJoCo only to try it."""

from __future__ import annotations

import atexit
import importlib
import os
from typing import Any

from rdt_ros.errors import InputError

BACKENDS = {  # MUJOCO_GL -> module of its context, packages that bring the libraries
    "egl": ("mujoco.egl", "libegl1 libgl1-mesa-dri"),
    "osmesa": ("mujoco.osmesa", "libosmesa6"),
    "glfw": ("mujoco.glfw", "libgl1"),
}


def make_context(width: int, height: int) -> Any:
    """A new OpenGL context of the backend that MUJOCO_GL names (default egl), current in this thread.

    InputError with the packages to install where it cannot be made; no other backend is tried.
    """
    backend = os.environ.get("MUJOCO_GL") or "egl"
    if backend not in BACKENDS:
        raise InputError(f"MUJOCO_GL: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    module, packages = BACKENDS[backend]
    try:
        context = importlib.import_module(module).GLContext(width, height)
        context.make_current()
    except Exception as error:  # a missing library shows as ImportError, AttributeError, GLError or RuntimeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"off-screen rendering: MUJOCO_GL={backend} does not work here ({reason}); "
            f"install its libraries: apt-get install -y {packages}"
        ) from error
    atexit.register(context.free)  # before MuJoCo ends the display, which would make freeing it an error
    return context


def check_rendering() -> None:
    """Raises InputError with one line that says what to install where nothing can be drawn off screen."""
    make_context(16, 16).free()
