"""AgileX's newer episodes: `data.hdf5` in a folder of its own, with the pictures as files beside it.

    arm/jointStatePosition, jointStateVelocity, jointStateEffort / puppetLeft, puppetRight, masterLeft, masterRight
                                             (N, 7)  rad and gripper in the robot's unit (Piper: m)
    camera/color/front, left, right          (N,) paths relative to the folder, or (N, H, W, 3) uint8 BGR
    robotBase/vel/<name>                     (N, 3)  vx, vy in m/s, yaw rate in rad/s
    instructions/full_instructions/text      (K,)    texts; "null" where there is none
    timestamp                                (N,)    s, earliest stamp of the row
    size                                     scalar N

Source: the vendor's data_tools and the reader in rdt-agilex. `master` of a row belongs to the same moment as `puppet`,
so the action of a robot whose offset is not 0 is that of a later row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path

import h5py
import numpy as np

from rdt_ros import jpeg
from rdt_ros.episodes import foreign, layout, units
from rdt_ros.episodes.content import Content, Track, untracked
from rdt_ros.episodes.datasets import ROBOT_FILE, dataset, naming, table, text
from rdt_ros.episodes.instructions import Instructions
from rdt_ros.errors import InputError
from rdt_ros.robot.description import JointGroup, Robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.types import NS_PER_S

FILE = "data.hdf5"
CAMERAS = {"external": "front", "left_wrist": "left", "right_wrist": "right"}  # role -> name
POSITION, VELOCITY, EFFORT = "arm/jointStatePosition", "arm/jointStateVelocity", "arm/jointStateEffort"
TEXTS, SEGMENTS = "instructions/full_instructions/text", "instructions/segment_instructions"
BASE, BASE_NAME = "robotBase/vel", "chassis"
TIMESTAMP, SIZE = "timestamp", "size"
NO_TEXT = "null"
LEFT_SLOTS = range(50, 100)
JPEG, PNG = b"\xff\xd8", b"\x89PNG"


def recognises(file: h5py.File) -> bool:
    """Whether a file has this layout."""
    return POSITION in file


def read(file: h5py.File, robot: Robot, colour_order: str | None) -> Content:
    """The content of such a file. `colour_order` as in `foreign.read`; None: "bgr" for arrays, "rgb" for files.

    JPEG files are passed on byte for byte, other pictures are encoded once.
    """
    measured = units.to_project(robot, "measured", _joints(file, POSITION, "puppet", robot), f"{POSITION}/puppet*")
    leader = units.to_project(robot, "leader", _joints(file, POSITION, "master", robot), f"{POSITION}/master*")
    steps = len(measured)
    if len(leader) != steps:
        raise InputError(f"{POSITION}/master*: expected {steps} steps as in puppet*, found {len(leader)}")
    ticks = _ticks(file, steps)
    vectors = {"measured": measured, "leader": leader}
    if VELOCITY in file:
        vectors["velocity"] = units.velocity_to_project(robot, _joints(file, VELOCITY, "puppet", robot, steps))
    if EFFORT in file:
        vectors["effort"] = _joints(file, EFFORT, "puppet", robot, steps).astype(np.float32)
    if robot.base is not None and (base := _base(file)) is not None:
        vectors["base"] = table(file, base, layout.BASE_WIDTH, steps).astype(np.float32)
    sources = [f"{role}/{group.name}" for role in ("measured", "leader") for group in robot.groups]
    stamps = dict.fromkeys([*sources, *(["base/odometry"] if "base" in vectors else [])], ticks)
    pictures: dict[str, Callable[[int], bytes]] = {}
    for camera in robot.cameras:
        path = f"camera/color/{CAMERAS[camera.role]}"
        if path in file:
            found = dataset(file, path)
            if not found.shape or len(found) != steps:
                raise InputError(f"{path}: expected {steps} pictures, found shape {found.shape}")
            pictures[camera.name], stamps[f"camera/{camera.name}"] = _pictures(found, path, ticks, colour_order)
    instruction, *others = _instructions(file) or [""]
    content = Content(
        robot=robot,
        robot_text="",
        instruction=instruction,
        ticks=ticks,
        action=leader,
        vectors=vectors,
        pictures=pictures,
        stamps=stamps,
        other_instructions=tuple(others),
    )
    offset = robot.action_offset_steps
    return dataclasses.replace(content.rows(0, max(0, steps - offset)), action=leader[offset:])


def write(folder: Path, content: Content, instructions: Instructions, track: Track = untracked) -> None:
    """Makes the folder; `content` is in the robot whose units are to be written, with an action offset of 0.

    JPEG bytes are passed on as they are.
    """
    robot, count = content.robot, len(content.ticks)
    folder.mkdir(parents=True)
    with h5py.File(folder / FILE, "w") as file:
        file.attrs[ROBOT_FILE] = content.robot_text
        _write_joints(file, POSITION, "puppet", robot, units.to_robot(robot, "measured", content.vectors["measured"]))
        _write_joints(file, POSITION, "master", robot, units.to_robot(robot, "leader", content.action))
        if "velocity" in content.vectors:
            values = units.velocity_to_robot(robot, content.vectors["velocity"])
            _write_joints(file, VELOCITY, "puppet", robot, values)
        if "effort" in content.vectors:
            _write_joints(file, EFFORT, "puppet", robot, content.vectors["effort"].astype(float))
        if "base" in content.vectors:
            file[f"{BASE}/{BASE_NAME}"] = content.vectors["base"].astype(float)
        texts = [instructions.original, *instructions.simplified, *instructions.expanded]
        strings = h5py.string_dtype()
        file.create_dataset(TEXTS, data=[text for text in texts if text] or [NO_TEXT], dtype=strings)
        for name in ("start_time", "end_time"):  # the vendor's reader wants them, also where there are none
            file[f"{SEGMENTS}/{name}"] = np.zeros(0)
        file[TIMESTAMP], file[SIZE] = content.ticks / NS_PER_S, count
        names = {camera.name: CAMERAS[camera.role] for camera in robot.cameras}
        files: dict[str, list[str]] = {camera: [] for camera in content.pictures}
        for camera in content.pictures:
            (folder / "camera" / "color" / names[camera]).mkdir(parents=True)
        for step in track(range(count), count):
            for camera, picture in content.pictures.items():
                stamps = content.stamps.get(f"camera/{camera}", content.ticks)
                seconds, ns = divmod(int(stamps[step]), NS_PER_S)
                files[camera].append(f"camera/color/{names[camera]}/{seconds}.{ns:09d}.jpg")
                (folder / files[camera][-1]).write_bytes(picture(step))
        for camera, written in files.items():
            file.create_dataset(f"camera/color/{names[camera]}", data=written, dtype=strings)


def _side(group: JointGroup) -> str:
    return "Left" if SLOTS[group.joints[0].slot] in LEFT_SLOTS else "Right"


def _joints(file: h5py.File, path: str, role: str, robot: Robot, steps: int | None = None) -> np.ndarray:
    """(N, J) in the file's units."""
    parts = []
    for group in robot.groups:
        parts.append(table(file, f"{path}/{role}{_side(group)}", len(group.joints), steps))
        steps = len(parts[0])
    return np.concatenate(parts, axis=1)


