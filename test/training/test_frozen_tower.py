"""The tower that compiled training takes gives the tokens of the plain one, for any number of pictures."""

from __future__ import annotations

import shutil

import pytest
import torch

from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.training.frozen_tower import FrozenTower

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    "device, compiled, tolerance",
    [
        ("cpu", False, 1e-5),
        pytest.param("cpu", True, 1e-5, marks=pytest.mark.slow),
        pytest.param("cuda", True, 1e-4, marks=no_gpu),
    ],
)
def test_tokens_are_those_of_the_plain_tower(monkeypatch, device, compiled, tolerance):
    if device == "cpu" and compiled and not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("torch.compile on the CPU needs a C++ compiler")
    if not compiled:
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    torch.manual_seed(0)
    plain = SiglipEncoder.random("tiny").to(torch.device(device), torch.float32)
    images = torch.rand(13, 3, plain.image_size, plain.image_size) * 2 - 1
    images = images.to(device)
    with torch.no_grad():
        expected = plain.tokens(images)
        tower = FrozenTower(plain)
        assert (tower.image_size, tower.patches, tower.width) == (plain.image_size, plain.patches, plain.width)
        for count in (13, 8, 3):
            error = tower.tokens(images[:count]) - expected[:count]
            assert error.norm() < tolerance * expected[:count].norm()
