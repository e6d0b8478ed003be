"""What happens between two matrix products, each function one kernel (`fused.py` or compiled), and the products.

Everything in between is float32, rounded once at the end; M is the number of tokens, S of the parts of a product.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rdt_ros.model.config import Norm
from rdt_ros.model.fast.stage import Function, Recorder
from rdt_ros.model.network import NORM_EPSILON

ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attention_by(kernel: str, q: Tensor) -> AbstractContextManager[None]:
    """Makes `scaled_dot_product_attention` take this kernel, for half types on CUDA; "auto" changes nothing."""
    if kernel == "auto" or not q.is_cuda or q.dtype == torch.float32:
        return contextlib.nullcontext()
    return sdpa_kernel(ATTENTION[kernel])


def product(x: Tensor, weight: Tensor, splits: int) -> Tensor:
    """(M, K), (N, K) -> (S, M, N): parts of the product along K, in float32 where split; their sum is the product.

    A product of few rows has too few tiles of output for a GPU's processors; cut along K, all of them read weights.
    """
    if splits == 1:
        return F.linear(x, weight)[None]
    parts = x.unflatten(-1, (splits, -1)).transpose(0, 1)
    weights = weight.unflatten(-1, (splits, -1)).permute(1, 2, 0)
    if x.is_cuda and x.dtype != torch.float32:
        return torch.bmm(parts, weights, out_dtype=torch.float32)
    return torch.bmm(parts, weights)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Linear and tanh GELU; on CUDA the library applies it before it writes the product."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch._addmm_activation(bias, x, weight.T, use_gelu=True)
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def total(parts: Tensor, bias: Tensor) -> Tensor:
    """(S, M, N), (N,) -> (M, N) float32."""
    return parts.float().sum(0) + bias


def rms(x: Tensor, weight: Tensor, form: Norm) -> Tensor:
    """RmsNorm of the last axis, in the weight's type."""
    x = x.float()
    power = x.var(-1, keepdim=True) if form == "variance" else x.square().mean(-1, keepdim=True)
    return (x * torch.rsqrt(power + NORM_EPSILON) * weight).to(weight.dtype)


def activated(parts: Tensor, bias: Tensor) -> Tensor:
    """Bias and GELU of a product: (S, M, N) -> (M, N)."""
    return F.gelu(total(parts, bias), approximate="tanh").to(bias.dtype)


def add_norm(x: Tensor, parts: Tensor, bias: Tensor, weight: Tensor, form: Norm) -> tuple[Tensor, Tensor]:
    """The residual x (M, D) with a product added, and its norm."""
    x = x + total(parts, bias)
    return x.to(weight.dtype), rms(x, weight, form)


def embed(
    head: Tensor, parts: Tensor, bias: Tensor, positions: Tensor, weight: Tensor, form: Norm
) -> tuple[Tensor, Tensor]:
    """Tokens of timestep and rate (2, D) before those of state and actions, with positions, and their norm."""
    x = torch.cat([head.float(), total(parts, bias)]) + positions
    return x.to(weight.dtype), rms(x, weight, form)


def self_heads(
    parts: Tensor, bias: Tensor, q_weight: Tensor, k_weight: Tensor, form: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (M, H, D/H) of self-attention from the product that holds all three."""
    q, k, v = total(parts, bias).unflatten(-1, (3, -1, len(q_weight))).unbind(-3)
    return rms(q, q_weight, form), rms(k, k_weight, form), v.to(bias.dtype)


def queries(parts: Tensor, bias: Tensor, weight: Tensor, form: Norm) -> Tensor:
    """Queries (M, H, D/H) of cross-attention."""
    return rms(total(parts, bias).unflatten(-1, (-1, len(weight))), weight, form)


def normalise_keys(keys: Tensor, weight: Tensor, form: Norm) -> None:
    """Norm of keys (M, H, D/H) in place."""
    keys.copy_(rms(keys, weight, form))


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """SigLIP's residual (M, D) with a product added, and its LayerNorm."""
    x = x.float() + y
    norm = F.layer_norm(x, (x.shape[-1],), weight.float(), bias.float(), epsilon)
    return x.to(weight.dtype), norm.to(weight.dtype)


def adaptor_input(state: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """State (1, A) and actions (T, A), each with the mask (A,) behind it: (1 + T, 2A) in the mask's type."""
    rows = torch.cat([state.to(mask.dtype), actions.to(mask.dtype)])
    return torch.cat([rows, mask.expand_as(rows)], dim=-1)


def advance(
    x: Tensor,
    parts: Tensor,
    bias: Tensor,
    before: Tensor,
    prefix: tuple[Tensor, Tensor, Tensor],
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """One solver step of actions (T, A): `Prefix.inpaint` and `SolverStep.advance` with (keep, take, change).

    The clean actions of this step come as parts of a product, those of the step before as they are given back.
    """
    rows, weights, source = prefix
    clean = total(parts, bias).to(x.dtype)
    offset = torch.take_along_dim(rows - clean, source, dim=0)
    clean = torch.where(weights == 1, rows, clean + weights * offset)
    keep, take, change = coefficients.unbind()
    return (keep * x + take * clean + change * (clean - before)).to(x.dtype), clean


class Kernels:
    """The functions above as a recorder runs them."""

    def __init__(self, recorder: Recorder) -> None:
        own = own_kernels() if recorder.own(recorder.options.between) else None

        def chosen(function: Function) -> Function:
            return getattr(own, function.__name__, None) or recorder.compiled(function)

        self.activated = chosen(activated)
        self.add_norm = chosen(add_norm)
        self.embed = chosen(embed)
        self.self_heads = chosen(self_heads)
        self.queries = chosen(queries)
        self.normalise_keys = chosen(normalise_keys)
        self.add_layer_norm = chosen(add_layer_norm)
        self.adaptor_input = chosen(adaptor_input)
        self.advance = chosen(advance)


def own_kernels() -> Any:
    """The module of those that we have kernels of our own for."""
    from rdt_ros.model.fast import fused  # needs Triton, which comes with torch for CUDA

    return fused
