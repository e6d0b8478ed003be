from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from rdt_ros.model.config import MODEL_SIZES, SO400M
from rdt_ros.model.fast.kernels import Kernels
from rdt_ros.model.fast.stage import FastOptions, Recorder
from rdt_ros.model.fast.tower import FastTower
from rdt_ros.model.vision import SiglipEncoder, random_encoder

CPU = torch.device("cpu")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 96 * 96).reshape(2, 3, 96, 96)
PUBLISHED = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


def test_so400m_has_the_published_size():
    with torch.device("meta"):
        whole = SiglipVisionModel(SiglipVisionConfig(**PUBLISHED))
        without_head = SiglipVisionModel(SiglipVisionConfig(**PUBLISHED, vision_use_head=False))
        encoder = SiglipEncoder.random(SO400M)

    assert sum(parameter.numel() for parameter in whole.parameters()) == 428_225_600
    assert {k: v.shape for k, v in encoder.tower.state_dict().items()} == {
        k: v.shape for k, v in without_head.state_dict().items()
    }
    assert (encoder.image_size, encoder.patches, encoder.width) == (384, 729, 1152)


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_every_model_size_fits_its_encoder(size: str):
    config = MODEL_SIZES[size]
    with torch.device("meta"):
        encoder = random_encoder(config.vision)

    assert (encoder.patches, encoder.width) == (config.img_patches, config.img_token_dim)


def test_tokens_are_normalised_last_and_differ_with_the_picture():
    tokens = SiglipEncoder.random("tiny").tokens(IMAGES)

    assert tokens.shape == (2, 16, 32)
    assert tokens.mean(-1).abs().max() < 1e-5
    assert (tokens.var(-1, unbiased=False) - 1).abs().max() < 1e-2
    assert not torch.equal(tokens[0], tokens[1])


def test_a_saved_tower_gives_the_same_tokens_and_is_frozen(tmp_path: Path):
    plain = SiglipEncoder.random("tiny")
    plain.tower.save(tmp_path)

    encoder = SiglipEncoder.load(str(tmp_path))

    assert torch.equal(encoder.tokens(IMAGES), plain.tokens(IMAGES))
    assert not any(parameter.requires_grad for parameter in encoder.tower.parameters())


def test_a_tower_whose_weights_a_fast_one_joined_is_saved_whole(tmp_path: Path):
    plain = SiglipEncoder.random("tiny")
    expected = plain.tokens(IMAGES)
    FastTower(plain, Kernels(Recorder(CPU, FastOptions(compiled=False))))

    plain.tower.save(tmp_path)

    assert torch.equal(SiglipEncoder.load(str(tmp_path)).tokens(IMAGES), expected)


def test_tokens_follow_the_type_of_the_weights():
    encoder = SiglipEncoder.random("tiny").to(CPU, torch.bfloat16)

    assert encoder.tokens(IMAGES).dtype == torch.bfloat16
