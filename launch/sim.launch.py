"""The simulated robot alone."""

from rdt_ros.launching import describe


def generate_launch_description():
    """Called by `ros2 launch rdt_ros sim.launch.py`."""
    return describe("sim")
