"""Starts one node by its name: `python -m rdt_ros.nodes camera_sync --ros-args ...`."""

import importlib
import sys

if __name__ == "__main__":
    name = sys.argv.pop(1)
    importlib.import_module(f"rdt_ros.nodes.{name}").main()
