from __future__ import annotations

import copy
import json

import pytest

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES, ModelConfig, config_from_json, config_to_json, model_size

PUBLISHED_1B = json.loads("""{
    "action_dim": 128, "pred_horizon": 64,
    "lang_token_dim": 4096, "img_token_dim": 1152, "state_token_dim": 128,
    "max_lang_cond_len": 1024, "img_cond_len": 4374,
    "lang_pos_embed_config": [["lang", -1024]],
    "img_pos_embed_config": [["image", [2, 3, -729]]],
    "lang_adaptor": "mlp2x_gelu", "img_adaptor": "mlp2x_gelu", "state_adaptor": "mlp3x_gelu",
    "rdt": {"hidden_size": 2048, "depth": 28, "num_heads": 32, "cond_pos_embed_type": "multimodal"},
    "noise_scheduler": {"type": "ddpm", "num_train_timesteps": 1000, "num_inference_timesteps": 5,
        "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "clip_sample": false},
    "ema": {"update_after_step": 0, "inv_gamma": 1.0, "power": 0.75, "min_value": 0.0, "max_value": 0.9999}
}""")


def test_the_published_file_gives_the_1b_sizes():
    config = config_from_json(PUBLISHED_1B, "config.json")

    assert config == MODEL_SIZES["rdt-1b"]
    assert config.img_cond_len == 4374
    assert config.norm == "variance"


@pytest.mark.parametrize(
    "config",
    [*MODEL_SIZES.values(), ModelConfig(64, 2, 4, img_history=1, lang_adaptor_depth=1, norm="mean_square")],
    ids=[*MODEL_SIZES, "changed"],
)
def test_what_is_written_reads_back_the_same(config: ModelConfig):
    stored = json.loads(json.dumps(config_to_json(config)))

    assert config_from_json(stored, "config.json") == config


def test_the_reference_finds_every_key_of_its_own_file_in_ours():
    written = config_to_json(MODEL_SIZES["rdt-1b"])

    assert {key: written.get(key) for key in PUBLISHED_1B if key != "ema"} == {
        key: value for key, value in PUBLISHED_1B.items() if key != "ema"
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rdt",), None, "config.json.rdt: expected a mapping, found None"),
        (("rdt", "depth"), "28", "config.json.rdt.depth: expected a whole number of at least 1, found '28'"),
        (("rdt", "hidden_size"), 2050, "config.json: model hidden_size: expected a multiple of 4 and of num_heads 32"),
        (("rdt", "width"), 1, "config.json.rdt: unknown key 'width'"),
        (("img_cond_len",), 4375, "config.json.img_cond_len: expected 4374, found 4375"),
        (("state_token_dim",), 64, "config.json.state_token_dim: expected 128, found 64"),
        (("lang_pos_embed_config",), None, "config.json.lang_pos_embed_config: expected [['lang', -1024]], found None"),
        (("img_pos_embed_config",), [["image", [2, 3, 729]]], "config.json.img_pos_embed_config: expected [["),
        (("state_adaptor",), "mlp3x_relu", "config.json.state_adaptor: expected linear or mlp2x_gelu to"),
        (("norm",), "rms", "config.json.norm: expected one of variance, mean_square, found 'rms'"),
        (("noise_scheduler", "prediction_type"), "epsilon", "prediction_type: expected one of sample, found 'epsilon'"),
        (
            ("noise_scheduler", "num_inference_timesteps"),
            1000,
            "num_inference_timesteps: expected 1 to 999, found 1000",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(path: tuple[str, ...], value: object, message: str):
    data = copy.deepcopy(PUBLISHED_1B)
    section = data
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value

    with pytest.raises(InputError) as refusal:
        config_from_json(data, "config.json")

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_key_is_named():
    data = {key: value for key, value in PUBLISHED_1B.items() if key != "rdt"}

    with pytest.raises(InputError, match="config.json: missing key 'rdt'"):
        config_from_json(data, "config.json")


def test_an_unknown_size_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="expected one of rdt-1b, .* found 'rdt-1B', is 'rdt-1b' meant"):
        model_size("rdt-1B")
