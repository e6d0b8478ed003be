"""From samples of cameras and arms to Observations on the control grid; no ROS in here."""
