"""The house rules of docs/architecture.md: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rdt_ros

PACKAGE = Path(rdt_ros.__file__).parent
# A room imports only from rooms above it in this list, and from itself.
ROOMS = [
    "errors", "types", "share", "jpeg", "options", "robot", "sensing", "control", "episodes", "sim", "model", "policy",
    "training", "evaluation", "compat",
    "bringup", "launching", "supervisor", "nodes", "demo", "demo_data", "bench", "encode",
    "checkpoint_command", "stats_command", "finetune_command", "eval_nodes", "eval_command", "record_command",
    "check_command", "convert_command", "episodes_command", "cli",
]  # fmt: skip
WITHOUT_TORCH = ("robot", "sensing", "control", "episodes", "sim", "errors", "types", "share", "jpeg", "options")
# The policy node and the commands import what they may not need inside functions; that is still one way.
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str:
    return module.split(".")[1]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = room(path)
    if own == "__init__":
        return
    assert own in ROOMS, f"{own} is in no list: add it to ROOMS and to docs/architecture.md"
    for module in imports(path):
        if module.startswith("rdt_ros.") and room_of(module) in ROOMS:
            assert ROOMS.index(room_of(module)) <= ROOMS.index(own), f"{own} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_nodes_import_rclpy_and_the_robot_side_imports_no_torch(path):
    roots = {module.split(".")[0] for module in imports(path)}
    if room(path) != "nodes":
        assert "rclpy" not in roots
    if room(path) in WITHOUT_TORCH:
        assert not roots & {"torch", "transformers", "diffusers", "rclpy"}


def test_the_rooms_are_those_of_the_architecture_page():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name.strip().strip("`") for cell in table for name in cell.split(",")}
    assert named == set(ROOMS)
