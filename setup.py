"""The ROS 2 package rdt_ros; `setup.cfg` says where `ros2 run` finds its nodes."""

from glob import glob

from setuptools import find_packages, setup

NODES = ("camera_sync", "policy", "executor", "recorder", "replay", "sim", "teleop")

setup(
    name="rdt_ros",
    version="0.1.0",
    packages=find_packages(include=["rdt_ros", "rdt_ros.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/rdt_ros"]),
        ("share/rdt_ros", ["package.xml"]),
        ("share/rdt_ros/launch", glob("launch/*.launch.py")),
        ("share/rdt_ros/config", glob("config/*.*")),
        ("share/rdt_ros/config/robots", glob("config/robots/*.yaml")),
        ("share/rdt_ros/config/finetune", glob("config/finetune/*.yaml")),
        *((f"share/rdt_ros/{folder}", glob(f"{folder}/*.*")) for folder in glob("config/checkpoints/*")),
        ("bin", ["resource/rdt"]),
    ],
    python_requires=">=3.10",
    zip_safe=False,
    maintainer="rdt_ros developers",
    maintainer_email="rdt_ros@users.noreply.github.com",
    description="Deploys the Robotics Diffusion Transformer on two-armed robots",
    license="MIT",
    entry_points={"console_scripts": [f"{node} = rdt_ros.nodes.{node}:main" for node in NODES]},
)
