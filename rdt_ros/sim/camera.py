"""Draws what a camera sees and encodes it."""

from __future__ import annotations

import mujoco
import numpy as np

from rdt_ros.robot.description import Camera
from rdt_ros.sensing.picture import RawPicture
from rdt_ros.sim.rendering import make_context
from rdt_ros.types import Picture


class CameraRenderer:
    """One off-screen renderer for all cameras of a model; use it in the thread that made it."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._gl = make_context(model.vis.global_.offwidth, model.vis.global_.offheight)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 1)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(self, data: mujoco.MjData, camera: Camera) -> np.ndarray:
        """What the camera sees now, (height, width, 3) uint8 RGB."""
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera.name).id
        kinds = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, kinds, self._scene)
        view = mujoco.MjrRect(0, 0, camera.width, camera.height)
        mujoco.mjr_render(view, self._scene, self._context)
        picture = np.empty((camera.height, camera.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, view, self._context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest

    @staticmethod
    def encode(camera: Camera, stamp_ns: int, rgb: np.ndarray) -> Picture:
        """The picture as JPEG: the very bytes that a receiver of the raw one would make of it."""
        return RawPicture(camera.name, stamp_ns, "rgb8", camera.width, 3 * camera.width, rgb.tobytes()).encode()

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._context.free()
        self._gl.free()
