"""T5 encoders through transformers: whole on a device, quantised there, or streamed through it layer by layer."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, T5Config, T5EncoderModel

from rdt_ros.errors import InputError
from rdt_ros.model.language import normalised

GIB = 2**30
MAX_TOKENS = 1024  # of an instruction, its end token counted: what RDT has positions for
BATCH_TOKENS = MAX_TOKENS  # of one pass with its padding: no batch needs more memory than the longest instruction
CONTEXT_BYTES = int(0.6 * GIB)  # what CUDA and its libraries take on a GPU before the first tensor
HOST_SHARE = 0.9  # of the host's available memory that weights may fill
PRECISION_BITS = {"fp32": 32, "bf16": 16, "8bit": 8.1, "4bit": 4.3}  # of a weight, its scales included
# Left in bf16 by the quantised modes: its input overflows the fp16 in which 8-bit products are computed
# (https://github.com/huggingface/transformers/issues/20287), and T5 casts it to the type of the stored weight.
UNQUANTISED = "wo"


@dataclass(frozen=True)
class Mode:
    """How an encoder computes, and where its weights lie meanwhile."""

    precision: str  # fp32, bf16, 8bit or 4bit
    weights: str = "device"  # or host or disk, from where every layer comes when it is computed

    @property
    def quantised(self) -> bool:
        """Whether bitsandbytes computes it, which changes the numbers."""
        return self.precision in ("8bit", "4bit")

    @property
    def dtype(self) -> torch.dtype:
        """Of the tokens, and of the weights that are not quantised."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16


MODES = {
    "fp32": Mode("fp32"),
    "bf16": Mode("bf16"),
    "8bit": Mode("8bit"),
    "4bit": Mode("4bit"),
    "host": Mode("bf16", "host"),
    "disk": Mode("bf16", "disk"),
    "host-fp32": Mode("fp32", "host"),
    "disk-fp32": Mode("fp32", "disk"),
}
PREFERRED = ("bf16", "8bit", "4bit", "host", "disk")  # the first that fits; RDT was trained with bf16


class T5Encoder:
    """A LanguageEncoder of a T5 encoder and its tokenizer. `precision` says how it computes."""

    def __init__(self, model: T5EncoderModel, tokenizer: Any, name: str, mode: Mode, device: torch.device) -> None:
        self.name = name
        self.precision = mode.precision
        self.width: int = model.config.d_model
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device

    @classmethod
    def load(
        cls,
        path_or_id: str,
        mode: str = "bf16",
        *,
        device: str | torch.device = "cpu",
        offload: str | Path | None = None,
    ) -> T5Encoder:
        """Weights of a local folder or a Hub id, in one of MODES, computed on `device`.

        Mode `disk` reads safetensors where they are; of a `pytorch_model.bin` it writes a copy into `offload`.
        """
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
        chosen = MODES[mode]
        if chosen.quantised:
            _check_quantisation(mode, device)
        read_config(path_or_id)
        tokenizer = _load_tokenizer(path_or_id)
        return cls(_load_model(path_or_id, chosen, device, offload), tokenizer, model_name(path_or_id), chosen, device)

    def tokens(self, instruction: str) -> Tensor:
        """(L, width) on the CPU."""
        return self.encode([instruction])[0]

    @torch.inference_mode()
    def encode(self, instructions: Sequence[str]) -> list[Tensor]:
        """(L, width) on the CPU for each; many at once cost streamed weights one journey for about 1,000 tokens."""
        ids = [self._ids(text) for text in instructions]
        encoded: list[Tensor] = [torch.empty(0)] * len(ids)
        for batch in _batches([len(row) for row in ids]):
            padded = pad_sequence([ids[i] for i in batch], batch_first=True).to(self._device)
            lengths = torch.tensor([len(ids[i]) for i in batch], device=self._device)
            mask = torch.arange(padded.shape[1], device=self._device) < lengths[:, None]
            try:
                hidden = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state.cpu()
            except torch.OutOfMemoryError as error:
                raise _too_large(error) from None
            for i, row in zip(batch, hidden, strict=True):
                encoded[i] = row[: len(ids[i])].clone()
                if not encoded[i].isfinite().all():
                    raise InputError(f"language encoder {self.name}: found NaN or infinity for {instructions[i]!r}")
        return encoded

    def _ids(self, instruction: str) -> Tensor:
        """(L,), the end token last."""
        text = normalised(instruction)
        ids = self._tokenizer(text, verbose=False).input_ids
        if len(ids) > MAX_TOKENS:
            raise InputError(f"instruction {text[:40]!r}...: expected at most {MAX_TOKENS} tokens, found {len(ids)}")
        end, unknown = self._tokenizer.eos_token_id, self._tokenizer.unk_token_id
        if ids[-1] != end:
            raise InputError(f"tokenizer of {self.name}: expected the end token {end} last, found {ids[-1]}")
        # A folder without tokenizer files gives one that knows no word; T5-v1.1 knows no Chinese.
        if text and not set(ids) - {end, unknown, self._tokenizer.convert_tokens_to_ids("▁")}:
            raise InputError(f"instruction {text[:40]!r}: the tokenizer of {self.name} knows none of its words")
        return torch.tensor(ids)


