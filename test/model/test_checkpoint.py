from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint, save_for_reference
from rdt_ros.model.config import ModelConfig, config_to_json
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.store import InstructionStore
from rdt_ros.robot.description import load_robot
from rdt_ros.share import share_dir

CONFIG = ModelConfig(
    hidden_size=16,
    depth=2,
    num_heads=4,
    horizon=3,
    lang_token_dim=12,
    img_token_dim=10,
    max_lang_cond_len=6,
    img_patches=2,
)
ROBOT_TEXT = (share_dir() / "config" / "robots" / "sim_aloha.yaml").read_text()
STATISTICS = {"sim_aloha": {"dataset_name": "sim_aloha", "state_mean": [0.5] * 128}}
Weights = dict[str, torch.Tensor]


@pytest.fixture
def weights() -> Weights:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RdtNetwork(CONFIG).state_dict()


def store() -> InstructionStore:
    store = InstructionStore("tiny", CONFIG.lang_token_dim)
    store.add("pick", torch.ones(2, 12))
    return store


def base_yaml(config: ModelConfig = CONFIG) -> dict[str, Any]:
    """The reference's file for these sizes."""
    flat = config_to_json(config)
    model = {key: value for key, value in flat.items() if key.endswith("_adaptor") or key.endswith("_token_dim")}
    return {
        "common": {"img_history_size": 2, "action_chunk_size": 3, "num_cameras": 3, "state_dim": 128},
        "dataset": {"buf_path": "/path/to/buffer", "tokenizer_max_length": 6},
        "model": model | {"rdt": flat["rdt"], "noise_scheduler": flat["noise_scheduler"], "ema": {"power": 0.75}},
    }