def _write_joints(file: h5py.File, path: str, role: str, robot: Robot, values: np.ndarray) -> None:
    for group in robot.groups:
        file[f"{path}/{role}{_side(group)}"] = values[:, group.columns]


def _ticks(file: h5py.File, steps: int) -> np.ndarray:
    found = dataset(file, TIMESTAMP)
    if found.shape != (steps,):
        raise InputError(f"{TIMESTAMP}: expected shape ({steps},), found {found.shape}")
    with naming(TIMESTAMP):
        seconds = np.asarray(found, float)
    if not (np.isfinite(seconds) & (np.abs(seconds) < np.iinfo(np.int64).max / NS_PER_S)).all():
        raise InputError(f"{TIMESTAMP}: expected seconds, found {seconds.min()} to {seconds.max()}")
    return np.round(seconds * NS_PER_S).astype(np.int64)


def _base(file: h5py.File) -> str | None:
    """The first base's data set."""
    with naming(BASE):
        return next((f"{BASE}/{name}" for name in file[BASE]), None) if BASE in file else None


def _pictures(
    found: h5py.Dataset, path: str, ticks: np.ndarray, colour_order: str | None
) -> tuple[Callable[[int], bytes], np.ndarray]:
    """How to get a frame as JPEG in true colours, and the stamps of all."""
    if found.ndim == 4 and found.shape[3] == 3 and found.dtype == np.uint8:
        return foreign.raw_frames(found, colour_order or "bgr"), ticks
    if found.ndim != 1 or found.dtype.kind not in "SO":
        raise InputError(f"{path}: expected paths or (N, H, W, 3) uint8, found {found.dtype} {found.shape}")
    with naming(path):
        names = [value.decode() for value in found[()]]
    folder = Path(found.file.filename).parent
    stamps = np.array([_stamp_ns(name, int(tick)) for name, tick in zip(names, ticks, strict=True)], np.int64)
    return lambda step: _picture(folder, names[step], f"{path}[{step}]", colour_order), stamps


def _stamp_ns(name: str, tick_ns: int) -> int:
    """Capture time from the name of a picture's file, STAMP.jpg; the row's where the name says none."""
    try:
        stamp_ns = int(Decimal(Path(name).stem) * NS_PER_S)
    except (InvalidOperation, ValueError, OverflowError):
        return tick_ns
    return stamp_ns if 0 < stamp_ns <= np.iinfo(np.int64).max else tick_ns


def _picture(folder: Path, name: str, where: str, colour_order: str | None) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: expected a picture below the episode's folder, found {name}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: {name}: {error.strerror}") from None
    if data.startswith(JPEG) and colour_order != "bgr":
        return data
    if not data.startswith((JPEG, PNG)):
        raise InputError(f"{where}: {name}: expected a JPEG or PNG picture, found {data[:4]!r}")
    with naming(where):
        pixels = jpeg.decode(data, name)
        return jpeg.encode_bgr(pixels) if colour_order == "bgr" else jpeg.encode(pixels)


def _instructions(file: h5py.File) -> list[str]:
    """What the episode says of its task. `instruction` of older files is the path of a pickle, which is not read."""
    if TEXTS not in file:
        own = text(file, "instruction")
        return [] if own.endswith(".npy") or own in ("", NO_TEXT) else [own]
    with naming(TEXTS):
        values = np.atleast_1d(dataset(file, TEXTS)[()])
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    return [value for value in texts if value.strip() and value != NO_TEXT]
