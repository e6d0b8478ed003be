"""The RDT network (arXiv 2410.07864) in plain PyTorch; parameter names are those of the published weights.

One call takes the noisy actions of a chunk and gives the clean ones. Its 3 + T tokens are the diffusion timestep,
the control rate, the state and T actions. Block 0, 2, 4 ... attends to the instruction, block 1, 3, 5 ... to the
pictures. Letters in shapes: B batch, T rows of a chunk, A action width, D hidden size, H heads, L language tokens,
P picture tokens, N any number of tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rdt_ros.model.config import ModelConfig, Norm

NORM_EPSILON = 1e-6
SINUSOID_WIDTH = 256  # of the timestep's and the control rate's features
MAX_PERIOD = 10000.0  # of every sinusoid, in positions, timesteps or Hz


@dataclass(frozen=True, eq=False)
class Conditions:
    """What stays the same over the solver steps of a chunk, in the network's type and hidden size."""

    lang: Tensor  # (B, L, D)
    lang_mask: Tensor  # (B, L) bool, True where there is a token
    img: Tensor  # (B, P, D)
    action_mask: Tensor  # (B, 1, A) 1 where the robot has that slot, else 0
    ctrl_freq_hz: Tensor  # (B,), 0 where unknown


class RmsNorm(nn.Module):
    """x divided by its root mean square over the last axis, or by its standard deviation in the variance form.

    timm up to 1.0.12 took the unbiased variance for the mean square (its issue 2380) without centring x; the
    published weights were trained with it.
    """

    def __init__(self, width: int, form: Norm) -> None:
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape; no upcast, so that bf16 rounds as in training."""
        power = x.var(-1, keepdim=True) if self.form == "variance" else x.square().mean(-1, keepdim=True)
        return x * torch.rsqrt(power + NORM_EPSILON) * self.weight


class Attention(nn.Module):
    """Self-attention of all tokens with all tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head_width = config.hidden_size, config.hidden_size // config.num_heads
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RmsNorm(head_width, config.norm)
        self.k_norm = RmsNorm(head_width, config.norm)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = (_split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(_merge_heads(F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)))


class CrossAttention(nn.Module):
    """Attention of the tokens to a condition, which is not normalised; only its keys are."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head_width = config.hidden_size, config.hidden_size // config.num_heads
        self.num_heads = config.num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = RmsNorm(head_width, config.norm)
        self.k_norm = RmsNorm(head_width, config.norm)
        self.proj = nn.Linear(width, width)

    def keys_values(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, D) -> two of (B, H, C, D/H); they do not depend on the timestep, so once per chunk is enough."""
        k, v = (_split_heads(part, self.num_heads) for part in self.kv(condition).chunk(2, dim=-1))
        return self.k_norm(k), v

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) and the condition's keys and values -> (B, N, D); `mask` (B, C) is True where to attend."""
        q = self.q_norm(_split_heads(self.q(x), self.num_heads))
        where = None if mask is None else mask[:, None, None, :]
        return self.proj(_merge_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=where)))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D), (B, C, D), (B, C) -> (B, N, D)."""
        keys, values = self.keys_values(condition)
        return self.attend(x, keys, values, mask)


class Mlp(nn.Module):
    """Linear, GELU, Linear; the hidden width is the input width."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out_width)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Self-attention, attention to one condition, feed-forward; each normalised before and added."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = RmsNorm(width, config.norm)
        self.attn = Attention(config)
        self.cross_attn = CrossAttention(config)
        self.norm2 = RmsNorm(width, config.norm)
        self.ffn = Mlp(width, width)
        self.norm3 = RmsNorm(width, config.norm)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D), (B, C, D), (B, C) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), condition, mask)
        return x + self.ffn(self.norm3(x))


class ScalarEmbedder(nn.Module):
    """One token of one number: sinusoids of it, then a small MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, value: Tensor) -> Tensor:
        """(B,) of any type -> (B, 1, D); the sinusoids are taken in float32, cosines first."""
        half = SINUSOID_WIDTH // 2
        exponents = torch.arange(half, dtype=torch.float32, device=value.device) / half
        angles = value.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(features.to(next(self.parameters()).dtype))[:, None]


class FinalLayer(nn.Module):
    """From tokens to actions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_final = RmsNorm(config.hidden_size, config.norm)
        self.ffn_final = Mlp(config.hidden_size, config.action_dim)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, N, D) -> (B, N, A) of `dtype`, in which the last Linear runs, since its output is the chunk.

        Float32 keeps what bf16 would lose: it places a joint target between 2 and 4 rad on a grid of 0.0156 rad.
        """
        fc1, fc2 = self.ffn_final.fc1, self.ffn_final.fc2
        hidden = F.gelu(fc1(self.norm_final(x)), approximate="tanh")
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(hidden.to(dtype), fc2.weight.to(dtype), fc2.bias.to(dtype))


class RdtTransformer(nn.Module):
    """Everything behind the adaptors, which all give the hidden size.

    With `recompute` a block's values are computed again for its gradient, instead of being kept.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.recompute = False
        self.x_pos_embed = nn.Parameter(torch.empty(1, config.horizon + 3, width))
        self.lang_cond_pos_embed = nn.Parameter(torch.empty(1, config.max_lang_cond_len, width))
        self.img_cond_pos_embed = nn.Parameter(torch.empty(1, config.img_cond_len, width))
        self.t_embedder = ScalarEmbedder(width)
        self.freq_embedder = ScalarEmbedder(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The reference's initial values; its last Linear is zero, so an untrained network answers zero."""
        if self.x_pos_embed.is_meta:
            return  # torch would import its compiler, which takes seconds, to compute nothing
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedder in (self.t_embedder, self.freq_embedder):
            for parameter in embedder.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.02)
        nn.init.zeros_(self.final_layer.ffn_final.fc2.weight)
        self.x_pos_embed.copy_(token_positions(self.config))
        self.lang_cond_pos_embed.copy_(sinusoid(self.config.hidden_size, torch.zeros(self.config.max_lang_cond_len)))
        self.img_cond_pos_embed.copy_(picture_positions(self.config))

    def forward(self, tokens: Tensor, timestep: Tensor, conditions: Conditions, action_dtype: torch.dtype) -> Tensor:
        """State and noisy actions (B, 1 + T, D), timestep (B,) -> clean actions (B, T, A) of `action_dtype`."""
        x = torch.cat([self.t_embedder(timestep), self.freq_embedder(conditions.ctrl_freq_hz), tokens], dim=1)
        x = x + self.x_pos_embed
        for i, block in enumerate(self.blocks):
            lang = i % 2 == 0
            condition, mask = (conditions.lang, conditions.lang_mask) if lang else (conditions.img, None)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, condition, mask, use_reentrant=False)
            else:
                x = block(x, condition, mask)
        return self.final_layer(x, action_dtype)[:, -self.config.horizon :]


