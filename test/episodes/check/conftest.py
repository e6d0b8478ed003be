"""Teleoperated episodes as robots give them, made from a seed, and ways to spoil them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import yaml

from rdt_ros.episodes.check.episode import Task, check_episode
from rdt_ros.episodes.check.findings import Verdict
from rdt_ros.episodes.check.thresholds import Thresholds
from rdt_ros.episodes.layout import NO_STAMP, Header
from rdt_ros.episodes.recording import Step
from rdt_ros.episodes.writer import EpisodeWriter
from rdt_ros.robot.description import Robot, parse_robot
from rdt_ros.share import share_dir
from rdt_ros.types import Observation, Picture

WIDTH, HEIGHT = 160, 120
SEED = 11
SCENE = 400  # pixels of a scene's side


def robot_text(name: str = "agilex") -> str:
    """A shipped robot with small pictures."""
    text = (share_dir() / "config" / "robots" / f"{name}.yaml").read_text()
    return text.replace("width: 640, height: 480", f"width: {WIDTH}, height: {HEIGHT}")


@dataclass
class Take:
    """An episode before it is written; tests change what they like."""

    text: str
    robot: Robot
    ticks: np.ndarray  # (N,) ns
    measured: np.ndarray  # (N, J)
    action: np.ndarray  # (N, J)
    velocity: np.ndarray  # (N, J)
    jpegs: dict[str, list[bytes]]
    stamps: dict[str, np.ndarray]
    instruction: str = "fold the towel"
    attributes: dict[str, object] = field(default_factory=dict)
    finished: bool = True

    def keep(self, steps: np.ndarray) -> None:
        """Only these steps."""
        self.ticks, self.measured, self.action = self.ticks[steps], self.measured[steps], self.action[steps]
        self.velocity = self.velocity[steps]
        self.jpegs = {camera: [frames[i] for i in steps] for camera, frames in self.jpegs.items()}
        self.stamps = {source: stamps[steps] for source, stamps in self.stamps.items()}

    def copy(self) -> Take:
        """One to be spoilt."""
        return dataclasses.replace(
            self,
            ticks=self.ticks.copy(),
            measured=self.measured.copy(),
            action=self.action.copy(),
            velocity=self.velocity.copy(),
            jpegs={camera: list(frames) for camera, frames in self.jpegs.items()},
            stamps={source: stamps.copy() for source, stamps in self.stamps.items()},
            attributes=dict(self.attributes),
        )

    def write(self, path: Path) -> Path:
        """The file; a `.partial` one where the recording shall be interrupted."""
        writer = EpisodeWriter(path, Header(self.robot, self.text, self.instruction), flush_period_s=1e9)
        for i in range(len(self.ticks)):
            observation = self._observation(i)
            writer.add(Step(observation, self.action[i].astype(np.float32), "leader", observation))
        if not self.finished:
            writer.flush()
            data = writer.unfinished.read_bytes()
            writer.discard()
            writer.unfinished.write_bytes(data)  # as a kill leaves it: nobody holds it
            return writer.unfinished
        ticks = round((self.ticks[-1] - self.ticks[0]) / self.robot.period_ns) + 1
        writer.finish(steps_lost=int(ticks - len(self.ticks)))
        with h5py.File(path, "r+") as file:
            for name, value in self.attributes.items():
                file.attrs[name] = value
        return path

    def _observation(self, i: int) -> Observation:
        pictures = tuple(Picture(c, int(self.stamps[f"camera/{c}"][i]), frames[i]) for c, frames in self.jpegs.items())
        stamps = {source: int(values[i]) for source, values in self.stamps.items() if values[i] != NO_STAMP}
        velocity = self.velocity[i].astype(np.float32)
        return Observation(
            stamp_ns=int(self.ticks[i]),
            robot=self.robot.name,
            pictures=pictures,
            joint_names=self.robot.joint_names,
            measured=self.measured[i].astype(np.float32),
            velocity=None if np.isnan(velocity).all() else velocity,
            leader=self.action[i].astype(np.float32),
            source_stamps_ns=stamps,
        )


class Lab:
    """A robot in front of a scene: all its episodes look alike, none is like another."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.text = robot_text()
        self.robot = parse_robot(yaml.safe_load(self.text), "robot.yaml")
        self.scene = self._scene()
        self.noise = self.random.normal(0, 1, (SCENE, SCENE, 3)).astype(np.float32)
        self.offset = self.random.uniform(-0.03, 0.03, len(self.robot.joints))  # of gravity, on the follower

    def take(self, seconds: float | None = None, head_s: float | None = None, tail_s: float | None = None) -> Take:
        """A clean episode; times that are not given are drawn."""
        random, rate = self.random, self.robot.control_rate_hz
        seconds = random.uniform(5.6, 7.5) if seconds is None else seconds
        steps = round(seconds * rate)
        head = round((random.uniform(0, 1.2) if head_s is None else head_s) * rate)
        tail = round((random.uniform(0, 1.2) if tail_s is None else tail_s) * rate)
        leader = self._motion(steps + 1, head, tail)
        measured = self._follow(leader)
        ticks = (1_000 + np.arange(steps, dtype=np.int64)) * self.robot.period_ns
        jpegs = self._jpegs(measured[:steps])
        velocity = np.gradient(measured, axis=0) * rate
        return Take(
            text=self.text,
            robot=self.robot,
            ticks=ticks,
            measured=measured[:steps],
            action=leader[1:],
            velocity=velocity[:steps],
            jpegs=jpegs,
            stamps=self._stamps(ticks),
        )

    def _motion(self, steps: int, head: int, tail: int) -> np.ndarray:
        """(steps, J) of the leader: from pose to pose with pauses, in a hand that is never quite still."""
        random, robot = self.random, self.robot
        lower, upper = robot.limits("lower"), robot.limits("upper")
        values = np.zeros((steps, len(robot.joints)))
        one_armed = random.random() < 0.3
        for j, joint in enumerate(robot.joints):
            gripper = joint.kind == "gripper"
            middle, span = (lower[j] + upper[j]) / 2, 0.35 * (upper[j] - lower[j])
            position = random.uniform(0.6, 0.95) if gripper else middle + random.uniform(-span, span)
            idle = one_armed and joint.name.startswith("left")
            t, column = head, np.full(steps, position)
            while t < steps - tail and not idle:
                if gripper:
                    target, length = random.uniform(0.5, 0.98) if position < 0.3 else -0.03, random.integers(5, 14)
                else:
                    target = np.clip(position + random.normal(0, 0.5), middle - span, middle + span)
                    length = max(8, round(abs(target - position) / 0.9 * robot.control_rate_hz))
                if length > steps - tail - t:
                    break
                part = np.linspace(0, 1, length + 1)[1:]
                column[t : t + length] = position + (target - position) * part**3 * (10 - 15 * part + 6 * part**2)
                position, t = column[t + length - 1], t + length
                pause = round(random.uniform(0.4, 1.6) * robot.control_rate_hz) if random.random() < 0.4 else 0
                column[t:] = position
                t += pause + (random.integers(20, 50) if gripper else 0)
            hand = cv2.GaussianBlur(random.normal(0, 1, (steps, 1)), (1, 0), sigmaX=0, sigmaY=4)[:, 0]
            values[:, j] = column + (0.0 if idle else 0.004) * hand / max(hand.std(), 1e-9) * (not gripper)
        return values

    def _follow(self, leader: np.ndarray) -> np.ndarray:
        """The follower: late, bent by gravity, stopped by what it grips, read by encoders."""
        random, robot = self.random, self.robot
        measured, state = np.empty_like(leader), leader[0].copy()
        for t, goal in enumerate(leader):
            state += random.uniform(0.35, 0.5) * (goal - state)
            measured[t] = state
        held = random.uniform(0.0, 0.5)
        grippers = robot.is_gripper
        measured[:, grippers] = np.maximum(measured[:, grippers], held if random.random() < 0.6 else -0.02)
        measured[:, ~grippers] += self.offset[~grippers]
        return measured + random.normal(0, random.uniform(0.0003, 0.0015), measured.shape)

    def _stamps(self, ticks: np.ndarray) -> dict[str, np.ndarray]:
        """30 Hz cameras with jitter, 200 Hz joints: the first sample at or after each tick."""
        random, stamps = self.random, {}
        for camera in self.robot.cameras:
            frames = np.arange(ticks[0] - 10**8 + random.integers(10**8), ticks[-1] + 10**8, round(1e9 / 30))
            frames += random.integers(-2_000_000, 2_000_000, len(frames))
            stamps[f"camera/{camera.name}"] = frames[np.searchsorted(frames, ticks)]
        for group in self.robot.groups:
            for role in ("measured", "leader"):
                samples = np.arange(ticks[0] - 10**7 + random.integers(10**7), ticks[-1] + 10**8, 5_000_000)
                stamps[f"{role}/{group.name}"] = samples[np.searchsorted(samples, ticks)]
        return stamps

    def _scene(self) -> np.ndarray:
        """(SCENE, SCENE, 3) RGB: a table, a wall and things on them, with texture."""
        random = self.random
        wood, wall = np.array([150, 110, 75]) * random.uniform(0.7, 1.2), np.array([165, 160, 150])
        scene = np.empty((SCENE, SCENE, 3), np.float32)
        scene[:], scene[: SCENE // 4] = wood, wall
        for _ in range(14):
            colour = tuple(float(v) for v in random.uniform(20, 220, 3))
            centre = tuple(int(v) for v in random.integers(0, SCENE, 2))
            cv2.ellipse(
                scene, centre, (int(random.integers(10, 45)), 18), float(random.uniform(0, 180)), 0, 360, colour, -1
            )
        grain = random.normal(0, 12, (SCENE, SCENE, 1)).astype(np.float32)
        return np.clip(scene + cv2.GaussianBlur(grain, (0, 0), 1.2)[..., None] * 2, 5, 235)

    def _jpegs(self, measured: np.ndarray) -> dict[str, list[bytes]]:
        """What each camera sees: the front one a still scene with arms in it, those at the wrists move over it."""
        random = self.random
        light = random.uniform(0.4, 1.25) * np.array([random.uniform(0.93, 1.07), 1.0, random.uniform(0.93, 1.07)])
        grain, scene = random.uniform(1.5, 5), (self.scene * light).astype(np.float32)
        jpegs: dict[str, list[bytes]] = {camera.name: [] for camera in self.robot.cameras}
        side = {"left_wrist": 0, "right_wrist": 7}
        for pose in measured:
            for camera in self.robot.cameras:
                if camera.role == "external":
                    picture = scene[40 : 40 + HEIGHT, 120 : 120 + WIDTH].copy()
                    for arm in (0, 7):
                        x, y = 40 + arm * 10 + 25 * pose[arm], 60 + 20 * pose[arm + 1] / 2
                        cv2.circle(picture, (int(x), int(y)), 14, (35, 35, 38), -1)
                else:
                    joints = pose[side[camera.role] : side[camera.role] + 3]
                    y, x = (int(np.clip(v, 0, SCENE - WIDTH)) for v in (170 + 40 * joints[1], 120 + 50 * joints[0]))
                    picture = scene[min(y, SCENE - HEIGHT) :, x:][:HEIGHT, :WIDTH]
                dy, dx = random.integers(0, SCENE - WIDTH, 2)
                noisy = picture + grain * self.noise[dy : dy + HEIGHT, dx : dx + WIDTH]
                jpegs[camera.name].append(encode(np.clip(noisy, 0, 255).astype(np.uint8)))
        return jpegs


def encode(rgb: np.ndarray, quality: int = 95) -> bytes:
    """JPEG of an RGB picture."""
    return cv2.imencode(".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def decode(jpeg: bytes) -> np.ndarray:
    """RGB picture of a JPEG."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


# ---------------------------------------------------------------------------------------------------- faults
# One function a fault: it spoils a clean take in a way that is drawn from `random`.


def _camera(take: Take, random: np.random.Generator) -> str:
    return str(random.choice(list(take.jpegs)))


def _arm_joint(take: Take, random: np.random.Generator) -> int:
    return int(random.choice(np.flatnonzero(~take.robot.is_gripper)))


def _middle(take: Take, random: np.random.Generator) -> int:
    return int(random.integers(len(take.ticks) // 4, 3 * len(take.ticks) // 4))


def _redraw(take: Take, camera: str, steps, change: Callable[[np.ndarray], np.ndarray], quality: int = 95) -> None:
    for i in steps:
        take.jpegs[camera][i] = encode(change(decode(take.jpegs[camera][i])), quality)


def too_short(take: Take, random) -> None:
    take.keep(np.arange(int(random.integers(30, 120))))


def wrong_rate(take: Take, random) -> None:
    factor = 25 / random.choice([12.0, 20.0, 23.5, 30.0])
    first = take.ticks[0]
    for name, stamps in take.stamps.items():
        take.stamps[name] = (stamps - take.ticks + first + (take.ticks - first) * factor).astype(np.int64)
    take.ticks = (first + (take.ticks - first) * factor).astype(np.int64)


def lost_steps(take: Take, random) -> None:
    at, length = _middle(take, random), int(random.integers(1, 20))
    take.keep(np.delete(np.arange(len(take.ticks)), np.arange(at, at + length)))


def stamps_back(take: Take, random) -> None:
    source = str(random.choice(list(take.stamps)))
    at = _middle(take, random)
    take.stamps[source][at] = take.stamps[source][at - 1] - int(random.integers(1, 30) * 1e6)


def slow_joints(take: Take, random) -> None:
    source = str(random.choice([name for name in take.stamps if name.startswith("measured/")]))
    every = int(random.integers(2, 4))
    nexts = -(-np.arange(len(take.ticks)) // every) * every
    take.stamps[source] = take.stamps[source][np.minimum(nexts, len(take.ticks) - 1)]


def late_camera(take: Take, random) -> None:
    take.stamps[f"camera/{_camera(take, random)}"] += int(random.uniform(60, 200) * 1e6)


def early_source(take: Take, random) -> None:
    take.stamps[str(random.choice(list(take.stamps)))] -= int(random.uniform(60, 200) * 1e6)


def not_a_number(take: Take, random) -> None:
    values = take.measured if random.random() < 0.5 else take.action
    values[_middle(take, random), _arm_joint(take, random)] = random.choice([np.nan, np.inf])


def no_velocity_now_and_then(take: Take, random) -> None:
    at = _middle(take, random)
    take.velocity[at : at + int(random.integers(8, 30))] = np.nan


def raw_grippers(take: Take, random) -> None:
    values, scale = (take.measured, 4.7908) if random.random() < 0.5 else (take.action, 11.8997)
    values[:, take.robot.is_gripper] *= scale


def metre_grippers(take: Take, random) -> None:
    for values in (take.measured, take.action):
        values[:, take.robot.is_gripper] = np.maximum(values[:, take.robot.is_gripper], 0) * 0.08 / 4.79
        values += random.normal(0, 1e-5, values.shape)


def out_of_limits(take: Take, random) -> None:
    joint, at = _arm_joint(take, random), _middle(take, random)
    bump = np.exp(-(((np.arange(len(take.ticks)) - at) / 12) ** 2))
    excess = take.robot.joints[joint].upper + random.uniform(0.12, 0.5) - take.measured[at, joint]
    bump = np.minimum(bump, 1) * excess
    take.measured[:, joint] += bump
    take.action[:, joint] += bump


def sudden_step(take: Take, random) -> None:
    values = take.measured if random.random() < 0.5 else take.action
    values[_middle(take, random) :, _arm_joint(take, random)] -= np.sign(random.normal()) * random.uniform(0.4, 1.0)


def spike(take: Take, random) -> None:
    values = take.measured if random.random() < 0.5 else take.action
    values[_middle(take, random), _arm_joint(take, random)] += np.sign(random.normal()) * random.uniform(0.2, 1.0)


def offset_leader(take: Take, random) -> None:
    take.action[:, _arm_joint(take, random)] += np.sign(random.normal()) * random.uniform(0.25, 0.5)


def standing(take: Take, random) -> None:
    for values in (take.measured, take.action):
        values[:] = values[0] + random.normal(0, 0.001, values.shape)


def no_instruction(take: Take, random) -> None:
    take.instruction = str(random.choice(["", "  "]))


def camera_unplugged(take: Take, random) -> None:
    camera = _camera(take, random)
    del take.jpegs[camera], take.stamps[f"camera/{camera}"]


def torn_picture(take: Take, random) -> None:
    camera, at = _camera(take, random), _middle(take, random)
    jpeg = take.jpegs[camera][at]
    whole = random.random() < 0.5
    take.jpegs[camera][at] = (
        jpeg[: int(len(jpeg) * random.uniform(0.1, 0.9))] if whole else b"\xff\xd8no picture\xff\xd9"
    )


def frozen_camera(take: Take, random) -> None:
    camera, at = _camera(take, random), _middle(take, random)
    for i in range(at, min(len(take.ticks), at + int(random.uniform(0.7, 3) * 25))):
        take.jpegs[camera][i] = take.jpegs[camera][at]


def slow_camera(take: Take, random) -> None:
    camera, every = _camera(take, random), int(random.integers(2, 4))
    take.jpegs[camera] = [take.jpegs[camera][i // every * every] for i in range(len(take.ticks))]


def one_camera_twice(take: Take, random) -> None:
    one, other = random.choice(list(take.jpegs), 2, replace=False)
    take.jpegs[str(one)] = list(take.jpegs[str(other)])


def lens_covered(take: Take, random) -> None:
    dim = random.uniform(0, 0.04)
    _redraw(
        take, _camera(take, random), range(_middle(take, random), len(take.ticks)), lambda p: (p * dim).astype(np.uint8)
    )


def blackout(take: Take, random) -> None:
    at = _middle(take, random)
    _redraw(take, _camera(take, random), range(at, at + int(random.integers(1, 9))), np.zeros_like)


def overexposed(take: Take, random) -> None:
    steps = range(_middle(take, random), len(take.ticks))
    _redraw(take, _camera(take, random), steps, lambda p: np.clip(p * 3.0 + 190, 0, 255).astype(np.uint8))


def other_size(take: Take, random) -> None:
    steps = range(_middle(take, random), len(take.ticks))
    _redraw(take, _camera(take, random), steps, lambda p: p[: HEIGHT // 2, : WIDTH // 2])


def pictures_made_smaller(take: Take, random) -> None:
    take.attributes["pictures_reencoded"] = np.int64(random.integers(1, 99))


def swapped_camera(take: Take, random) -> None:
    _redraw(take, _camera(take, random), range(len(take.ticks)), lambda p: p[:, :, ::-1])


def swapped_episode(take: Take, random) -> None:
    for camera in take.jpegs:
        _redraw(take, camera, range(len(take.ticks)), lambda p: p[:, :, ::-1])


def says_bgr(take: Take, random) -> None:
    take.attributes["colour_order"] = "bgr"


def other_robot(take: Take, random) -> None:
    take.text = take.text.replace("name: agilex", "name: agilex_of_the_other_lab")
    take.robot = parse_robot(yaml.safe_load(take.text), "robot.yaml")


def other_quality(take: Take, random) -> None:
    quality = int(random.integers(40, 80))
    for camera in take.jpegs:
        _redraw(take, camera, range(len(take.ticks)), lambda p: p, quality)


def interrupted(take: Take, random) -> None:
    take.finished = False


def wrong_counts(take: Take, random) -> None:
    take.attributes["steps_lost"] = np.int64(random.integers(1, 50))


FAULTS: dict[Callable[[Take, np.random.Generator], None], str] = {  # fault -> the kind that must name it
    too_short: "too_short",
    wrong_rate: "rate",
    lost_steps: "gaps",
    stamps_back: "stamps",
    slow_joints: "repeated_samples",
    late_camera: "skew",
    early_source: "skew",
    not_a_number: "nan",
    no_velocity_now_and_then: "missing_values",
    raw_grippers: "gripper_units",
    metre_grippers: "gripper_units",
    out_of_limits: "limits",
    sudden_step: "jump",
    spike: "jump",
    offset_leader: "leader_offset",
    standing: "motionless",
    no_instruction: "no_instruction",
    camera_unplugged: "missing_camera",
    torn_picture: "bad_picture",
    frozen_camera: "frozen",
    slow_camera: "duplicates",
    one_camera_twice: "same_camera_twice",
    lens_covered: "dark",
    blackout: "dark",
    overexposed: "overexposed",
    other_size: "picture_size",
    pictures_made_smaller: "reencoded",
    swapped_camera: "colours",
    swapped_episode: "colours",
    says_bgr: "colour_order",
    other_robot: "mixed",
    other_quality: "mixed",
    interrupted: "interrupted",
    wrong_counts: "counts",
}


@pytest.fixture
def lab() -> Lab:
    """That of `clean`."""
    return Lab(SEED)


@pytest.fixture
def new_lab() -> Callable[[int], Lab]:
    return Lab


@pytest.fixture(scope="session")
def clean() -> Take:
    """Not to be changed: spoil a copy."""
    return Lab(SEED).take(5.6)


@pytest.fixture(scope="session")
def faults() -> dict[Callable, str]:
    return FAULTS


@pytest.fixture
def judged(tmp_path) -> Callable[[Take], Verdict]:
    """Writes a take and checks it alone, in this process."""

    def check(take: Take, **task) -> Verdict:
        path = take.write(tmp_path / f"episode_{len(list(tmp_path.iterdir())):04d}.hdf5")
        return check_episode(Task(path, task.pop("thresholds", Thresholds()), **task))

    return check
