"""Whatever a file holds, it is tensors or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.torch_file import load_torch_file


def outcome(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    try:
        load_torch_file(path, "checkpoint")
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return "refused"
    return "read"


@pytest.mark.parametrize(
    "content", [b"", b"root:x:0:0:root:/root:/bin/bash\n", b"PK\x03\x04", b"\x80\x02", b"{}", b"q\x00."]
)
def test_files_of_another_kind_are_refused_in_one_line(content: bytes, tmp_path: Path):
    assert outcome(tmp_path / "file.pt", content) == "refused"


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_read_or_refused_and_never_a_traceback(zipped: bool, tmp_path: Path):
    torch.save({"a": torch.arange(40.0), "b": [1, "x"]}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.pt").read_bytes()
    random, outcomes = np.random.default_rng(3), set()
    for _ in range(300):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 6)):
            damaged[at] = random.integers(256)
        outcomes.add(outcome(tmp_path / "damaged.pt", bytes(damaged[: random.integers(1, len(whole) + 1)])))
        outcomes.add(outcome(tmp_path / "damaged.pt", bytes(damaged)))
    assert "refused" in outcomes
