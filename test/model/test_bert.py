from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rdt_ros import encode
from rdt_ros.errors import InputError
from rdt_ros.model.bert import BertEncoder, bert_width
from rdt_ros.model.instruction import language_for
from rdt_ros.model.store import InstructionStore

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lift", "the", "cube"]
WIDTH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bert") / "small-bert"
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    torch.manual_seed(1)
    BertModel(config).save_pretrained(path)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(path)
    return str(path)


def test_tokens_are_the_last_hidden_states(folder: str):
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[2, 4, 5, 6, 3]])).last_hidden_state[0]
    encoder = BertEncoder.load(folder)
    assert torch.equal(encoder.tokens("lift  the cube"), expected)
    assert (encoder.width, bert_width(folder), encoder.name) == (WIDTH, WIDTH, "small-bert")
    assert len(encoder.tokens("")) == 2  # a hidden instruction is its ends alone


def test_it_fills_a_store_that_a_policy_reads_and_adds_to(folder: str, tmp_path: Path):
    import argparse

    parser = argparse.ArgumentParser()
    encode.add_parser(parser.add_subparsers())
    store = tmp_path / "instructions.safetensors"
    args = parser.parse_args(["encode", "lift the cube", "--encoder", folder, "--store", str(store)])
    assert args.run(args) == 0
    assert InstructionStore.open(store).texts == ("lift the cube",)
    language = language_for("lift", store=store, encoder=folder, width=WIDTH)
    assert torch.equal(language.tokens("lift"), BertEncoder.load(folder).tokens("lift"))


def test_bad_input_is_one_line(folder: str, tmp_path: Path):
    with pytest.raises(InputError, match="expected at most 8 tokens, found 12"):
        BertEncoder.load(folder).tokens("lift " * 10)
    with pytest.raises(InputError, match="expected a folder with config.json, the weights of a BERT"):
        BertEncoder.load(str(tmp_path))
    assert bert_width(str(tmp_path)) is None
