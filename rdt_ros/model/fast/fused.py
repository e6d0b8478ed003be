"""Functions of `kernels`, by the same names and for tensors that lie whole, as a Triton kernel each.

The compiler of torch makes kernels of them too, but its import alone takes seconds at every start, and it reads rows as
long as the network's twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rdt_ros.model.config import Norm
from rdt_ros.model.network import NORM_EPSILON

ROW_WARPS = 4  # of a row
FEW_WARPS = 8  # of a row of as many as a chunk has tokens: most processors have one
BLOCK = 512  # numbers of a program of the others


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """SigLIP's residual (M, D) with a product added, and its LayerNorm."""
    total, norm = torch.empty_like(x, dtype=weight.dtype), torch.empty_like(x, dtype=weight.dtype)
    columns = triton.next_power_of_2(x.shape[1])
    _layer_norm[(len(x),)](x, y, weight, bias, total, norm, x.shape[1], epsilon, COLUMNS=columns, num_warps=ROW_WARPS)
    return total, norm


def add_norm(x: Tensor, parts: Tensor, bias: Tensor, weight: Tensor, form: Norm) -> tuple[Tensor, Tensor]:
    """The residual x (M, D) with a product added, and its norm."""
    return _add_norm(x, x[:0], parts, bias, weight, form)


def embed(
    head: Tensor, parts: Tensor, bias: Tensor, positions: Tensor, weight: Tensor, form: Norm
) -> tuple[Tensor, Tensor]:
    """Tokens of timestep and rate (2, D) before those of state and actions, with positions, and their norm."""
    return _add_norm(positions, head, parts, bias, weight, form)


def activated(parts: Tensor, bias: Tensor) -> Tensor:
    """Bias and GELU of a product: (S, M, N) -> (M, N)."""
    answer = bias.new_empty(parts.shape[1:])
    count = answer.numel()
    _activated[(triton.cdiv(count, BLOCK),)](parts, bias, answer, count, len(bias), PARTS=len(parts), BLOCK=BLOCK)
    return answer


def normalise_keys(keys: Tensor, weight: Tensor, form: Norm) -> None:
    """Norm of keys (M, H, D/H), whose heads lie beside each other, in place."""
    rows, heads, head = keys.shape
    _normalise[(rows,)](
        keys,
        weight,
        keys.stride(0),
        heads,
        head,
        VARIANCE=form == "variance",
        EPSILON=NORM_EPSILON,
        HEADS=triton.next_power_of_2(heads),
        HEAD=triton.next_power_of_2(head),
    )


