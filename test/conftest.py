"""One process runs all tests, those that draw and those that use torch."""

import contextlib

# Importing triton after a software MuJoCo render crashes the process, and torch imports it late: so it comes first.
with contextlib.suppress(ImportError):
    import torch._dynamo  # noqa: F401