def read_config(path_or_id: str) -> T5Config:
    """The sizes of a local folder's or a Hub id's encoder."""
    try:
        config = AutoConfig.from_pretrained(path_or_id)
    except (OSError, ValueError) as error:
        raise _unreadable(path_or_id, error) from None
    if not isinstance(config, T5Config):
        raise InputError(f"language encoder {path_or_id}: expected a T5, found a model of type {config.model_type!r}")
    return config


def model_name(path_or_id: str) -> str:
    """The name of the folder, or the Hub id without its owner, so that both copies of a model are called the same."""
    return Path(path_or_id).resolve().name if Path(path_or_id).exists() else path_or_id.rsplit("/", 1)[-1]


def device_bytes(config: T5Config, mode: str) -> int:
    """Estimate of what a mode takes on a GPU at most, with the longest instruction and what CUDA itself takes."""
    chosen = MODES[mode]
    number = chosen.dtype.itemsize
    # Four arrays of attention scores live at once, four of the wide layer and a few of the hidden state.
    scores = 4 * config.num_heads * MAX_TOKENS**2
    working = number * (scores + MAX_TOKENS * (4 * config.d_ff + 8 * config.d_model))
    if chosen.weights == "device":
        weights = weight_bytes(config, chosen.precision)
    else:  # the embedding, and one Linear beside its fp32 original
        embedding = number * config.vocab_size * config.d_model
        weights = embedding + (number + 4) * config.d_model * max(config.d_ff, config.num_heads * config.d_kv)
    return weights + working + CONTEXT_BYTES


def weight_bytes(config: T5Config, precision: str) -> int:
    """Of the encoder's weights in a precision."""
    with torch.device("meta"):
        model = T5EncoderModel(config)
    total = sum(weight.numel() for weight in model.parameters())
    quantised = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith(f".{UNQUANTISED}")
    )
    bits = PRECISION_BITS[precision]
    return int((quantised * bits + (total - quantised) * max(bits, 16)) / 8)


def choose_mode(config: T5Config, device: torch.device, vram_gib: float | None = None) -> str:
    """The first of PREFERRED that fits into `vram_gib` of the GPU, by default what is free of it, and into the host."""
    import psutil

    host_bytes = int(psutil.virtual_memory().available * HOST_SHARE)
    if device.type != "cuda":
        if vram_gib is not None:
            raise InputError(f"--vram: expected a GPU, found device {device.type}")
        return "bf16" if weight_bytes(config, "bf16") <= host_bytes else "disk"
    vram_bytes = int(vram_gib * GIB) if vram_gib is not None else torch.cuda.mem_get_info(device)[0]
    return fitting_mode(config, vram_bytes, host_bytes, quantised=importlib.util.find_spec("bitsandbytes") is not None)


