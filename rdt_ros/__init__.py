"""Deploys the Robotics Diffusion Transformer on two-armed robots with ROS 2."""

__version__ = "0.1.0"
