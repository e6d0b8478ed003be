"""Thin ROS 2 shells over the objects of the other rooms; the only code that imports rclpy."""

try:
    import rdt_msgs  # noqa: F401
except ImportError as error:
    raise ImportError(
        "rdt_msgs is not built: in a workspace run `ln -s rdt_ros/msg src/rdt_msgs`, then `colcon build`; "
        "in the repository itself run `colcon build`; then `source install/setup.bash`"
    ) from error
