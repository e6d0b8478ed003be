"""The one description of which nodes run with which parameters; the launch files and `rdt up` both read it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError
from rdt_ros.robot.description import load_robot, shipped_robots
from rdt_ros.share import checkpoint_path, share_dir

SIM_NAMESPACE = "sim"
SIM_DOMAIN_ID = "77"  # far from the default 0, so that a simulated arm never hears a real one's commands
FAST_DDS_2 = ("humble", "jazzy")  # distributions whose DDS reads its profile from the older variable
POLICIES = ("rdt", "scripted", "replay", "hold")


@dataclass(frozen=True)
class Argument:
    """One `key:=value` of a deployment; `default` None means that it must be given."""

    name: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class NodeSpec:
    """One node: the module `rdt_ros.nodes.<name>`, run as a process of its own with these parameters."""

    name: str
    parameters: Mapping[str, Any]
    required: bool = True


@dataclass(frozen=True)
class Plan:
    """All that a launcher needs to start a deployment."""

    nodes: tuple[NodeSpec, ...]
    namespace: str
    environment: Mapping[str, str]
    parameter_files: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())  # lines for the person who started it


_ROBOT = Argument(
    "robot",
    "",
    "robot file: a shipped name or a YAML path; empty: the checkpoint's or the episode's own, else agilex or sim_aloha",
)
_COMMON = (
    Argument("namespace", "", "ROS namespace of all nodes and topics; empty: none, or `sim` with a simulated source"),
    Argument("domain", "", "ROS_DOMAIN_ID; empty: the environment's, or 77 with a simulated source"),
    Argument("params", "", "ROS parameter file that overrides config/nodes.yaml"),
)
_SIM = (
    Argument("sim", "false", "true: the simulated robot takes the robot's place"),
    Argument("seed", "0", "decides the simulated scene, and the policy's noise"),
    Argument("task", "hand_over", "what is to be done in the simulated scene, and judged: hand_over or lift"),
    Argument("max_yaw", "0", "the simulated cube is turned by up to this to either side, in rad"),
    Argument("viewer", "false", "true: show the simulation in a window"),
    Argument("lockstep", "false", "true: the simulator waits for the commands (tests and evaluation)"),
)
_POLICY = (
    Argument(
        "checkpoint",
        "",
        "for policy:=rdt: file, folder, Hub id, sim_cube (shipped), or random:SIZE (tiny, small, rdt-170m, rdt-1b)",
    ),
    Argument("instruction", "", "what the robot shall do: words, or a file of their embeddings"),
    Argument("instructions", "", "language embeddings of rdt encode, or older files; empty: the checkpoint's own"),
    Argument("encoder", "", "folder or Hub id of a T5 or BERT, for words without embeddings; empty: they are refused"),
    Argument("vision", "", "folder or Hub id of the vision encoder; empty: the checkpoint's, from the Hub"),
    Argument("device", "auto", "where the policy computes: auto, cpu or cuda"),
    Argument("episode", "", "for policy:=replay: the recorded episode to repeat"),
)

ARGUMENTS: dict[str, tuple[Argument, ...]] = {
    "inference": (
        Argument("policy", "rdt", "rdt, scripted (simulation only), replay or hold"),
        *_POLICY,
        _ROBOT,
        Argument("enable", "false", "true: the arms may move at once; false: after `rdt enable`"),
        Argument("joining", "crossfade", "how chunks take over: switch, crossfade or realtime_chunking"),
        Argument("replan", "period", "when the next chunk is computed: eager, needed or period (docs/joining.md)"),
        Argument("require_deadman", "false", "true: move only while true messages come on /deadman (first runs)"),
        Argument("dry_run", "false", "true: everything but sending commands"),
        Argument("record", "", "folder for episodes; empty: nothing is recorded"),
        *_SIM,
        *_COMMON,
    ),
    "record": (
        Argument("output", None, "folder for the episodes"),
        Argument("instruction", "", "what is being done: words, several of them as a | b, or a .txt list"),
        Argument("target", "0", "episodes wanted of each instruction; 0: no target"),
        Argument("max_seconds", "600", "an episode ends by itself after this time, in s"),
        _ROBOT,
        Argument(
            "autostart",
            "false",
            "true: record at once; false: after recorder/start. With sim:=true the scripted expert begins with it",
        ),
        *_SIM,
        *_COMMON,
    ),
    "replay": (
        Argument("source", None, "an HDF5 episode, or a rosbag2 (folder, .mcap or .db3)"),
        Argument("policy", "", "policy to run on the replayed observations: rdt or hold; empty: none"),
        *_POLICY[:-1],
        _ROBOT,
        Argument("rate", "1.0", "speed of the replay relative to the recording"),
        Argument("seed", "0", "decides the policy's noise"),
        Argument("lockstep", "false", "true: each observation waits for the policy's answer"),
        *_COMMON,
    ),
    "sim": (
        _ROBOT,
        Argument("teleop", "false", "true: the scripted expert moves the leader arms"),
        *_SIM[1:],
        *_COMMON,
    ),
}


def values(deployment: str, given: Mapping[str, str]) -> dict[str, str]:
    """The arguments of a deployment with their defaults; InputError for a wrong or missing one."""
    if deployment not in ARGUMENTS:
        raise InputError(f"expected one of {', '.join(ARGUMENTS)}, found {deployment!r}")
    known = {argument.name: argument.default for argument in ARGUMENTS[deployment]}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", is {near[0]} meant?" if near else ""
            raise InputError(f"{deployment}: unknown argument {name}{hint}")
    result = {name: given.get(name, default) for name, default in known.items()}
    for name, value in result.items():
        if value is None:
            raise InputError(f"{deployment}: missing argument {name}:=...")
    return {name: str(value) for name, value in result.items()}


def plan(deployment: str, given: Mapping[str, str]) -> Plan:
    """Which nodes run, with which parameters, for these arguments; InputError where they make no sense."""
    args = _Arguments(deployment, values(deployment, given))
    simulated = deployment in ("sim", "replay") or args.flag("sim")
    robot = args["robot"] or _default_robot(deployment, args)
    load_robot(robot)  # a wrong file is refused before anything starts
    nodes = {"inference": _inference, "record": _record, "replay": _replay, "sim": _sim}[deployment](args, robot)
    namespace = args["namespace"] or (SIM_NAMESPACE if simulated else "")
    domain = args["domain"] or (SIM_DOMAIN_ID if simulated else "")
    files = [str(share_dir() / "config" / "nodes.yaml")]
    if args["params"]:
        if not Path(args["params"]).is_file():
            raise InputError(f"params: no such file: {args['params']}")
        files.append(args["params"])
    where = (f" --domain {domain}" if domain else "") + (f" --namespace {namespace}" if namespace else "")
    notes = []
    if deployment == "inference" and not args.flag("enable"):
        notes.append(f"the arms do not move until you type: rdt enable{where}")
    if deployment == "record":
        notes.append(f"operate it from another terminal: rdt record{where}")
    return Plan(nodes, namespace, environment(domain), tuple(files), tuple(notes))


def environment(domain: str = "") -> dict[str, str]:
    """Environment of every process: DDS profile that loses no pictures, discovery on this host unless opened."""
    distribution = os.environ.get("ROS_DISTRO", "")
    if distribution == "humble":  # knows only this older switch
        switch, local = "ROS_LOCALHOST_ONLY", "1"
    else:
        switch, local = "ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"
    chosen = os.environ.get(switch, local)
    variable = "FASTRTPS_DEFAULT_PROFILES_FILE" if distribution in FAST_DDS_2 else "FASTDDS_DEFAULT_PROFILES_FILE"
    profiles = [str(share_dir() / "config" / name) for name in ("fastdds.xml", "fastdds_local.xml")]
    profile = os.environ.get(variable, "")
    if profile in ("", *profiles):  # one of ours may be inherited from a process with another range
        profile = profiles[chosen == local]
    result = {switch: chosen, variable: profile, "PYTHONUNBUFFERED": "1"}
    if domain:
        result["ROS_DOMAIN_ID"] = domain
    return result


class _Arguments:
    """Typed access to the arguments of one deployment."""

    def __init__(self, deployment: str, given: Mapping[str, str]) -> None:
        self._deployment, self._given = deployment, given

    def __getitem__(self, name: str) -> str:
        return self._given.get(name, "")

    def flag(self, name: str) -> bool:
        text = self._given.get(name, "false").lower()
        if text not in ("true", "false"):
            raise InputError(f"{self._deployment}: {name}: expected true or false, found {text!r}")
        return text == "true"

    def number(self, name: str, kind: type) -> Any:
        try:
            return kind(self._given[name])
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise InputError(f"{self._deployment}: {name}: expected {what}, found {self._given[name]!r}") from None


def _default_robot(deployment: str, args: _Arguments) -> str:
    own = checkpoint_path(args["checkpoint"]) / "robot.yaml"
    if args["checkpoint"] and own.is_file():
        # Of the robot that the network was trained on: its present file where there is one, whose limits may be newer.
        name = load_robot(own).name
        return name if name in shipped_robots() else str(own)
    usual = "sim_aloha" if deployment == "sim" or args.flag("sim") else "agilex"
    path = args["source"] if deployment == "replay" else args["episode"] if args["policy"] == "replay" else ""
    if not path.endswith(".hdf5"):
        return usual
    with EpisodeReader(path, load_robot(usual) if deployment == "inference" else None) as episode:
        return episode.robot.name


def _sim_node(args: _Arguments, robot: str) -> NodeSpec:
    return NodeSpec(
        "sim",
        {
            "robot": robot,
            "task": args["task"],
            "seed": args.number("seed", int),
            "max_yaw": args.number("max_yaw", float),
            "lockstep": args.flag("lockstep"),
            "viewer": args.flag("viewer"),
        },
    )


def _policy_node(args: _Arguments, robot: str, clock: Mapping[str, Any]) -> NodeSpec:
    policy = args["policy"]
    if policy not in POLICIES:
        raise InputError(f"policy: expected one of {', '.join(POLICIES)}, found {policy!r}")
    if policy == "scripted" and not args.flag("sim"):
        raise InputError("policy: scripted knows only the simulated scene: give sim:=true")
    for name, owner in (("checkpoint", "rdt"), ("episode", "replay")):
        if policy == owner and not args[name]:
            raise InputError(f"policy: {owner} needs {name}:=...")
    return NodeSpec(
        "policy",
        {
            "robot": robot,
            "policy": policy,
            "checkpoint": args["checkpoint"],
            "episode": args["episode"],
            "instruction": args["instruction"],
            "instructions": args["instructions"],
            "encoder": args["encoder"],
            "vision": args["vision"],
            "device": args["device"] or "auto",
            "seed": args.number("seed", int),
            "replan": args["replan"] or "period",
            "realtime_chunking": args["joining"] == "realtime_chunking",
            "lockstep": args.flag("lockstep"),
            **clock,
        },
    )


def _sync_node(args: _Arguments, robot: str, *, leader: bool = False) -> NodeSpec:
    return NodeSpec("camera_sync", {"robot": robot, "leader": leader, "lockstep": args.flag("lockstep")})


def _inference(args: _Arguments, robot: str) -> tuple[NodeSpec, ...]:
    sim = args.flag("sim")
    clock = {"use_sim_time": sim}
    nodes = [
        _sync_node(args, robot),
        _policy_node(args, robot, clock),
        NodeSpec(
            "executor",
            {
                "robot": robot,
                "enable_at_start": args.flag("enable"),
                "lockstep": args.flag("lockstep"),
                "joining": args["joining"],
                "require_deadman": args.flag("require_deadman"),
                "dry_run": args.flag("dry_run"),
                **clock,
            },
        ),
    ]
    if args["record"]:
        nodes.append(
            NodeSpec("recorder", {"output": args["record"], "instruction": args["instruction"], "robot": robot})
        )
    return (_sim_node(args, robot), *nodes) if sim else tuple(nodes)


def _record(args: _Arguments, robot: str) -> tuple[NodeSpec, ...]:
    recorder = {
        "output": args["output"],
        "instruction": args["instruction"],
        "autostart": args.flag("autostart"),
        "target": args.number("target", int),
        "max_seconds": args.number("max_seconds", float),
    }
    nodes = (_sync_node(args, robot, leader=True), NodeSpec("recorder", {"robot": robot, **recorder}))
    if args.flag("sim"):
        return (
            _sim_node(args, robot),
            NodeSpec("teleop", {"robot": robot, "lockstep": args.flag("lockstep")}),  # begins when the recorder does
            *nodes,
        )
    return nodes


def _replay(args: _Arguments, robot: str) -> tuple[NodeSpec, ...]:
    source = {"source": args["source"], "rate": args.number("rate", float), "lockstep": args.flag("lockstep")}
    sync = {"reliable": True, "lockstep": args.flag("lockstep")}
    # an episode ends by itself, and with it the replay
    nodes = [NodeSpec("replay", {"robot": robot, **source}), NodeSpec("camera_sync", {"robot": robot, **sync})]
    if args["policy"]:
        nodes.append(_policy_node(args, robot, {"use_sim_time": True}))
    return tuple(nodes)


def _sim(args: _Arguments, robot: str) -> tuple[NodeSpec, ...]:
    nodes = (_sim_node(args, robot),)
    return (*nodes, NodeSpec("teleop", {"robot": robot, "autostart": True})) if args.flag("teleop") else nodes
