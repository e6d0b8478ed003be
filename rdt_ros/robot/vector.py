"""The unified 128-vector of RDT: which quantity stands at which index, and the 6D rotation inside it.

Source: `configs/state_vec.py` and `docs/test_6drot.py` of the reference implementation. Slots hold SI units;
a gripper is an opening from 0 to 1. Single-arm robots use the right half.
"""

from __future__ import annotations

import numpy as np

VECTOR_SIZE = 128

_EEF = ("pos_x", "pos_y", "pos_z", *(f"angle_{i}" for i in range(6)))
_EEF_VEL = ("vel_x", "vel_y", "vel_z", "angular_vel_roll", "angular_vel_pitch", "angular_vel_yaw")


def _half(side: str, start: int) -> dict[str, int]:
    """Slots of one arm whose half of the vector begins at `start`."""
    slots = {f"{side}arm_joint_{i}_pos": start + i for i in range(10)}
    slots |= {f"{side}gripper_joint_{i}_pos": start + 10 + i for i in range(5)}
    slots |= {f"{side}gripper_open": start + 10}
    slots |= {f"{side}arm_joint_{i}_vel": start + 15 + i for i in range(10)}
    slots |= {f"{side}gripper_joint_{i}_vel": start + 25 + i for i in range(5)}
    slots |= {f"{side}gripper_open_vel": start + 25}
    return slots | {f"{side}eef_{name}": start + 30 + i for i, name in enumerate(_EEF + _EEF_VEL)}


SLOTS: dict[str, int] = {
    **_half("right_", 0),
    **_half("", 0),
    **_half("left_", 50),
    "base_vel_x": 100,
    "base_vel_y": 101,
    "base_angular_vel": 102,
}


def rotation_to_6d(rotation: np.ndarray) -> np.ndarray:
    """First two columns, (..., 3, 3) -> (..., 6) as R00 R10 R20 R01 R11 R21 (arXiv 1812.07035)."""
    return np.concatenate([rotation[..., :, 0], rotation[..., :, 1]], axis=-1)


def rotation_from_6d(six: np.ndarray) -> np.ndarray:
    """The rotation matrix (..., 3, 3) whose first column is along a1 and whose second lies in the a1, a2 plane.

    Raises ValueError where a1 and a2 do not span a plane, for example for six zeros.
    """
    a1, a2 = six[..., :3], six[..., 3:]
    z = np.cross(a1, a2)
    norms = np.stack([np.linalg.norm(a1, axis=-1), np.linalg.norm(z, axis=-1)])
    if not (norms > 1e-8).all():
        raise ValueError(f"expected two 3-vectors that span a plane, found {six.tolist()}")
    x = a1 / norms[0][..., None]
    z = z / norms[1][..., None]
    return np.stack([x, np.cross(z, x), z], axis=-1)


def rotation_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a quaternion x y z w of any length but zero."""
    x, y, z, w = np.asarray(quaternion, float) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
