"""The simulated robot: joint targets in, physics, joint measurements, the cube's pose and the verdict out."""

from __future__ import annotations

import mujoco
import numpy as np

from rdt_ros.errors import InputError
from rdt_ros.robot.description import Robot
from rdt_ros.sim.model import (
    CUBE_GEOM,
    CUBE_JOINT,
    FINGER_CLOSED_M,
    FINGER_OPEN_M,
    TABLE_GEOM,
    build_model,
    joint_name,
)
from rdt_ros.sim.scene import CubeScene
from rdt_ros.sim.schedule import STEP_NS
from rdt_ros.sim.task import HAND_OVER, TASKS, Contacts, Outcome, Task
from rdt_ros.types import JointSample


class SimRobot:
    """The two arms of a robot file in MuJoCo. Vectors are in the project's units and the file's joint order.

    `time_ns` is simulated time; it never runs backwards, a reset does not touch it.
    """

    def __init__(self, robot: Robot, start_ns: int = 0) -> None:
        if robot.period_ns % STEP_NS:
            step_ms, found_ms = STEP_NS / 1e6, robot.period_ns / 1e6
            raise InputError(
                f"robot {robot.name}: the simulator expects a control period that is a multiple of its {step_ms:g} ms "
                f"step, found {found_ms:g} ms"
            )
        self.model = build_model(
            width=max((camera.width for camera in robot.cameras), default=1),
            height=max((camera.height for camera in robot.cameras), default=1),
        )
        self.data = mujoco.MjData(self.model)
        self.time_ns = start_ns
        self._home = np.array(robot.home[-1])
        self._is_gripper = robot.is_gripper
        self._wire_joints(robot)
        self._touching = _touch_classes(self.model)
        self._cube = self.model.joint(CUBE_JOINT).qposadr[0]
        self.reset(CubeScene(seed=0))

    def _wire_joints(self, robot: Robot) -> None:
        """Finds every joint's actuator and state; a gripper is its left finger, which the right one mirrors."""
        names, mirrors = [], []
        for joint in robot.joints:
            arm, _, part = joint.name.partition("_")
            names.append(joint_name(arm, "left_finger" if part == "gripper" else part))
            if part == "gripper":
                mirrors.append(joint_name(arm, "right_finger"))
        _check_names(robot.name, "joint", names, [self.model.joint(i).name for i in range(self.model.njnt)])
        cameras = [self.model.camera(i).name for i in range(self.model.ncam)]
        _check_names(robot.name, "camera", [camera.name for camera in robot.cameras], cameras)
        actuators = {int(self.model.actuator_trnid[i, 0]): i for i in range(self.model.nu)}
        ids = [self.model.joint(name).id for name in names]
        mirror_ids = [self.model.joint(name).id for name in mirrors]
        self._qpos, self._dof = self.model.jnt_qposadr[ids], self.model.jnt_dofadr[ids]
        self._mirror_qpos = self.model.jnt_qposadr[mirror_ids]
        self._ctrl = np.array([actuators[i] for i in ids])
        self._mirror_ctrl = np.array([actuators[i] for i in mirror_ids])
        self._low, self._high = self.model.actuator_ctrlrange[self._ctrl].T

    def reset(self, scene: CubeScene, task: Task = HAND_OVER) -> None:
        """Arms at home, the cube where the scene says, everything at rest; time goes on. `outcome` judges the task."""
        mujoco.mj_resetData(self.model, self.data)
        native = self._native(self._home)
        self.data.qpos[self._qpos] = native
        self.data.qpos[self._mirror_qpos] = -native[self._is_gripper]
        half = scene.yaw / 2
        self.data.qpos[self._cube : self._cube + 7] = [*scene.position, np.cos(half), 0, 0, np.sin(half)]
        self._set_targets(self._home)
        mujoco.mj_forward(self.model, self.data)
        self._task = task.name
        self._judges = {name: known.judge() for name, known in TASKS.items()}

    def step(self, command: np.ndarray | None, duration_ns: int) -> None:
        """Drives towards `command` (J,), clipped to the actuators' ranges, for a while; None keeps the last one."""
        steps, rest = divmod(duration_ns, STEP_NS)
        if rest:
            step_ms = STEP_NS / 1e6
            raise InputError(f"simulator: expected a time that its {step_ms:g} ms step divides, found {duration_ns} ns")
        if command is not None:
            self._set_targets(command)
        for _ in range(steps):
            mujoco.mj_step(self.model, self.data)
            contacts, cube = self.contacts(), self.cube_pose()
            for judge in self._judges.values():
                judge.watch(contacts, cube)
        self.time_ns += duration_ns

    def measured(self) -> JointSample:
        """Joint positions, velocities and actuator forces (N m; N of one finger at a gripper)."""
        position = np.array(self.data.qpos[self._qpos])
        velocity = np.array(self.data.qvel[self._dof])
        grip = self._is_gripper
        position[grip] = (position[grip] - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)
        velocity[grip] /= FINGER_OPEN_M - FINGER_CLOSED_M
        return JointSample(self.time_ns, position, velocity, np.array(self.data.actuator_force[self._ctrl]))

    def cube_pose(self) -> np.ndarray:
        """(7,) the cube's position in m and its quaternion x y z w."""
        x, y, z, qw, qx, qy, qz = self.data.qpos[self._cube : self._cube + 7]
        return np.array([x, y, z, qx, qy, qz, qw])

    def contacts(self) -> Contacts:
        """What touches the cube now."""
        touching = set(self._touching[self.data.contact.geom].sum(axis=1).tolist())
        return Contacts(_CUBE + _LEFT in touching, _CUBE + _RIGHT in touching, _CUBE + _TABLE in touching)

    def outcome(self) -> Outcome:
        """The verdict on the task until now."""
        return self._judges[self._task].outcome()

    def outcomes(self) -> dict[str, Outcome]:
        """The same on every task by its name: a policy may have been told of another one."""
        return {name: judge.outcome() for name, judge in self._judges.items()}

    def _native(self, position: np.ndarray) -> np.ndarray:
        """Openings as finger positions in m, the rest as it is."""
        native = np.array(position, float)
        native[self._is_gripper] = FINGER_CLOSED_M + native[self._is_gripper] * (FINGER_OPEN_M - FINGER_CLOSED_M)
        return native

    def _set_targets(self, command: np.ndarray) -> None:
        target = np.clip(self._native(command), self._low, self._high)
        self.data.ctrl[self._ctrl] = target
        self.data.ctrl[self._mirror_ctrl] = -target[self._is_gripper]


def _check_names(robot: str, what: str, names: list[str], known: list[str]) -> None:
    """InputError for a name of the robot file that the model does not know."""
    for name in names:
        if name not in known:
            raise InputError(f"robot {robot}: the simulator has no {what} {name!r}; it has {', '.join(known)}")


_CUBE, _LEFT, _RIGHT, _TABLE = 1, 10, 20, 30  # a contact's two add up: 11, 21 and 31 are only with the cube


def _touch_classes(model: mujoco.MjModel) -> np.ndarray:
    """(geoms,) the class of every geom, 0 for what does not matter."""

    def touch_class(name: str) -> int:
        prefixes = {
            joint_name("left", ""): _LEFT,
            joint_name("right", ""): _RIGHT,
            CUBE_GEOM: _CUBE,
            TABLE_GEOM: _TABLE,
        }
        return next((value for prefix, value in prefixes.items() if name.startswith(prefix)), 0)

    return np.array([touch_class(model.geom(i).name) for i in range(model.ngeom)])
