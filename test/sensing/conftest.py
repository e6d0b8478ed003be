from __future__ import annotations

import pytest

from rdt_ros.robot.description import Robot, load_robot


@pytest.fixture(scope="session")
def robot() -> Robot:
    """Three cameras, two arms, 25 Hz."""
    return load_robot("sim_aloha")
