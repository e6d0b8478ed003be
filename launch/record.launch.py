"""Record teleoperation as HDF5 episodes."""

from rdt_ros.launching import describe


def generate_launch_description():
    """Called by `ros2 launch rdt_ros record.launch.py`."""
    return describe("record")
