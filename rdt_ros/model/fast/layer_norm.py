"""SigLIP's residual and LayerNorm in one Triton kernel: a row is read once, and its programs are many and small."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 4


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """`kernels.add_layer_norm` of rows (M, D) that lie one behind the other."""
    total, norm = torch.empty_like(x, dtype=weight.dtype), torch.empty_like(x, dtype=weight.dtype)
    rows, width = x.shape
    columns = triton.next_power_of_2(width)
    _row[(rows,)](x, y, weight, bias, total, norm, width, epsilon, COLUMNS=columns, num_warps=WARPS)
    return total, norm


@triton.jit
def _row(x, y, weight, bias, total, norm, width, epsilon, COLUMNS: tl.constexpr):
    """A program for each row, in float32."""
    column = tl.arange(0, COLUMNS)
    there = column < width
    at = tl.program_id(0).to(tl.int64) * width + column
    value = tl.load(x + at, mask=there, other=0).to(tl.float32) + tl.load(y + at, mask=there, other=0).to(tl.float32)
    off = tl.where(there, value - tl.sum(value, 0) / width, 0)
    scale = tl.rsqrt(tl.sum(off * off, 0) / width + epsilon)
    w = tl.load(weight + column, mask=there, other=0).to(tl.float32)
    b = tl.load(bias + column, mask=there, other=0).to(tl.float32)
    type: tl.constexpr = norm.dtype.element_ty
    tl.store(total + at, value.to(type), mask=there)
    tl.store(norm + at, (off * scale * w + b).to(type), mask=there)
