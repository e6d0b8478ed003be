from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, ModelConfig
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.weights import check_entries, load_network, open_weights, sizes_of

SMALL = ModelConfig(
    hidden_size=16,
    depth=2,
    num_heads=4,
    horizon=3,
    action_dim=8,
    lang_token_dim=12,
    img_token_dim=10,
    max_lang_cond_len=6,
    img_patches=2,
    lang_adaptor_depth=1,
    state_adaptor_depth=4,
)
FILE = Path("weights.pt")


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RdtNetwork(SMALL).state_dict()


@pytest.mark.parametrize("config", [*MODEL_SIZES.values(), SMALL], ids=[*MODEL_SIZES, "small"])
def test_shapes_tell_the_sizes(config: ModelConfig):
    with torch.device("meta"):
        sizes = sizes_of(RdtNetwork(config).state_dict())

    assert sizes.pop("img_cond_len") == config.img_cond_len
    assert sizes == {field: getattr(config, field) for field in sizes}
    assert set(sizes) == {
        *("hidden_size", "depth", "num_heads", "horizon", "action_dim", "lang_token_dim", "img_token_dim"),
        *("max_lang_cond_len", "lang_adaptor_depth", "img_adaptor_depth", "state_adaptor_depth"),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
def test_a_loaded_network_has_the_weights_of_the_file(name: str, dtype: torch.dtype, weights, tmp_path: Path):
    path = tmp_path / name
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)

    opened, deepspeed = open_weights(path)
    network = load_network(SMALL, opened, "cpu", dtype)

    assert not deepspeed
    assert network.dtype == dtype
    assert all(torch.equal(tensor, weights[key].to(dtype)) for key, tensor in network.state_dict().items())
    assert not any(parameter.is_meta for parameter in network.parameters())


def test_weights_of_a_loaded_network_can_be_changed_without_changing_the_file(weights, tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save(weights, path)
    before = path.read_bytes()

    network = load_network(SMALL, open_weights(path)[0], "cpu", torch.float32)
    with torch.no_grad():
        network.model.x_pos_embed.zero_()

    assert path.read_bytes() == before
    assert network.model.x_pos_embed.requires_grad


def test_deepspeeds_own_state_is_left_aside(weights, tmp_path: Path):
    path = tmp_path / "mp_rank_00_model_states.pt"
    state = {"buffer_names": [], "optimizer": None, "sparse_tensor_module_names": set(), "ds_version": "0.14.2"}
    torch.save({"module": weights, "param_shapes": [{"a": torch.Size([2])}], **state}, path)

    opened, deepspeed = open_weights(path)

    assert deepspeed
    assert list(opened) == list(weights)


def test_files_of_old_torch_are_read(weights, tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=False)

    assert all(torch.equal(tensor, weights[key]) for key, tensor in open_weights(path)[0].items())


def refused(weights: dict[str, torch.Tensor]) -> str:
    with pytest.raises(InputError) as refusal:
        check_entries(FILE, SMALL, weights)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_renamed_entry_is_named_twice(weights):
    weights["model.blocks.1.norm3.scale"] = weights.pop("model.blocks.1.norm3.weight")

    assert refused(weights) == (
        "checkpoint weights.pt: expected 72 entries of an RDT, found 1 missing (model.blocks.1.norm3.weight), "
        "1 unexpected (model.blocks.1.norm3.scale)"
    )


def test_another_shape_is_stated(weights):
    weights["model.blocks.0.ffn.fc1.bias"] = torch.zeros(15)

    assert "found 1 of another shape (model.blocks.0.ffn.fc1.bias (15,) instead of (16,))" in refused(weights)


def test_of_many_faults_ten_are_named(weights):
    prefixed = {f"module.{key}": tensor for key, tensor in weights.items()}

    message = refused(prefixed)

    assert "found 72 missing (model.x_pos_embed, " in message
    assert "72 unexpected (module.model.x_pos_embed, " in message
    assert message.count("module.") == 10
    assert message.count(", ...") == 2


def test_whole_numbers_are_no_weights(weights):
    weights["model.blocks.0.ffn.fc1.bias"] = torch.zeros(16, dtype=torch.int64)

    assert "found 1 without fractions (model.blocks.0.ffn.fc1.bias)" in refused(weights)


class Intruder:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_a_pickle_that_runs_code_is_refused_by_name(write, tmp_path: Path):
    path, trace = tmp_path / "a.pt", tmp_path / "ran"
    write({"module": Intruder(f"touch {trace}")}, path)

    with pytest.raises(InputError, match=r"expected tensors only, found a pickle that asks for (posix|nt|os)\.system"):
        open_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("kept", [0, 2, 100, -20])
def test_absent_and_cut_files_give_one_line(name: str, kept: int, weights, tmp_path: Path):
    path = tmp_path / name
    with pytest.raises(InputError, match="No such file"):
        open_weights(path)

    save_file(weights, path) if name == "a.safetensors" else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(
        InputError, match="expected a (torch|safetensors) file, found something else or a part of it"
    ) as it:
        open_weights(path)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([1, 2], "expected a dict of tensors, found list"),
        ({}, "expected a dict of tensors, found dict"),
        ({"module": {}}, "expected a dict of tensors, found dict"),
        ({"epoch": 3}, "expected a tensor as 'epoch', found int"),
        (torch.zeros(2), "expected a dict of tensors, found Tensor"),
    ],
)
def test_other_content_is_refused(stored: object, message: str, tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save(stored, path)

    with pytest.raises(InputError, match=message):
        open_weights(path)
