"""A residual and its norm in one Triton kernel: a row is read once, by a program of its own."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rdt_ros.model.config import Norm
from rdt_ros.model.network import NORM_EPSILON

WARPS = 4  # of many rows
FEW_WARPS = 8  # of as many as a chunk has tokens: most processors have one row


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """`kernels.add_layer_norm` of rows (M, D) that lie one behind the other."""
    total, norm = torch.empty_like(x, dtype=weight.dtype), torch.empty_like(x, dtype=weight.dtype)
    _layer_norm[(len(x),)](x, y, weight, bias, total, norm, x.shape[1], epsilon, **_row(x, WARPS))
    return total, norm


def add_norm(x: Tensor, parts: Tensor, bias: Tensor, weight: Tensor, form: Norm) -> tuple[Tensor, Tensor]:
    """`kernels.add_norm` of rows (M, D) that lie one behind the other."""
    total, norm = torch.empty_like(x, dtype=weight.dtype), torch.empty_like(x, dtype=weight.dtype)
    constants = {"PARTS": len(parts), "VARIANCE": form == "variance", "EPSILON": NORM_EPSILON} | _row(x, FEW_WARPS)
    _rms_norm[(len(x),)](x, parts, bias, weight, total, norm, *x.shape, **constants)
    return total, norm


def _row(x: Tensor, warps: int) -> dict[str, Any]:
    return {"COLUMNS": triton.next_power_of_2(x.shape[1]), "num_warps": warps}


@triton.jit
def _layer_norm(x, y, weight, bias, total, norm, width, epsilon, COLUMNS: tl.constexpr):
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


@triton.jit
def _rms_norm(
    x,
    parts,
    bias,
    weight,
    total,
    norm,
    rows,
    width,
    PARTS: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    there = column < width
    at = tl.program_id(0) * width + column
    w = tl.load(weight + column, mask=there, other=0).to(tl.float32)
    value = tl.load(x + at, mask=there, other=0).to(tl.float32) + tl.load(bias + column, mask=there, other=0).to(
        tl.float32
    )
    for part in tl.static_range(PARTS):
        value += tl.load(parts + part * rows * width + at, mask=there, other=0).to(tl.float32)
    if VARIANCE:
        off = tl.where(there, value - tl.sum(value, 0) / width, 0)
        power = tl.sum(off * off, 0) / (width - 1)
    else:
        power = tl.sum(value * value, 0) / width
    type: tl.constexpr = norm.dtype.element_ty
    tl.store(total + at, value.to(type), mask=there)
    tl.store(norm + at, (value * tl.rsqrt(power + EPSILON) * w).to(type), mask=there)