def published(folder: Path, weights: Weights, file: str = "pytorch_model.bin", **changes: Any) -> Path:
    """A folder as on the Hub: no key of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {key: value for key, value in config_to_json(CONFIG).items() if key not in ("norm", "vision")} | changes
    (folder / "config.json").write_text(json.dumps(data))
    save_file(weights, folder / file) if file.endswith("safetensors") else torch.save(weights, folder / file)
    return folder


def deepspeed(folder: Path, weights: Weights) -> Path:
    """A folder as DeepSpeed writes it."""
    (folder / "pytorch_model").mkdir(parents=True)
    (folder / "latest").write_text("pytorch_model")
    torch.save({"module": weights, "ds_version": "0.14.2"}, folder / "pytorch_model" / "mp_rank_00_model_states.pt")
    return folder


def check_weights(checkpoint: Checkpoint, weights: Weights) -> None:
    loaded = checkpoint.network().state_dict()
    assert list(loaded) == list(weights)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in weights.items())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_of_the_hub(file: str, weights: Weights, tmp_path: Path):
    checkpoint = open_checkpoint(published(tmp_path / "rdt", weights, file))

    assert checkpoint.config == CONFIG
    assert (checkpoint.form, checkpoint.norm_recorded) == (f"folder with {file}", False)
    assert (checkpoint.robot, checkpoint.statistics, checkpoint.instructions) == (None, None, None)
    check_weights(checkpoint, weights)


@pytest.mark.parametrize("part", ["", "pytorch_model", "pytorch_model/mp_rank_00_model_states.pt"])
def test_a_deepspeed_folder_and_the_file_in_it(part: str, weights: Weights, tmp_path: Path):
    folder = deepspeed(tmp_path / "checkpoint-1000", weights)

    checkpoint = open_checkpoint(folder / part)

    assert checkpoint.config == CONFIG
    assert checkpoint.form.startswith("DeepSpeed")
    check_weights(checkpoint, weights)


def test_the_config_beside_deepspeeds_folder_is_heard(weights: Weights, tmp_path: Path):
    folder = deepspeed(tmp_path / "checkpoint-1000", weights)
    (folder / "config.json").write_text(json.dumps(config_to_json(dataclasses.replace(CONFIG, norm="mean_square"))))

    for path in (folder, folder / "pytorch_model" / "mp_rank_00_model_states.pt"):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.config.norm, checkpoint.norm_recorded) == ("mean_square", True)


@pytest.mark.parametrize("beside", [True, False])
def test_a_state_dict_with_the_references_config(beside: bool, weights: Weights, tmp_path: Path):
    torch.save(weights, tmp_path / "rdt.pt")
    stated = tmp_path / ("base.yaml" if beside else "mine.yaml")
    data = base_yaml()
    data["model"]["noise_scheduler"] |= {"num_inference_timesteps": 10}  # which no shape tells
    stated.write_text(yaml.safe_dump(data))

    checkpoint = open_checkpoint(tmp_path / "rdt.pt", None if beside else stated)

    assert checkpoint.config == dataclasses.replace(CONFIG, num_inference_timesteps=10)
    assert (checkpoint.form, checkpoint.norm_recorded) == ("state dict", False)
    check_weights(checkpoint, weights)


def test_a_state_dict_alone_tells_its_sizes(weights: Weights, tmp_path: Path):
    torch.save(weights, tmp_path / "rdt.pt")

    assert open_checkpoint(tmp_path / "rdt.pt").config == CONFIG


@pytest.mark.parametrize("norm", ["variance", "mean_square"])
def test_our_own_folder_keeps_all_that_belongs_to_it(norm: Any, weights: Weights, tmp_path: Path):
    config = dataclasses.replace(CONFIG, norm=norm, vision="tiny")
    save_checkpoint(
        tmp_path / "rdt", config, weights, robot_text=ROBOT_TEXT, statistics=STATISTICS, instructions=store()
    )

    checkpoint = open_checkpoint(tmp_path / "rdt")

    assert checkpoint.config == config
    assert checkpoint.norm_recorded
    assert checkpoint.robot == load_robot("sim_aloha")
    assert checkpoint.robot_text == ROBOT_TEXT
    assert checkpoint.statistics == STATISTICS
    assert checkpoint.instructions is not None
    assert InstructionStore.open(checkpoint.instructions).texts == ("pick",)
    check_weights(checkpoint, weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rdt"]


def test_the_form_for_the_reference_keeps_the_norm(weights: Weights, tmp_path: Path):
    config = dataclasses.replace(CONFIG, norm="mean_square")
    save_for_reference(tmp_path / "rdt", config, weights)

    checkpoint = open_checkpoint(tmp_path / "rdt")

    assert checkpoint.form == "folder with pytorch_model.bin"
    assert checkpoint.config == config
    assert checkpoint.norm_recorded
    check_weights(checkpoint, weights)


def test_a_folder_that_is_there_is_not_written_over(weights: Weights, tmp_path: Path):
    with pytest.raises(InputError, match="expected a new folder, found one that exists"):
        save_checkpoint(tmp_path, CONFIG, weights)


def test_a_folder_that_could_not_be_written_whole_is_not_there(weights: Weights, tmp_path: Path):
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "rdt", CONFIG, weights, statistics={"mean": object()})

    assert list(tmp_path.iterdir()) == []


def refused(path: str | Path, reference: Any = None) -> str:
    with pytest.raises(InputError) as refusal:
        open_checkpoint(path, reference)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rdt": None}, "config.json.rdt: expected a mapping, found None"),
        ({"norm": "rms"}, "config.json.norm: expected one of variance, mean_square, found 'rms'"),
        ({"pred_horizon": 64}, "config.json: horizon: expected 3 as in pytorch_model.bin, found 64"),
        ({"lang_token_dim": 13}, "config.json: lang_token_dim: expected 12 as in pytorch_model.bin, found 13"),
        ({"state_adaptor": "mlp2x_gelu"}, "state_adaptor_depth: expected 3 as in pytorch_model.bin, found 2"),
    ],
)
def test_a_config_that_is_wrong_or_of_other_sizes_is_refused(
    changes: dict[str, Any], message: str, weights: Weights, tmp_path: Path
):
    assert message in refused(published(tmp_path, weights, **changes))


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 32), ("depth", 3), ("num_heads", 2)])
def test_wrong_network_sizes_are_named(key: str, value: int, weights: Weights, tmp_path: Path):
    rdt = config_to_json(CONFIG)["rdt"]

    message = refused(published(tmp_path, weights, rdt=rdt | {key: value}))

    assert f"config.json: {key}: expected {rdt[key]} as in pytorch_model.bin, found {value}" in message


def test_a_config_without_rdt_is_refused(weights: Weights, tmp_path: Path):
    folder = published(tmp_path, weights)
    data = json.loads((folder / "config.json").read_text())
    del data["rdt"]
    (folder / "config.json").write_text(json.dumps(data))

    assert refused(folder) == f"{folder}/config.json: missing key 'rdt'"


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_config_that_is_no_mapping_is_refused(content: str, weights: Weights, tmp_path: Path):
    folder = published(tmp_path, weights)
    (folder / "config.json").write_text(content)

    assert "config.json: " in refused(folder)


def test_the_references_config_of_another_size_is_refused(weights: Weights, tmp_path: Path):
    torch.save(weights, tmp_path / "rdt.pt")
    data = base_yaml()
    data["model"]["rdt"] = data["model"]["rdt"] | {"hidden_size": 32}

    assert refused(tmp_path / "rdt.pt", data) == "base.yaml: hidden_size: expected 16 as in rdt.pt, found 32"
    del data["model"]["rdt"]
    assert refused(tmp_path / "rdt.pt", data) == "base.yaml: model: missing key 'rdt'"
    data = base_yaml()
    data["common"]["num_cameras"] = 5
    assert "base.yaml.common.num_cameras: expected a divisor of 12 picture tokens" in refused(tmp_path / "rdt.pt", data)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_renamed_key_is_named(file: str, weights: Weights, tmp_path: Path):
    weights["model.x_pos"] = weights.pop("model.x_pos_embed")

    message = refused(published(tmp_path, weights, file))

    assert "found 1 missing (model.x_pos_embed), 1 unexpected (model.x_pos)" in message


def test_without_a_config_an_entry_that_tells_a_size_is_asked_for(weights: Weights, tmp_path: Path):
    del weights["model.x_pos_embed"]
    torch.save(weights, tmp_path / "rdt.pt")

    assert refused(tmp_path / "rdt.pt").endswith("rdt.pt: missing entry model.x_pos_embed, which tells hidden_size")


def test_picture_tokens_that_six_pictures_do_not_give_need_a_config(weights: Weights, tmp_path: Path):
    weights["model.img_cond_pos_embed"] = torch.zeros(1, 4, 16)
    torch.save(weights, tmp_path / "rdt.pt")

    assert "expected picture tokens of 2 x 3 pictures, found 4: put the base.yaml" in refused(tmp_path / "rdt.pt")


def test_a_foreign_checkpoint_is_refused(tmp_path: Path):
    torch.save({"encoder.layer.0.weight": torch.zeros(2, 2)}, tmp_path / "bert.pt")

    assert "expected the weights of an RDT, found entries 'encoder.layer.0.weight'" in refused(tmp_path / "bert.pt")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_truncated_checkpoint_is_refused(file: str, weights: Weights, tmp_path: Path):
    folder = published(tmp_path, weights, file)
    path = folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    assert "file, found something else or a part of it" in refused(folder)


def test_a_deepspeed_folder_without_its_file_is_refused(weights: Weights, tmp_path: Path):
    folder = deepspeed(tmp_path / "checkpoint-1", weights)
    shutil.rmtree(folder / "pytorch_model")

    assert "mp_rank_00_model_states.pt: No such file" in refused(folder)


def test_a_folder_of_other_things_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").touch()

    assert "expected model.safetensors, pytorch_model.bin or DeepSpeed's latest, found notes.txt" in refused(tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "no such file or folder, and no Hub id" in refused(tmp_path / "absent")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert "expected a file, a folder, or a Hub id that is cached or can be reached" in refused("some-one/some-rdt")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_hub_id_is_fetched_without_a_second_weight_file(
    file: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub, cache = published(tmp_path / "hub", weights, file), tmp_path / "cache"
    cache.mkdir()
    asked: list[str] = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        for path in hub.iterdir():
            if path.name in allow_patterns:
                shutil.copy(path, cache)
        asked.extend(allow_patterns)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    check_weights(open_checkpoint("some-one/some-rdt"), weights)
    assert ("pytorch_model.bin" in asked) == (file == "pytorch_model.bin")


def test_the_robot_is_the_given_one_where_it_fits(weights: Weights, tmp_path: Path):
    save_checkpoint(tmp_path / "ours", CONFIG, weights, robot_text=ROBOT_TEXT)
    ours, bare = open_checkpoint(tmp_path / "ours"), open_checkpoint(published(tmp_path / "hub", weights))
    sim, agilex = load_robot("sim_aloha"), load_robot("agilex")

    assert ours.robot_for(None) == sim
    assert ours.robot_for(sim) is sim
    assert bare.robot_for(agilex) is agilex
    with pytest.raises(InputError, match="records no robot: say which robot it is for"):
        bare.robot_for(None)
    with pytest.raises(InputError, match="trained on a robot with name sim_aloha, given one with agilex"):
        ours.robot_for(agilex)
    with pytest.raises(InputError, match="trained on a robot with control_rate_hz 25.0, given one with 50"):
        ours.robot_for(dataclasses.replace(sim, control_rate_hz=50))


def test_another_norm_is_one_of_two(weights: Weights, tmp_path: Path):
    checkpoint = open_checkpoint(published(tmp_path, weights))

    assert checkpoint.with_norm("mean_square").config == dataclasses.replace(CONFIG, norm="mean_square")
    with pytest.raises(InputError, match="norm: expected one of variance, mean_square, found 'rms'"):
        checkpoint.with_norm("rms")


def test_a_shipped_checkpoint_is_opened_by_its_name():
    checkpoint = open_checkpoint("sim_cube")
    assert checkpoint.robot is not None and checkpoint.robot.name == "sim_aloha_small"
    assert checkpoint.vision is not None and checkpoint.instructions is not None