class Placed(nn.Module):
    """Tokens with their positions added: a module, so that training can compile this pass over all of a batch."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, N, D), (1, N, D) -> (B, N, D) in the tokens' type, also where autocast leaves the positions float32."""
        return (x + positions).to(x.dtype)


class RdtNetwork(nn.Module):
    """The whole network: adaptors from each input's width to the hidden size, and the transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = RdtTransformer(config)
        self.lang_adaptor = _adaptor(config.lang_token_dim, config.hidden_size, config.lang_adaptor_depth)
        self.img_adaptor = _adaptor(config.img_token_dim, config.hidden_size, config.img_adaptor_depth)
        self.placed = Placed()
        # A state or an action, each with its mask behind it.
        self.state_adaptor = _adaptor(2 * config.action_dim, config.hidden_size, config.state_adaptor_depth)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self.model.x_pos_embed.dtype

    def encode_conditions(
        self, lang_tokens: Tensor, lang_mask: Tensor, img_tokens: Tensor, action_mask: Tensor, ctrl_freq_hz: Tensor
    ) -> Conditions:
        """Language (B, L, ·) and its mask (B, L), pictures (B, P, ·), slots (B, 1, A), rate (B,) -> Conditions."""
        model, length = self.model, lang_tokens.shape[1]
        return Conditions(
            lang=self.placed(self.lang_adaptor(lang_tokens.to(self.dtype)), model.lang_cond_pos_embed[:, :length]),
            lang_mask=lang_mask,
            img=self.placed(self.img_adaptor(img_tokens.to(self.dtype)), model.img_cond_pos_embed),
            action_mask=action_mask.to(self.dtype),
            ctrl_freq_hz=ctrl_freq_hz,
        )

    def forward(self, conditions: Conditions, state: Tensor, noisy_actions: Tensor, timestep: Tensor) -> Tensor:
        """State (B, 1, A), noisy actions (B, T, A), timestep (B,) -> clean actions (B, T, A).

        The clean actions come in the type of the noisy ones, whatever the network's.
        """
        tokens = [
            self.state_adaptor(torch.cat([x.to(self.dtype), conditions.action_mask.expand_as(x)], dim=-1))
            for x in (state, noisy_actions)
        ]
        return self.model(torch.cat(tokens, dim=1), timestep, conditions, noisy_actions.dtype)


def sinusoid(width: int, positions: Tensor) -> Tensor:
    """(N,) -> (N, width) float64: sines, then cosines, of the position times width/2 falling frequencies."""
    exponents = torch.arange(width // 2, dtype=torch.float64) / (width / 2)
    angles = positions.double()[:, None] * MAX_PERIOD**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def token_positions(config: ModelConfig) -> Tensor:
    """(3 + T, D): half a code of the kind (timestep, rate, state, action), half of the place within the kind."""
    kind = torch.tensor([0, 1, 2] + [3] * config.horizon)
    place = torch.tensor([0, 0, 0, *range(config.horizon)])
    half = config.hidden_size // 2
    return torch.cat([sinusoid(half, kind), sinusoid(half, place)], dim=-1)


def picture_positions(config: ModelConfig) -> Tensor:
    """(P, D): a code of the moment beside one of the camera, the same for all patches of a picture.

    An axis of length 1 gets no code and leaves its part of the width to the other.
    """
    lengths = (config.img_history, config.img_cameras)
    moment, camera = torch.meshgrid(*(torch.arange(length) for length in lengths), indexing="ij")
    axes = [axis.flatten() for axis, length in zip((moment, camera), lengths, strict=True) if length > 1]
    axes = axes or [moment.flatten()]
    code = torch.cat([sinusoid(config.hidden_size // len(axes), axis) for axis in axes], dim=-1)
    return code.repeat_interleave(config.img_patches, dim=0)


def _adaptor(in_width: int, out_width: int, depth: int) -> nn.Module:
    if depth == 1:
        return nn.Linear(in_width, out_width)
    layers: list[nn.Module] = [nn.Linear(in_width, out_width)]
    for _ in range(depth - 1):
        layers += [nn.GELU(approximate="tanh"), nn.Linear(out_width, out_width)]
    return nn.Sequential(*layers)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, D/H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D/H) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)