def fitting_mode(config: T5Config, vram_bytes: int, host_bytes: int, *, quantised: bool) -> str:
    """The first of PREFERRED that fits; `quantised` says whether bitsandbytes is there."""
    for name in PREFERRED:
        mode = MODES[name]
        absent = mode.quantised and not quantised
        too_large = mode.weights == "host" and weight_bytes(config, mode.precision) > host_bytes
        if not absent and not too_large and device_bytes(config, name) <= vram_bytes:
            return name
    least = device_bytes(config, PREFERRED[-1])
    raise InputError(f"GPU memory: expected at least {least / GIB:.1f} GiB, found {vram_bytes / GIB:.1f}")


def limit_memory(vram_gib: float) -> None:
    """Makes torch refuse to take more of the current GPU in this process, CUDA's own share counted."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    left = vram_gib * GIB - CONTEXT_BYTES
    if left <= 0:
        raise InputError(f"GPU memory: expected more than {CONTEXT_BYTES / GIB:.1f} GiB, found {vram_gib:g}")
    torch.cuda.set_per_process_memory_fraction(min(left / total, 1.0))


class _Encoder(T5EncoderModel):
    """Loads from a whole T5 without a report of the parts that are left behind."""

    _keys_to_ignore_on_load_unexpected = [r"decoder", r"lm_head"]


def _load_model(path_or_id: str, mode: Mode, device: torch.device, offload: str | Path | None) -> T5EncoderModel:
    # They warn at every load and every layer of what the modes are for: weights off the device, products in fp16.
    for name in ("accelerate.big_modeling", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options: dict[str, Any] = {"dtype": mode.dtype, "output_loading_info": True}
    if mode.weights == "disk":
        parts = ("shared", "encoder.embed_tokens", "encoder.final_layer_norm", "encoder.dropout")
        options |= {"device_map": {"encoder.block": "disk", **dict.fromkeys(parts, str(device))}}
        options |= {"offload_folder": None if offload is None else str(offload)}
    else:
        options |= {"device_map": {"": "cpu" if mode.weights == "host" else str(device)}}
    if mode.quantised:
        options["quantization_config"] = _quantisation(mode)
    try:
        loaded: Any = _Encoder.from_pretrained(path_or_id, **options)
    except torch.OutOfMemoryError as error:
        raise _too_large(error) from None
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
        if mode.weights == "disk" and offload is None and "offload_folder" in str(error):
            gib = weight_bytes(read_config(path_or_id), mode.precision) / GIB
            raise InputError(
                f"language encoder {path_or_id}: expected safetensors to stream from disk, found a torch file: give "
                f"--offload a folder with room for a copy of {gib:.1f} GiB, or use another mode"
            ) from None
        raise _unreadable(path_or_id, error) from None
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"language encoder {path_or_id}: {len(missing)} weights missing, first {missing[0]}")
    if mode.weights == "host":
        from accelerate import cpu_offload  # only the modes of large encoders need it

        cpu_offload(model, device)
    return model


def _load_tokenizer(path_or_id: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(path_or_id)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"tokenizer of {path_or_id}: expected tokenizer.json, or spiece.model and the packages sentencepiece and "
            f"protobuf to read it, found {_first_line(error)}"
        ) from None


def _check_quantisation(mode: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise InputError(f"mode {mode}: expected a GPU, found device {device.type}; without one use bf16, fp32 or disk")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"mode {mode}: needs bitsandbytes: pip install bitsandbytes; or use host or disk without it")


def _quantisation(mode: Mode) -> BitsAndBytesConfig:
    if mode.precision == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[UNQUANTISED])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=mode.dtype,
        llm_int8_skip_modules=[UNQUANTISED],
    )


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows of like length that together, padded, stay within BATCH_TOKENS."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _too_large(error: Exception) -> InputError:
    return InputError(f"language encoder: expected a mode that fits the GPU, found {_first_line(error)}")


def _unreadable(path_or_id: str, error: Exception) -> InputError:
    return InputError(
        f"language encoder: expected a folder with config.json and the weights of a T5, or a Hub id that is cached or "
        f"can be reached, found {path_or_id!r} ({_first_line(error)})"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
