"""The network's conditions and its solver steps on static buffers: one stage makes a chunk.

Batch 1 throughout. Letters in shapes: T rows of a chunk, A action width, D hidden size, H heads, L language tokens,
P picture tokens, N tokens of the network (3 + T).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt_ros.model.fast.kernels import Kernels, attention_by, gelu_linear, normalise_keys, product
from rdt_ros.model.fast.stage import Recorder, Stage
from rdt_ros.model.network import Attention, Block, CrossAttention, RdtNetwork, RmsNorm
from rdt_ros.model.sampler import Prefix, solver_steps

OWN_HEADS = (16, 32, 64)  # widths of a head that our own attention takes where nobody chose
OWN_HORIZON = 125  # rows of a chunk up to which it does; with their three companions 128
WIDE = 4096  # outputs of a product that has tiles enough for all processors uncut
LAST_SPLITS = 16  # of the last product, whose few columns make hardly two tiles in float32
SHORT_INSTRUCTION = 64  # tokens up to which a stage of its own looks at no more


class FastSolver:
    """`sampler.sample` of one chunk. What changes between chunks is copied into buffers; the weights are shared.

    The language's keys and values are computed when the instruction changes, the pictures' once a chunk, and the
    tokens of the timesteps once.
    """

    def __init__(
        self, network: RdtNetwork, rate_hz: float, action_dtype: torch.dtype, recorder: Recorder, kernels: Kernels
    ) -> None:
        config, device, dtype = network.config, recorder.device, network.dtype
        width, tokens = config.action_dim, config.img_cond_len
        self._network = network
        self._options = recorder.options
        self._kernels = kernels
        self._own = _own_attention(recorder, network)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" and self._options.overlap else None

        def buffer(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self.picture_tokens = buffer(tokens, config.img_token_dim)
        self.actions = buffer(config.horizon, width, dtype=action_dtype)
        self._state, self._mask = buffer(1, width), buffer(width)
        self._noise = buffer(config.horizon, width, dtype=action_dtype)
        rows, weights = (buffer(config.horizon, width, dtype=action_dtype) for _ in range(2))
        self._prefix = rows, weights, buffer(config.horizon, 1, dtype=torch.int64)
        self._lang_length = 0
        self._blocks: list[Any] = list(network.model.blocks)
        blocks: list[CrossAttention] = [block.cross_attn for block in self._blocks]
        self._lang_blocks, self._img_blocks = blocks[::2], blocks[1::2]
        self._lang = buffer(len(self._lang_blocks), config.max_lang_cond_len, 2 * config.hidden_size)
        self._lang_bias = buffer(config.max_lang_cond_len)
        self._img = buffer(len(self._img_blocks), tokens, 2 * config.hidden_size)

        model, steps = network.model, solver_steps(config.num_train_timesteps, config.num_inference_timesteps)
        timesteps = torch.tensor([step.timestep for step in steps], device=device)
        rate = model.freq_embedder(torch.tensor([rate_hz], device=device))[0]
        self._heads = [torch.cat([token, rate]) for token in model.t_embedder(timesteps)]
        self._coefficients = [torch.tensor([step.keep, step.take, step.change], device=device) for step in steps]
        self._last = copy.deepcopy(model.final_layer.ffn_final.fc2).to(action_dtype)

        lengths = sorted({min(SHORT_INSTRUCTION, config.max_lang_cond_len), config.max_lang_cond_len})
        self._stages: dict[int, Stage] = {}
        for length in lengths:
            self._stages[length] = recorder.stage(functools.partial(self._chunk, length))

    def follow(self, tokens: Tensor) -> None:
        """Takes the tokens (L, width) of another instruction."""
        network, length = self._network, len(tokens)
        lang = network.lang_adaptor(tokens.to(network.dtype)) + network.model.lang_cond_pos_embed[0, :length]
        for block, kept in zip(self._lang_blocks, self._lang, strict=True):
            _project(block, lang, kept[:length], normalise_keys)  # any length comes: nothing is compiled for it
        self._lang_bias.fill_(-torch.inf)
        self._lang_bias[:length] = 0
        self._lang_length = length

    def load(self, state: Tensor, mask: Tensor, noise: Tensor, prefix: Prefix | None) -> None:
        """State (1, 1, A), mask (1, 1, A), noise (1, T, A) and prefix of the next chunk."""
        self._state.copy_(state[0])
        self._mask.copy_(mask[0, 0])
        self._noise.copy_(noise[0])
        rows, weights, source = self._prefix
        if prefix is None:
            rows.zero_()
            weights.zero_()
            source.zero_()
        else:
            rows.copy_(prefix.rows[0])
            weights.copy_(prefix.weights[0])
            source.copy_(prefix.source[0])

    @property
    def shortest(self) -> int:
        """Tokens of the shortest instruction's stage."""
        return min(self._stages)

    def run(self) -> Tensor:
        """The chunk (1, T, A) of what was loaded and of `picture_tokens`; the next run writes over it."""
        length = next(length for length in self._stages if length >= self._lang_length)
        self._stages[length]()
        return self.actions[None]

    def encode_pictures(self) -> list[torch.cuda.Event]:
        """Keys and values of `picture_tokens` for every block that looks at them, and when each is there."""
        network, ready = self._network, []
        pictures = _adapted(network.img_adaptor, self.picture_tokens) + network.model.img_cond_pos_embed[0]
        for block, kept in zip(self._img_blocks, self._img, strict=True):
            _project(block, pictures, kept, self._kernels.normalise_keys)
            if self._side is not None:
                ready.append(torch.cuda.Event())
                ready[-1].record()
        return ready

    def solve(self, length: int, ready: Sequence[torch.cuda.Event] = ()) -> None:
        """All solver steps, of an instruction of at most `length` tokens; waits for each of `ready` where it must."""
        kernels, x = self._kernels, self._noise
        before = torch.zeros_like(x)
        for head, coefficients in zip(self._heads, self._coefficients, strict=True):
            parts = self._network_output(head, x, length, ready)
            x, before = kernels.advance(x, parts, self._last.bias, before, self._prefix, coefficients)
            ready = ()
        torch.mul(x, self._mask.to(x.dtype), out=self.actions)

    def _chunk(self, length: int) -> None:
        """All work of a chunk whose instruction has at most `length` tokens."""
        if self._side is None:
            self.encode_pictures()
            self.solve(length)
            return
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            ready = self.encode_pictures()
        self.solve(length, ready)
        main.wait_stream(self._side)

    def _network_output(self, head: Tensor, x: Tensor, length: int, ready: Sequence[torch.cuda.Event]) -> Tensor:
        """Parts (S, T, A) of the clean actions, without bias; `head` (2, D) are the tokens of timestep and rate."""
        kernels, model = self._kernels, self._network.model
        hidden, last = self._adapt(kernels.adaptor_input(self._state, x, self._mask))
        norms = [block.norm1 for block in self._blocks] + [model.final_layer.norm_final]
        norm, positions = norms[0], model.x_pos_embed[0]
        x, h = kernels.embed(head, hidden, last.bias, positions, norm.weight, norm.form)
        for i, (block, after) in enumerate(zip(self._blocks, norms[1:], strict=True)):
            if i % 2 and ready:
                torch.cuda.current_stream().wait_event(ready[i // 2])
            x, h = self._block(block, i, x, h, after, length)
        fc1 = model.final_layer.ffn_final.fc1
        hidden = kernels.activated(self._product(h[-len(self.actions) :], fc1), fc1.bias)
        width = hidden.shape[1]
        return product(hidden.to(self.actions.dtype), self._last.weight, math.gcd(width, LAST_SPLITS))

    def _block(self, block: Block, i: int, x: Tensor, h: Tensor, after: RmsNorm, length: int) -> tuple[Tensor, Tensor]:
        """The residual x (N, D) and its norm h -> the same behind the block, with the norm `after`."""
        kernels, attn, cross = self._kernels, block.attn, block.cross_attn
        parts = self._product(self._within(attn, h), attn.proj)
        x, h = kernels.add_norm(x, parts, attn.proj.bias, block.norm2.weight, block.norm2.form)
        parts = self._product(self._across(cross, h, i, length), cross.proj)
        x, h = kernels.add_norm(x, parts, cross.proj.bias, block.norm3.weight, block.norm3.form)
        fc1, fc2 = block.ffn.fc1, block.ffn.fc2
        if self._options.gelu_inside:
            hidden = gelu_linear(h, fc1.weight, fc1.bias)
        else:
            hidden = kernels.activated(self._product(h, fc1), fc1.bias)
        return kernels.add_norm(x, self._product(hidden, fc2), fc2.bias, after.weight, after.form)

    def _within(self, attn: Attention, h: Tensor) -> Tensor:
        """Attention of the tokens h (N, D) to each other, (N, D)."""
        parts, norms = self._product(h, attn.qkv), (attn.q_norm.weight, attn.k_norm.weight, attn.q_norm.form)
        if self._own is not None:
            return self._own.attend_within(parts, attn.qkv.bias, *norms)
        return _attend(*self._kernels.self_heads(parts, attn.qkv.bias, *norms))

    def _across(self, cross: CrossAttention, h: Tensor, i: int, length: int) -> Tensor:
        """Attention of the tokens h (N, D) to the condition of block i, (N, D)."""
        queries = self._product(h, cross.q), cross.q.bias, cross.q_norm.weight, cross.q_norm.form
        if i % 2:
            kept, bias = self._img[i // 2], None
        else:
            kept, bias = self._lang[i // 2, :length], self._lang_bias[:length]
        if self._own is not None and bias is None:
            return self._own.attend_in_stretches(*queries, kept, self._options.stretches)
        if self._own is not None:
            return self._own.attend_to(*queries, kept, bias)
        q = self._kernels.queries(*queries)
        with attention_by(self._options.picture_attention if i % 2 else "auto", q):
            return _attend(q, *_heads(kept, cross), bias)

    def _adapt(self, x: Tensor) -> tuple[Tensor, nn.Linear]:
        """The state adaptor up to its last Linear, whose product comes without bias."""
        *linears, last = _linears(self._network.state_adaptor)
        for linear in linears:
            x = self._kernels.activated(self._product(x, linear), linear.bias)
        return self._product(x, last), last

    def _product(self, x: Tensor, linear: nn.Linear) -> Tensor:
        splits = self._options.splits if linear.out_features < WIDE else 1
        return product(x, linear.weight, splits)


def _own_attention(recorder: Recorder, network: RdtNetwork) -> Any:
    """The module of our own kernels, None where the library's are taken."""
    config, choice = network.config, recorder.options.attention
    head = config.hidden_size // config.num_heads
    made_for_it = head in OWN_HEADS and config.horizon <= OWN_HORIZON and network.dtype != torch.float32
    if not recorder.own(choice) or (choice == "auto" and not made_for_it):
        return None
    from rdt_ros.model.fast import attention  # needs Triton, which comes with torch for CUDA

    return attention


def _project(block: CrossAttention, condition: Tensor, kept: Tensor, normalise: Callable[..., None]) -> None:
    """Keys and values (C, 2D) of a condition (C, D), keys first and normalised, into `kept`."""
    torch.addmm(block.kv.bias, condition, block.kv.weight.T, out=kept)
    keys, _ = _heads(kept, block)
    normalise(keys, block.k_norm.weight, block.k_norm.form)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Queries (N, H, D/H), keys and values (C, H, D/H), a number added for each key (C,) -> (N, D)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    answer = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None, None, None])
    return answer[0].transpose(0, 1).flatten(1)


def _heads(kept: Tensor, block: CrossAttention) -> tuple[Tensor, Tensor]:
    """Keys and values (C, H, D/H) as they lie in (C, 2D)."""
    keys, values = kept.unflatten(-1, (2, block.num_heads, -1)).unbind(1)
    return keys, values


def _linears(adaptor: nn.Module) -> list[nn.Linear]:
    return [module for module in adaptor.modules() if isinstance(module, nn.Linear)]


def _adapted(adaptor: nn.Module, x: Tensor) -> Tensor:
    """What an adaptor gives; its Linears have tanh GELUs between them."""
    *linears, last = _linears(adaptor)
    for linear in linears:
        x = gelu_linear(x, linear.weight, linear.bias)
    return last(x)
