"""The robot, or with sim:=true the simulated one, driven by a policy."""

from rdt_ros.launching import describe


def generate_launch_description():
    """Called by `ros2 launch rdt_ros agilex_inference.launch.py`."""
    return describe("inference")
