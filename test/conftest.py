"""One process runs all tests, those that draw and those that use torch."""

import contextlib
import os

from rdt_ros.bringup import environment

# Before torch is imported, and for the nodes' processes too: tiny networks are several times faster on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Importing triton after a software MuJoCo render crashes the process, and torch imports it late: so it comes first.
with contextlib.suppress(ImportError):
    import torch._dynamo  # noqa: F401

# As the product runs: its DDS profile is read once a process, and without it pictures get lost.
os.environ.update(environment())
