from __future__ import annotations

import pytest
import torch

from rdt_ros.model.config import MODEL_SIZES, ModelConfig
from rdt_ros.model.network import (
    CrossAttention,
    RdtNetwork,
    RmsNorm,
    picture_positions,
    sinusoid,
    token_positions,
)

SMALL = ModelConfig(
    hidden_size=64,
    depth=2,
    num_heads=4,
    horizon=4,
    action_dim=8,
    lang_token_dim=12,
    img_token_dim=10,
    max_lang_cond_len=6,
    img_patches=2,
)


@pytest.fixture
def network() -> RdtNetwork:
    """Small random weights, the last Linear not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RdtNetwork(SMALL)
        torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight)
    return network.requires_grad_(False)


def random_inputs(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"lang": (1, 5, 12), "img": (1, 12, 10), "state": (1, 1, 8), "noisy": (1, 4, 8)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def run(network: RdtNetwork, inputs: dict[str, torch.Tensor], lang_mask: torch.Tensor | None = None) -> torch.Tensor:
    mask = torch.ones(1, 5, dtype=torch.bool) if lang_mask is None else lang_mask
    conditions = network.encode_conditions(inputs["lang"], mask, inputs["img"], torch.ones(1, 1, 8), torch.tensor([25]))
    return network(conditions, inputs["state"], inputs["noisy"], torch.tensor([599]))


@pytest.mark.parametrize(
    ("size", "parameters", "entries"), [("rdt-1b", 1_228_319_872, 618), ("rdt-170m", 166_229_888, 324)]
)
def test_published_sizes_have_the_published_counts(size: str, parameters: int, entries: int):
    with torch.device("meta"):
        network = RdtNetwork(MODEL_SIZES[size])

    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


def test_names_and_shapes_are_those_of_the_published_weights():
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in RdtNetwork(MODEL_SIZES["rdt-1b"]).state_dict().items()}

    block = {
        "norm1.weight": (2048,),
        "attn.qkv.weight": (6144, 2048),
        "attn.qkv.bias": (6144,),
        "attn.q_norm.weight": (64,),
        "attn.k_norm.weight": (64,),
        "attn.proj.weight": (2048, 2048),
        "attn.proj.bias": (2048,),
        "cross_attn.q.weight": (2048, 2048),
        "cross_attn.q.bias": (2048,),
        "cross_attn.kv.weight": (4096, 2048),
        "cross_attn.kv.bias": (4096,),
        "cross_attn.q_norm.weight": (64,),
        "cross_attn.k_norm.weight": (64,),
        "cross_attn.proj.weight": (2048, 2048),
        "cross_attn.proj.bias": (2048,),
        "norm2.weight": (2048,),
        "ffn.fc1.weight": (2048, 2048),
        "ffn.fc1.bias": (2048,),
        "ffn.fc2.weight": (2048, 2048),
        "ffn.fc2.bias": (2048,),
        "norm3.weight": (2048,),
    }
    others = {
        "model.x_pos_embed": (1, 67, 2048),
        "model.lang_cond_pos_embed": (1, 1024, 2048),
        "model.img_cond_pos_embed": (1, 4374, 2048),
        "model.final_layer.norm_final.weight": (2048,),
        "model.final_layer.ffn_final.fc1.weight": (2048, 2048),
        "model.final_layer.ffn_final.fc1.bias": (2048,),
        "model.final_layer.ffn_final.fc2.weight": (128, 2048),
        "model.final_layer.ffn_final.fc2.bias": (128,),
    }
    linears = {f"model.{name}.mlp.{i}": w for name in ("t_embedder", "freq_embedder") for i, w in ((0, 256), (2, 2048))}
    linears |= {"lang_adaptor.0": 4096, "lang_adaptor.2": 2048, "img_adaptor.0": 1152, "img_adaptor.2": 2048}
    linears |= {"state_adaptor.0": 256, "state_adaptor.2": 2048, "state_adaptor.4": 2048}
    others |= {f"{name}.weight": (2048, width) for name, width in linears.items()}
    others |= {f"{name}.bias": (2048,) for name in linears}
    assert shapes == others | {f"model.blocks.{i}.{key}": shape for i in range(28) for key, shape in block.items()}


def test_norm_forms_on_numbers_done_by_hand():
    x = torch.tensor([1.0, 3.0])

    # The unbiased variance of 1 and 3 is 2, their mean square is 5; x itself is not centred.
    assert RmsNorm(2, "variance")(x).tolist() == pytest.approx([1 / 2**0.5, 3 / 2**0.5], abs=1e-6)
    assert RmsNorm(2, "mean_square")(x).tolist() == pytest.approx([1 / 5**0.5, 3 / 5**0.5], abs=1e-6)


def test_an_untrained_network_answers_zero():
    assert torch.equal(run(RdtNetwork(SMALL), random_inputs()), torch.zeros(1, 4, 8))


def test_masked_language_has_no_influence(network: RdtNetwork):
    inputs = random_inputs()
    mask = torch.tensor([[True, True, True, False, False]])
    other = {**inputs, "lang": inputs["lang"].index_fill(1, torch.tensor([3, 4]), 7.0)}

    assert torch.equal(run(network, inputs, mask), run(network, other, mask))
    assert not torch.equal(run(network, inputs), run(network, other))


def test_even_blocks_see_language_and_odd_ones_pictures(network: RdtNetwork):
    seen: list[torch.Tensor] = []
    for i in range(2):
        block = network.get_submodule(f"model.blocks.{i}.cross_attn")
        block.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    inputs = random_inputs()
    run(network, inputs)

    lang, img = seen
    assert lang.shape == (1, 5, 64)
    assert img.shape == (1, 12, 64)


def test_keys_and_values_taken_once_give_the_same_attention():
    attention = CrossAttention(SMALL)
    x, condition, mask = torch.randn(1, 7, 64), torch.randn(1, 5, 64), torch.tensor([[True, True, True, True, False]])

    keys, values = attention.keys_values(condition)

    assert keys.shape == values.shape == (1, 4, 5, 16)
    assert torch.equal(attention.attend(x, keys, values, mask), attention(x, condition, mask))


def test_a_batch_gives_what_its_rows_give_alone(network: RdtNetwork):
    one, two = random_inputs(1), random_inputs(2)
    conditions = network.encode_conditions(
        torch.cat([one["lang"], two["lang"]]),
        torch.ones(2, 5, dtype=torch.bool),
        torch.cat([one["img"], two["img"]]),
        torch.ones(2, 1, 8),
        torch.tensor([25, 25]),
    )
    states, noisy = (torch.cat([one[key], two[key]]) for key in ("state", "noisy"))

    together = network(conditions, states, noisy, torch.tensor([599, 599]))

    assert together == pytest.approx(torch.cat([run(network, one), run(network, two)]), abs=1e-5)


def test_bf16_actions_leave_in_float32_between_the_points_of_bf16(network: RdtNetwork):
    actions = run(network.to(torch.bfloat16), random_inputs())

    assert actions.dtype == torch.float32
    assert not torch.equal(actions, actions.bfloat16().float())


def test_sinusoid_is_sines_then_cosines():
    # Width 4 has the frequencies 1 and 1/100.
    assert sinusoid(4, torch.tensor([2])).tolist()[0] == pytest.approx(
        [0.909297426826, 0.019998666693, -0.416146836547, 0.999800006667], abs=1e-11
    )


def test_token_positions_are_those_of_the_reference():
    table = token_positions(SMALL)

    assert table.shape == (7, 64)
    assert table.sum().item() == pytest.approx(225.716465, abs=1e-5)
    assert table.square().sum().item() == pytest.approx(224, abs=1e-9)
    assert table[2, :3].tolist() == pytest.approx([0.909297, 0.902131, 0.591127], abs=1e-6)
    assert torch.equal(table[3:, :32], table[3, :32].expand(4, 32))  # all actions are of one kind


def test_picture_positions_are_those_of_the_reference():
    table = picture_positions(SMALL).unflatten(0, (2, 3, 2))

    assert table.sum().item() == pytest.approx(401.785413, abs=1e-5)
    assert torch.equal(table[:, :, 0], table[:, :, 1])  # patches
    assert torch.equal(table[1, 0, 0, :32], sinusoid(32, torch.tensor([1]))[0])  # the moment
    assert torch.equal(table[0, 2, 0, 32:], sinusoid(32, torch.tensor([2]))[0])  # the camera


@pytest.mark.parametrize(
    ("moments", "cameras", "positions"), [(1, 3, [0, 0, 1, 1, 2, 2]), (2, 1, [0, 0, 1, 1]), (1, 1, [0, 0])]
)
def test_an_axis_of_one_leaves_the_width_to_the_other(moments: int, cameras: int, positions: list[int]):
    config = ModelConfig(64, 1, 4, img_history=moments, img_cameras=cameras, img_patches=2)

    assert torch.equal(picture_positions(config), sinusoid(64, torch.tensor(positions)))


def test_every_language_token_starts_with_one_position():
    table = RdtNetwork(SMALL).model.lang_cond_pos_embed

    assert torch.equal(table, torch.cat([torch.zeros(32), torch.ones(32)]).expand(1, 6, 64))
