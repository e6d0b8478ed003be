"""The scripted expert: the right arm picks the cube, and the left arm takes it over or the right one puts it back.

Inverse kinematics runs once per waypoint, always from the same seed posture, and the joints are interpolated between
waypoints. Solving at every control step instead follows whichever branch is near and jumps between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.sim.model import ARMS, build_kinematics, joint_name
from rdt_ros.sim.scene import CUBE_HALF_M, CubeScene

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0])  # rad; every plan begins here
ROOM = HOME + [0.3, 0.0, 0.0, 0.0, 0.0, 0.0]  # the left arm turned away from who stands before the table
# rad; where every solution is sought from, wrists well bent: the left gripper rolled, the right one nose down.
SEEDS = {
    "left": np.array([0.0, -0.6, 1.1, 0.0, -0.5, 1.57]),
    "right": np.array([0.0, -0.3, 0.5, 0.0, 1.0, 0.0]),
}
HOME_OPENING, OPEN, HALF_OPEN, CLOSED = 0.1, 0.97, 0.5, 0.07
PINCH_M = np.array([0.138, 0.0, 0.0])  # between the finger tips, in the frame of gripper_link
MEET_M = np.array([0.0, 0.5, 0.27])  # where the cube changes hands
ASIDE_M = MEET_M + np.array([0.17, 0.0, 0.06])  # where the right arm is out of the way


@dataclass(frozen=True, eq=False)
class Waypoint:
    """Where the finger tips of an arm are to be at a time after the start."""

    time_s: float
    opening: float
    position: np.ndarray  # (3,) m
    turn: np.ndarray  # (3, 3) of gripper_link


@dataclass(frozen=True, eq=False)
class Posture:
    """Which joints an arm is to have at a time after the start."""

    time_s: float
    opening: float
    joints: np.ndarray  # (6,) rad


Script = dict[str, list[Waypoint | Posture]]  # of each arm


def plan(scene: CubeScene, control_rate_hz: float, script: Callable[[CubeScene], Script] | None = None) -> np.ndarray:
    """Joint targets (N, 14), rad and openings, left arm first; row k is due k control periods after the start.

    `script` is what the arms do with the cube of that scene: `hand_over` (the default) or `lift`.
    """
    model, arms = build_kinematics(), (script or hand_over)(scene)
    end_s = max(waypoints[-1].time_s for waypoints in arms.values())
    now_s = np.arange(round(end_s * control_rate_hz) + 1) / control_rate_hz
    return np.hstack([_interpolate(_postures(ArmKinematics(model, arm), arms[arm]), now_s) for arm in ARMS])


def hand_over(scene: CubeScene) -> Script:
    """The right arm picks the cube and carries it to the meeting place, the left arm takes it away."""
    carry = _nose_down()
    right = [
        *_pick(_grasp(scene)),
        Waypoint(5.2, CLOSED, MEET_M, carry),
        Waypoint(7.0, CLOSED, MEET_M, carry),
        Waypoint(7.5, OPEN, MEET_M, carry),
        Waypoint(8.4, OPEN, MEET_M - 0.12 * carry[:, 0], carry),
        Waypoint(9.4, HALF_OPEN, ASIDE_M, carry),
        Waypoint(10.4, HALF_OPEN, ASIDE_M, carry),
    ]
    return {"left": _take(), "right": right}


def lift(scene: CubeScene) -> Script:
    """The right arm picks the cube, holds it up for a second, puts it back, lets go and goes aside.

    Meanwhile the left arm makes room and comes back. Without it the closed fingers around the lying cube would look the
    same before the lift and after it, and who sees the robot could not tell whether to lift or to let go.
    """
    grasp, aside = _grasp(scene), _nose_down()
    right = [
        *_pick(grasp),
        Waypoint(5.0, CLOSED, grasp.up, grasp.turn),
        Waypoint(6.0, CLOSED, grasp.cube, grasp.turn),
        Waypoint(6.2, CLOSED, grasp.cube, grasp.turn),
        Waypoint(6.7, OPEN, grasp.cube, grasp.turn),
        Waypoint(7.5, OPEN, grasp.over, grasp.turn),
        Waypoint(8.7, HALF_OPEN, ASIDE_M, aside),
        Waypoint(9.2, HALF_OPEN, ASIDE_M, aside),
    ]
    left: list[Waypoint | Posture] = [
        Posture(4.0, HOME_OPENING, HOME),
        Posture(5.0, HOME_OPENING, ROOM),
        Posture(7.5, HOME_OPENING, ROOM),
        Posture(8.7, HOME_OPENING, HOME),
        Posture(9.2, HOME_OPENING, HOME),
    ]
    return {"left": left, "right": right}


@dataclass(frozen=True, eq=False)
class Grasp:
    """Where the right finger tips are for a cube: over it, around it, and with it in the air; m."""

    turn: np.ndarray  # (3, 3) of gripper_link
    over: np.ndarray  # (3,)
    cube: np.ndarray
    up: np.ndarray


def _grasp(scene: CubeScene) -> Grasp:
    """Turned with the cube, which looks the same after a quarter turn."""
    yaw = (scene.yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
    turn = rotation("z", yaw) @ _nose_down()
    cube, up = np.array([*scene.position[:2], CUBE_HALF_M]), np.array([0.0, 0.0, 1.0])
    return Grasp(turn, over=cube - 0.09 * turn[:, 0] + 0.03 * up, cube=cube, up=cube + 0.12 * up)


def _nose_down() -> np.ndarray:
    """(3, 3) the right gripper towards the left arm, its nose 60 degrees down."""
    return rotation("z", np.pi) @ rotation("y", np.pi / 3)


def _pick(grasp: Grasp) -> list[Waypoint | Posture]:
    """The right arm over the cube, down, close, up."""
    return [
        Waypoint(1.6, OPEN, grasp.over, grasp.turn),
        Waypoint(2.4, OPEN, grasp.cube, grasp.turn),
        Waypoint(2.7, OPEN, grasp.cube, grasp.turn),
        Waypoint(3.2, CLOSED, grasp.cube, grasp.turn),
        Waypoint(4.0, CLOSED, grasp.up, grasp.turn),
    ]


def _take() -> list[Waypoint | Posture]:
    """The left arm waits beside the meeting place, rolled so that the fingers close along the vertical, and takes."""
    rolled = rotation("x", np.pi / 2)
    take = MEET_M - np.array([0.004, 0.0, 0.0])
    wait, near = take.copy(), take.copy()
    wait[0], near[0] = -0.2, -0.12
    return [
        Waypoint(2.0, OPEN, wait, rolled),
        Waypoint(5.0, OPEN, near, rolled),
        Waypoint(6.2, OPEN, take, rolled),
        Waypoint(6.4, OPEN, take, rolled),
        Waypoint(6.9, CLOSED, take, rolled),
        Waypoint(8.4, CLOSED, take, rolled),
        Waypoint(9.6, CLOSED, wait, rolled),
        Waypoint(10.4, CLOSED, wait, rolled),
    ]


def _postures(arm: ArmKinematics, script: list[Waypoint | Posture]) -> tuple[np.ndarray, np.ndarray]:
    """Times (W + 1,) and postures (W + 1, 7): home, then what an arm's script says."""
    times = np.array([0.0, *(w.time_s for w in script)])
    joints = [HOME, *(w.joints if isinstance(w, Posture) else arm.solve(w.position, w.turn) for w in script)]
    return times, np.column_stack([joints, [HOME_OPENING, *(w.opening for w in script)]])


