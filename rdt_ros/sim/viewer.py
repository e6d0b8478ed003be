"""MuJoCo's window on the simulation."""

from __future__ import annotations

import os
import warnings
from typing import Any

import mujoco

from rdt_ros.errors import InputError


def open_viewer(model: mujoco.MjModel, data: mujoco.MjData) -> Any:
    """A window that shows `data` whenever its `sync()` is called; InputError where there is no display."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError("viewer: expected a display, found neither DISPLAY nor WAYLAND_DISPLAY set")
    import glfw  # only here: both load window libraries
    import mujoco.viewer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not glfw.init():  # asked here, because the viewer's own thread would fail and leave its caller waiting
            raise InputError(f"viewer: cannot open a window on display {os.environ.get('DISPLAY', '')!r}")
    return mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