def adaptor_input(state: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """State (1, A) and actions (T, A), each with the mask (A,) behind it: (1 + T, 2A) in the mask's type."""
    answer = mask.new_empty(1 + len(actions), 2 * len(mask))
    columns = triton.next_power_of_2(len(mask))
    _adaptor_input[(len(answer),)](state, actions, mask, answer, len(mask), COLUMNS=columns)
    return answer


def advance(
    x: Tensor,
    parts: Tensor,
    bias: Tensor,
    before: Tensor,
    prefix: tuple[Tensor, Tensor, Tensor],
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """One solver step of actions (T, A), in float32."""
    after, clean = torch.empty_like(x), torch.empty_like(x)
    count = x.numel()
    grid = (triton.cdiv(count, BLOCK),)
    given = x, parts, bias, before, *prefix, coefficients, after, clean
    _advance[grid](*given, count, len(bias), PARTS=len(parts), BLOCK=BLOCK)
    return after, clean


def _add_norm(
    x: Tensor, head: Tensor, parts: Tensor, bias: Tensor, weight: Tensor, form: Norm
) -> tuple[Tensor, Tensor]:
    """Rows x (M, D), to the first of which `head` is added and to the others a product, and their norm."""
    total, norm = torch.empty_like(x, dtype=weight.dtype), torch.empty_like(x, dtype=weight.dtype)
    _rms_norm[(len(x),)](
        x,
        head,
        parts,
        bias,
        weight,
        total,
        norm,
        parts[0].numel(),
        x.shape[1],
        FIRST=len(head),
        PARTS=len(parts),
        VARIANCE=form == "variance",
        EPSILON=NORM_EPSILON,
        COLUMNS=triton.next_power_of_2(x.shape[1]),
        num_warps=FEW_WARPS,
    )
    return total, norm


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
    head,
    parts,
    bias,
    weight,
    total,
    norm,
    size,
    width,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, column = tl.program_id(0), tl.arange(0, COLUMNS)
    there = column < width
    at = row * width + column
    w = tl.load(weight + column, mask=there, other=0).to(tl.float32)
    value = tl.load(x + at, mask=there, other=0).to(tl.float32)
    product = there & (row >= FIRST)
    if FIRST:
        value += tl.load(head + at, mask=there & (row < FIRST), other=0).to(tl.float32)
    value += tl.load(bias + column, mask=product, other=0).to(tl.float32)
    for part in tl.static_range(PARTS):
        value += tl.load(parts + part * size + at - FIRST * width, mask=product, other=0).to(tl.float32)
    if VARIANCE:
        off = tl.where(there, value - tl.sum(value, 0) / width, 0)
        power = tl.sum(off * off, 0) / (width - 1)
    else:
        power = tl.sum(value * value, 0) / width
    type: tl.constexpr = norm.dtype.element_ty
    tl.store(total + at, value.to(type), mask=there)
    tl.store(norm + at, (value * tl.rsqrt(power + EPSILON) * w).to(type), mask=there)


@triton.jit
def _activated(parts, bias, answer, count, width, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    x = tl.load(bias + at % width, mask=there, other=0).to(tl.float32)
    for part in tl.static_range(PARTS):
        x += tl.load(parts + part * count + at, mask=there, other=0).to(tl.float32)
    # GELU by tanh: (1 + tanh u) / 2 is the sigmoid of 2u, with u = sqrt(2 / pi) (x + 0.044715 x^3)
    share = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    tl.store(answer + at, (x * share).to(answer.dtype.element_ty), mask=there)


@triton.jit
def _normalise(
    keys,
    weight,
    stride,
    heads,
    head,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
):
    row, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HEAD)[None, :]
    there = (row < heads) & (column < head)
    at = keys + tl.program_id(0).to(tl.int64) * stride + row * head + column
    x = tl.load(at, mask=there, other=0).to(tl.float32)
    if VARIANCE:
        off = tl.where(there, x - tl.sum(x, 1)[:, None] / head, 0)
        power = tl.sum(off * off, 1) / (head - 1)
    else:
        power = tl.sum(x * x, 1) / head
    w = tl.load(weight + column, mask=column < head, other=0).to(tl.float32)
    value = x * tl.rsqrt(power + EPSILON)[:, None] * w
    tl.store(at, value.to(keys.dtype.element_ty), mask=there)


@triton.jit
def _adaptor_input(state, actions, mask, answer, width, COLUMNS: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, COLUMNS)
    there = column < width
    type: tl.constexpr = answer.dtype.element_ty
    if row == 0:
        value = tl.load(state + column, mask=there).to(type)
    else:
        value = tl.load(actions + (row - 1) * width + column, mask=there).to(type)
    at = answer + row * (2 * width) + column
    tl.store(at, value, mask=there)
    tl.store(at + width, tl.load(mask + column, mask=there), mask=there)


@triton.jit
def _clean(parts, bias, at, column, there, count, PARTS: tl.constexpr):
    total = tl.load(bias + column, mask=there, other=0).to(tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * count + at, mask=there, other=0).to(tl.float32)
    return total


@triton.jit
def _advance(
    x,
    parts,
    bias,
    before,
    rows,
    weights,
    source,
    coefficients,
    after,
    clean,
    count,
    width,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    column = at % width
    found = _clean(parts, bias, at, column, there, count, PARTS)
    # `Prefix.inpaint`: a committed row as it is, a soft one moved by what its source is off.
    other = tl.load(source + at // width, mask=there, other=0).to(tl.int32) * width + column
    committed = tl.load(rows + at, mask=there, other=0).to(tl.float32)
    weight = tl.load(weights + at, mask=there, other=0).to(tl.float32)
    given = tl.load(rows + other, mask=there, other=0).to(tl.float32)
    offset = given - _clean(parts, bias, other, column, there, count, PARTS)
    found = tl.where(weight == 1, committed, found + weight * offset)
    keep, take, change = tl.load(coefficients), tl.load(coefficients + 1), tl.load(coefficients + 2)
    change *= found - tl.load(before + at, mask=there, other=0).to(tl.float32)
    value = keep * tl.load(x + at, mask=there, other=0).to(tl.float32) + take * found + change
    tl.store(after + at, value.to(after.dtype.element_ty), mask=there)
    tl.store(clean + at, found.to(clean.dtype.element_ty), mask=there)