def _interpolate(knots: tuple[np.ndarray, np.ndarray], now_s: np.ndarray) -> np.ndarray:
    """Minimum jerk from rest to rest between postures (Flash and Hogan 1985): (N, 7) at these times (N,)."""
    times, postures = knots
    segment = np.clip(np.searchsorted(times, now_s, side="right") - 1, 0, len(times) - 2)
    u = ((now_s - times[segment]) / np.diff(times)[segment]).clip(0, 1)[:, None]
    return postures[segment] + u**3 * (10 - 15 * u + 6 * u**2) * np.diff(postures, axis=0)[segment]


class ArmKinematics:
    """Inverse kinematics of one arm for the point between its finger tips."""

    MAX_ITERATIONS = 300
    DAMPING = 0.05
    ROTATION_WEIGHT_M = 0.35  # metres that a radian of error counts as
    MAX_STEP_RAD = 0.2
    TOLERANCE_M, TOLERANCE_RAD = 2e-4, 2e-3
    MARGIN_RAD = 0.02  # kept from the joints' ends

    def __init__(self, model: mujoco.MjModel, arm: str) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._body = model.body(f"vx300s_{arm}/gripper_link").id
        self._arm = arm
        joints = [model.joint(joint_name(arm, joint)).id for joint in ARM_JOINTS]
        self._qpos, self._dof = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self._low, self._high = (model.jnt_range[joints] + [self.MARGIN_RAD, -self.MARGIN_RAD]).T

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) of the pinch point and rotation (3, 3) of the gripper at a posture (6,)."""
        self._data.qpos[self._qpos] = joints
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        turn = self._data.xmat[self._body].reshape(3, 3)
        return self._data.xpos[self._body] + turn @ PINCH_M, turn

    def solve(self, position: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """The posture (6,) that reaches a pose, by damped least squares (Wampler 1986) from the arm's seed."""
        joints = SEEDS[self._arm].copy()
        for _ in range(self.MAX_ITERATIONS):
            at, now = self.pose(joints)
            off_m, off_rad = position - at, _rotation_vector(turn @ now.T)
            if np.linalg.norm(off_m) < self.TOLERANCE_M and np.linalg.norm(off_rad) < self.TOLERANCE_RAD:
                return joints
            error = np.concatenate([off_m, self.ROTATION_WEIGHT_M * off_rad])
            jacobian = self._jacobian(at)
            damping = self.DAMPING**2 * min(1.0, float(np.linalg.norm(error)) + 0.05)
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), error)
            joints = np.clip(joints + np.clip(step, -self.MAX_STEP_RAD, self.MAX_STEP_RAD), self._low, self._high)
        raise InputError(
            f"expert: the {self._arm} arm cannot reach {np.round(position, 3).tolist()} m: "
            f"{np.linalg.norm(off_m) * 1e3:.1f} mm and {np.linalg.norm(off_rad):.3f} rad are left"
        )

    def _jacobian(self, point: np.ndarray) -> np.ndarray:
        """(6, 6) of the pinch point's position and the gripper's weighted rotation, at the posture set last."""
        linear, angular = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        mujoco.mj_jac(self._model, self._data, linear, angular, point, self._body)
        return np.vstack([linear[:, self._dof], self.ROTATION_WEIGHT_M * angular[:, self._dof]])


def rotation(axis: str, angle: float) -> np.ndarray:
    """(3, 3) rotation about a coordinate axis by an angle in rad."""
    turn = np.zeros((3, 3))
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    turn[i, i] = 1
    turn[j, j] = turn[k, k] = np.cos(angle)
    turn[k, j], turn[j, k] = np.sin(angle), -np.sin(angle)
    return turn


def _rotation_vector(turn: np.ndarray) -> np.ndarray:
    """(3,) axis times angle of a rotation matrix."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, turn.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
