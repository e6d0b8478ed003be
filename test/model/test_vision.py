from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, SO400M
from rdt_ros.model.vision import VISION_SIZES, SiglipEncoder, random_encoder

IMAGES = torch.linspace(-1, 1, 2 * 3 * 96 * 96).reshape(2, 3, 96, 96)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole SigLIP, text tower included, saved as the published one is."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": 8, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    SiglipModel(SiglipConfig(text_config=text | tokens, vision_config=VISION_SIZES["tiny"])).save_pretrained(tmp_path)
    return tmp_path


def test_so400m_has_the_published_size():
    with torch.device("meta"):
        whole = SiglipVisionModel(SiglipVisionConfig(**VISION_SIZES[SO400M]))
        encoder = SiglipEncoder.random(SO400M)

    assert sum(parameter.numel() for parameter in whole.parameters()) == 428_225_600
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


def test_a_saved_siglip_gives_the_same_tokens(folder: Path):
    expected = SiglipModel.from_pretrained(folder).vision_model(IMAGES).last_hidden_state

    encoder = SiglipEncoder.load(str(folder))

    assert torch.equal(encoder.tokens(IMAGES), expected)
    assert not any(parameter.requires_grad for parameter in encoder.tower.parameters())


def test_tokens_follow_the_type_of_the_weights():
    encoder = SiglipEncoder.random("tiny").to(torch.device("cpu"), torch.bfloat16)

    assert encoder.tokens(IMAGES).dtype == torch.bfloat16


def test_a_folder_that_is_not_there_gives_one_line(tmp_path: Path):
    check_refused(tmp_path / "absent", "expected a folder with config.json and weights, or a Hub id")


def test_a_folder_without_weights_gives_one_line(folder: Path):
    (folder / "model.safetensors").unlink()

    check_refused(folder, "expected a folder with config.json and weights")


def test_a_cut_file_gives_one_line(folder: Path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    check_refused(folder, "expected a folder with config.json and weights")


def test_weights_that_lack_an_entry_are_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    check_refused(folder, "1 weights missing, first post_layernorm.weight")


def check_refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        SiglipEncoder.load(str(folder))
    assert message in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
