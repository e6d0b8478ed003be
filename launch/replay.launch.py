"""Replay an episode or a rosbag2 as the robot's topics."""

from rdt_ros.launching import describe


def generate_launch_description():
    """Called by `ros2 launch rdt_ros replay.launch.py`."""
    return describe("replay")
