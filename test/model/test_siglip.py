"""SigLIP's tower gives the tokens of transformers' on the same weights, and reads every form of its files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from rdt_ros.errors import InputError
from rdt_ros.model.config import SO400M
from rdt_ros.model.siglip import PREFIX, SIZES, SiglipTower

IMAGES = torch.linspace(-1, 1, 2 * 3 * 96 * 96).reshape(2, 3, 96, 96)
TINY = dataclasses.asdict(SIZES["tiny"])
WEIGHTS, TORCH_WEIGHTS = "model.safetensors", "pytorch_model.bin"


def published() -> SiglipModel:
    """A whole SigLIP of transformers with random weights, none of them 0 or 1."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": 8, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text | tokens, vision_config=TINY)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> SiglipModel:
    return published()


@pytest.fixture
def folder(model: SiglipModel, tmp_path: Path) -> Path:
    """The whole model as it is published."""
    model.save_pretrained(tmp_path)
    assert any(name.startswith(PREFIX) for name in load_file(tmp_path / WEIGHTS))
    return tmp_path


@pytest.fixture(scope="module")
def expected(model: SiglipModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.vision_model(IMAGES).last_hidden_state


def tokens(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return SiglipTower.load(str(folder))(IMAGES)


def test_a_whole_siglip_gives_the_tokens_of_transformers(folder: Path, expected: torch.Tensor):
    assert torch.equal(tokens(folder), expected)


def test_names_without_the_prefix_are_known(folder: Path, expected: torch.Tensor):
    weights = load_file(folder / WEIGHTS)
    save_file({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}, folder / WEIGHTS)

    assert torch.equal(tokens(folder), expected)


def test_a_vision_tower_alone_gives_the_same(model: SiglipModel, expected: torch.Tensor, tmp_path: Path):
    SiglipVisionModel(SiglipVisionConfig(**TINY)).save_pretrained(tmp_path)
    theirs = SiglipVisionModel.from_pretrained(tmp_path)
    theirs.load_state_dict({k.removeprefix(PREFIX): v for k, v in model.vision_model.state_dict().items()})
    theirs.save_pretrained(tmp_path)

    assert torch.equal(tokens(tmp_path), expected)


def test_several_files_are_read_by_their_index(model: SiglipModel, expected: torch.Tensor, tmp_path: Path):
    model.save_pretrained(tmp_path, max_shard_size="50kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1

    assert torch.equal(tokens(tmp_path), expected)


def test_a_torch_file_is_read(folder: Path, expected: torch.Tensor):
    torch.save(load_file(folder / WEIGHTS), folder / TORCH_WEIGHTS)
    (folder / WEIGHTS).unlink()

    assert torch.equal(tokens(folder), expected)


def test_a_layer_of_so400m_is_that_of_transformers(tmp_path: Path):
    config = dataclasses.replace(SIZES[SO400M], num_hidden_layers=1, image_size=48)  # 3 * 14 + 6
    torch.manual_seed(0)
    tower = SiglipTower(config).eval()
    tower.save(tmp_path)
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    with torch.inference_mode():
        theirs = SiglipVisionModel.from_pretrained(tmp_path)(images).last_hidden_state
        error = tower(images) - theirs

    assert theirs.shape == (2, 9, 1152)
    assert error.norm() <= 1e-6 * theirs.norm()


def test_what_is_saved_is_read_by_transformers_and_by_us(expected: torch.Tensor, folder: Path, tmp_path: Path):
    tower = SiglipTower.load(str(folder))
    tower.save(tmp_path / "saved")
    theirs, report = SiglipVisionModel.from_pretrained(tmp_path / "saved", output_loading_info=True)

    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.inference_mode():
        assert torch.equal(theirs(IMAGES).last_hidden_state, expected)
    again = SiglipTower.load(str(tmp_path / "saved"))
    assert again.config == tower.config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in tower.state_dict().items())
    assert all(name.startswith(PREFIX) for name in load_file(tmp_path / "saved" / WEIGHTS))


def test_entries_have_the_order_of_transformers():
    """Files of kept tokens are named after them."""
    with torch.device("meta"):
        theirs = SiglipVisionModel(SiglipVisionConfig(**TINY, vision_use_head=False)).state_dict()
        ours = SiglipTower(SIZES["tiny"]).state_dict()

    assert list(ours) == [name.removeprefix(PREFIX) for name in theirs]


def test_the_type_of_the_file_is_kept(folder: Path, tmp_path: Path):
    SiglipTower.load(str(folder)).bfloat16().save(tmp_path / "half")

    assert SiglipTower.load(str(tmp_path / "half")).dtype == torch.bfloat16


def test_what_a_published_config_leaves_out_is_the_default_of_transformers(folder: Path):
    theirs = SiglipVisionConfig()
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": {"hidden_size": 96}}))

    assert all(value == getattr(theirs, name) for name, value in dataclasses.asdict(type(SIZES["tiny"])()).items())
    check_refused(folder, "embeddings.position_embedding.weight (16, 32) instead of (196, 96)")


def test_new_weights_keep_the_size_of_what_they_are_given():
    torch.manual_seed(0)
    tower = SiglipTower(dataclasses.replace(SIZES["tiny"], hidden_size=256, intermediate_size=512)).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        patches, found = tower.embeddings.patch_embedding(images), tower(images)

    assert patches.std() == pytest.approx(1, rel=0.1)
    assert tower.embeddings.position_embedding.weight.detach().std() == pytest.approx(1 / 16, rel=0.1)
    assert (found[0] - found[1]).std() > 0.5


def test_a_folder_that_is_not_there_gives_one_line(tmp_path: Path):
    check_refused(tmp_path / "absent", "expected a folder with config.json and weights, or a Hub id")


def test_a_repository_that_cannot_be_reached_gives_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    check_refused(Path("some-one/some-siglip"), "or a Hub id that is cached or can be reached")


@pytest.mark.parametrize("file", [WEIGHTS, TORCH_WEIGHTS])
def test_a_hub_id_is_fetched_without_a_second_weight_file(
    file: str, folder: Path, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    if file == TORCH_WEIGHTS:
        torch.save(load_file(folder / WEIGHTS), folder / TORCH_WEIGHTS)
        (folder / WEIGHTS).unlink()
    asked: list[str] = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        assert repository == "some-one/some-siglip"
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    assert torch.equal(tokens(Path("some-one/some-siglip")), expected)
    assert (TORCH_WEIGHTS in asked) == (file == TORCH_WEIGHTS)


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_folder_that_lacks_a_file_gives_one_line(file: str, folder: Path):
    (folder / file).unlink()

    check_refused(folder, "expected a folder with config.json and weights")


@pytest.mark.parametrize("content", ["{", "[]", '{"vision_config": 1}', '{"hidden_size": "many"}'])
def test_a_damaged_config_gives_one_line(content: str, folder: Path):
    (folder / "config.json").write_text(content)

    check_refused(folder, "config.json")


def test_a_damaged_index_gives_one_line(folder: Path):
    (folder / WEIGHTS).unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": ["a"]}')
    check_refused(folder, "weight_map: expected a mapping")

    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    check_refused(folder, "model-1.safetensors: ")


def test_a_cut_file_gives_one_line(folder: Path):
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])

    check_refused(folder, "expected a safetensors file, found something else or a part of it")


def test_entries_that_do_not_fit_are_refused(folder: Path):
    weights = load_file(folder / WEIGHTS)
    weights["vision_model.encoder.layers.2.mlp.fc1.bias"] = weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    check_refused(folder, "1 missing (post_layernorm.weight), 1 unexpected (encoder.layers.2.mlp.fc1.bias)")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "quick_gelu", "hidden_act: expected one of gelu_pytorch_tanh, found 'quick_gelu'"),
        ("num_attention_heads", 5, "num_attention_heads: expected a divisor of hidden_size 32, found 5"),
        ("hidden_size", 0, "hidden_size: expected a whole number of at least 1, found 0"),
        ("intermediate_size", 65, "encoder.layers.0.mlp.fc1.weight (64, 32) instead of (65, 32)"),
    ],
)
def test_another_architecture_is_refused(key: str, value: object, message: str, folder: Path):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config))

    check_refused(folder, message)


def check_refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        SiglipTower.load(str(folder))
    assert message in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
