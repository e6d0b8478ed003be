"""The MuJoCo model: two ViperX 300s and a cube from gym-aloha's wheel, this project's cameras, cheap visuals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mujoco
import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.sim.schedule import STEP_NS

ARMS = ("left", "right")
CUBE_JOINT = "red_box_joint"
CUBE_GEOM = "red_box"
TABLE_GEOM = "table"

# Finger position of a gripper opening, from gym_aloha.constants (PUPPET_GRIPPER_POSITION_CLOSE, _OPEN).
FINGER_CLOSED_M = 0.01844
FINGER_OPEN_M = 0.05800

Point = tuple[float, float, float]
ROOM_M = 4.0  # across

_MESH_CELL = 0.02  # of a mesh's diagonal: vertices closer than this are merged
_UNTHINNED = ("finger", "tabletop")  # what touches the cube keeps its shape
_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_STL_HEADER_BYTES = 84


def assets_dir() -> Path:
    """The folder of gym-aloha's model files, found without importing it (that would need dm_control)."""
    found = importlib.util.find_spec("gym_aloha")
    if found is None or found.origin is None:
        raise InputError("gym_aloha: the simulated robot's model is missing: pip install --no-deps gym-aloha==0.1.5")
    return Path(found.origin).parent / "assets"


def joint_name(arm: str, joint: str) -> str:
    """MuJoCo's name of an arm's joint (`waist`, ..., `wrist_rotate`, `left_finger`, `right_finger`)."""
    return f"vx300s_{arm}/{joint}"


def build_model(width: int = 640, height: int = 480) -> mujoco.MjModel:
    """The hand-over scene; `width` and `height` are the largest picture that will be drawn."""
    assets = assets_dir()
    spec = mujoco.MjSpec.from_file(str(assets / "bimanual_viperx_transfer_cube.xml"))
    for mesh in spec.meshes:
        if not any(part in mesh.name for part in _UNTHINNED):
            vertices, faces = thin_mesh(_read_stl(assets / mesh.file), _MESH_CELL)
            mesh.file, mesh.uservert, mesh.userface = "", vertices.ravel(), faces.ravel()
    _add_cameras(spec)
    _simplify_visuals(spec)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    spec.option.timestep = STEP_NS * 1e-9
    return spec.compile()


def build_kinematics() -> mujoco.MjModel:
    """The same arms without anything to draw or to collide: milliseconds to build, for inverse kinematics."""
    spec = mujoco.MjSpec.from_file(str(assets_dir() / "bimanual_viperx_transfer_cube.xml"))
    for geom in list(spec.geoms):
        if geom.name != CUBE_GEOM:
            spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    return spec.compile()


def thin_mesh(triangles: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertex clustering: triangles (N, 3, 3) -> vertices (V, 3) and faces (F, 3), corners merged on a grid.

    `cell` is the grid's spacing as a share of the bounding box's diagonal; a thin side keeps at least two layers.
    """
    corners = triangles.reshape(-1, 3).astype(float)
    low, size = corners.min(0), np.ptp(corners, axis=0)
    spacing = np.minimum(cell * np.linalg.norm(size), np.maximum(size, 1e-9) / 1.5)
    _, cluster = np.unique(np.floor((corners - low) / spacing).astype(int), axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    sums = np.stack([np.bincount(cluster, corners[:, axis]) for axis in range(3)], axis=1)
    faces = cluster.reshape(-1, 3)
    flat = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 0] == faces[:, 2])
    faces = faces[~flat]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return sums / np.bincount(cluster)[:, None], faces[np.sort(first)]


def _read_stl(path: Path) -> np.ndarray:
    """Triangles (N, 3, 3) of a binary STL file."""
    return np.fromfile(path, _STL_TRIANGLE, offset=_STL_HEADER_BYTES)["corners"]


def _add_cameras(spec: mujoco.MjSpec) -> None:
    """One camera above the front edge of the table, and one on each gripper that looks past its fingers."""
    _aim(spec.worldbody, "cam_high", at=(0.0, 0.0, 0.65), towards=(0.0, 0.48, 0.1), fov_deg=55)
    for arm in ARMS:
        gripper = spec.body(f"vx300s_{arm}/gripper_link")
        _aim(gripper, f"cam_{arm}_wrist", at=(0.0, 0.0, 0.13), towards=(0.19, 0.0, 0.0), fov_deg=60)


def _aim(body: mujoco.MjsBody, name: str, at: Point, towards: Point, fov_deg: float) -> None:
    """Adds a camera whose picture is upright: its right-hand side lies in the body's horizontal plane."""
    look = np.subtract(towards, at)
    right = np.cross(look, (0.0, 0.0, 1.0))
    body.add_camera(name=name, pos=at, fovy=fov_deg, xyaxes=[*right, *np.cross(right, look)])


def _simplify_visuals(spec: mujoco.MjSpec) -> None:
    """What a software renderer draws fast: no anti-aliasing, a room of plain planes."""
    spec.visual.quality.offsamples = 0
    spec.visual.map.znear = 0.01  # times the model's extent; the shipped 0.1 clips the fingers away
    spec.geom(TABLE_GEOM).rgba = [0.55, 0.47, 0.38, 1]
    _add_plane(spec, "floor", (0.0, 0.5, -ROOM_M / 4), normal=(0.0, 0.0, 1.0), grey=0.45)
    _add_plane(spec, "ceiling", (0.0, 0.5, ROOM_M / 2), normal=(0.0, 0.0, -1.0), grey=0.6)
    for name, x, y in (("left", -1, 0), ("right", 1, 0), ("front", 0, -1), ("back", 0, 1)):
        at = (x * ROOM_M / 2, 0.5 + y * ROOM_M / 2, 0.0)
        _add_plane(spec, f"{name}_wall", at, normal=(-x, -y, 0.0), grey=0.7)


def _add_plane(spec: mujoco.MjSpec, name: str, at: Point, normal: Point, grey: float) -> None:
    size = [ROOM_M / 2, ROOM_M / 2, 1]
    plane = spec.worldbody.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_PLANE, size=size, pos=at)
    mujoco.mju_quatZ2Vec(plane.quat, np.array(normal))
    plane.rgba = [grey, grey, grey, 1]
    plane.contype = plane.conaffinity = 0
