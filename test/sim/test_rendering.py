import subprocess
import sys

import pytest

from rdt_ros.errors import InputError
from rdt_ros.sim.rendering import check_rendering


def test_rendering_works_with_the_default():
    check_rendering()


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(InputError, match="MUJOCO_GL: expected one of egl, osmesa, glfw, found 'vulkan'"):
        check_rendering()


def test_a_missing_library_is_one_line_with_the_command(monkeypatch):
    """PyOpenGL set to another platform is how EGL is made to fail anywhere; in a fresh process, for it loads once."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    code = (
        "from rdt_ros.errors import InputError\n"
        "from rdt_ros.sim.rendering import check_rendering\n"
        "try: check_rendering()\n"
        "except InputError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith("off-screen rendering: MUJOCO_GL=egl does not work here (")
    assert result.stdout.endswith("apt-get install -y libegl1 libgl1-mesa-dri\n")
