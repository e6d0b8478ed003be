"""Attention of a chunk's few tokens, from the product that gives its queries on: Triton kernels.

Library kernels cut queries into tiles for the processors, and there are hardly two tiles of a chunk's tokens; here
heads and stretches of keys are what is shared out. Bias and norm of the queries happen where they are loaded.
Letters in shapes: S parts of a product, M tokens, D width, H heads, C keys, E stretches of keys.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rdt_ros.model.config import Norm
from rdt_ros.model.network import NORM_EPSILON

FEW_ROWS, MANY_ROWS = 32, 64  # of a program that reads few keys, that reads many
FEW_WARPS, MANY_WARPS = 8, 4
KEYS = 64  # of a turn
STAGES = 3
LEAST = 16  # rows of a matrix product
JOINED = 512  # columns of a program that joins stretches
JOIN_WARPS = 4


def attend_within(parts: Tensor, bias: Tensor, q_norm: Tensor, k_norm: Tensor, form: Norm) -> Tensor:
    """Self-attention from the parts (S, M, 3D) of the product that gives query, key and value -> (M, D)."""
    answer = bias.new_empty(parts.shape[1], parts.shape[2] // 3)
    rows = max(triton.next_power_of_2(len(answer)), LEAST)
    _launch(_within, (FEW_ROWS, FEW_WARPS), 1, parts, answer, q_norm, form, bias, k_norm, ROWS=rows)
    return answer


def attend_to(parts: Tensor, bias: Tensor, norm: Tensor, form: Norm, kept: Tensor, added: Tensor) -> Tensor:
    """Attention of queries in parts (S, M, D) to keys and values (C, 2D), but those where (C,) is -inf -> (M, D)."""
    answer = bias.new_empty(parts.shape[1:])
    given = parts, answer, norm, form, bias, kept, added, added, len(kept)
    _launch(_to, (FEW_ROWS, FEW_WARPS), 1, *given, MASKED=True, LENGTH=len(kept), KEYS=KEYS)
    return answer


def attend_in_stretches(parts: Tensor, bias: Tensor, norm: Tensor, form: Norm, kept: Tensor, stretches: int) -> Tensor:
    """The same with all keys, each stretch of them by programs of its own, whose answers a second kernel joins."""
    rows, width = parts.shape[1:]
    answers = torch.empty(stretches, rows, width, device=bias.device)
    weights = torch.empty(stretches, rows, width // len(norm), device=bias.device)
    given = parts, answers, norm, form, bias, kept, kept, weights, len(kept)
    length = triton.cdiv(len(kept), stretches)
    _launch(_to, (MANY_ROWS, MANY_WARPS), stretches, *given, MASKED=False, LENGTH=length, KEYS=KEYS)
    answer = bias.new_empty(rows, width)
    constants = {"HEAD": len(norm), "STRETCHES": stretches, "COLUMNS": JOINED, "num_warps": JOIN_WARPS}
    _join[rows, triton.cdiv(width, JOINED)](answers, weights, answer, rows, width, **constants)
    return answer


def _launch(
    kernel: Any,
    program: tuple[int, int],
    stretches: int,
    parts: Tensor,
    answers: Tensor,
    norm: Tensor,
    form: Norm,
    *given: Any,
    **constants: Any,
) -> None:
    """A program of so many rows and warps for each head, block of rows and stretch of keys."""
    (rows, width), head, (block, warps) = answers.shape[-2:], len(norm), program
    kernel[width // head, triton.cdiv(rows, block), stretches](
        parts,
        answers,
        norm,
        *given,
        rows,
        width,
        head**-0.5 * math.log2(math.e),
        PARTS=len(parts),
        BLOCK=block,
        HEAD=head,
        VARIANCE=form == "variance",
        EPSILON=NORM_EPSILON,
        num_warps=warps,
        num_stages=STAGES,
        **constants,
    )


@triton.jit
def _columns(parts, bias, top, first, rows, stride, PARTS: tl.constexpr, ROWS: tl.constexpr, HEAD: tl.constexpr):
    """(ROWS, HEAD) of a product from row `top` on, its parts and bias added; zero below the last row."""
    row, column = top + tl.arange(0, ROWS)[:, None], first + tl.arange(0, HEAD)[None, :]
    there = row < rows
    total = tl.zeros((ROWS, HEAD), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + (part * rows + row) * stride + column, mask=there, other=0).to(tl.float32)
    return tl.where(there, total + tl.load(bias + column).to(tl.float32), 0)


@triton.jit
def _normalised(x, norm, HEAD: tl.constexpr, VARIANCE: tl.constexpr, EPSILON: tl.constexpr):
    """`kernels.rms` of (ROWS, HEAD), in float32."""
    if VARIANCE:
        off = x - tl.sum(x, 1)[:, None] / HEAD
        power = tl.sum(off * off, 1) / (HEAD - 1)
    else:
        power = tl.sum(x * x, 1) / HEAD
    return x * tl.rsqrt(power + EPSILON)[:, None] * tl.load(norm + tl.arange(0, HEAD))[None, :].to(tl.float32)


@triton.jit
def _within(
    parts,
    answers,
    q_norm,
    bias,
    k_norm,
    rows,
    width,
    scale,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    ROWS: tl.constexpr,
):
    first, top = tl.program_id(0) * HEAD, tl.program_id(1) * BLOCK
    type: tl.constexpr = answers.dtype.element_ty
    q = _columns(parts, bias, top, first, rows, 3 * width, PARTS, BLOCK, HEAD)
    k = _columns(parts, bias, 0, width + first, rows, 3 * width, PARTS, ROWS, HEAD)
    v = _columns(parts, bias, 0, 2 * width + first, rows, 3 * width, PARTS, ROWS, HEAD).to(type)
    q = (_normalised(q, q_norm, HEAD, VARIANCE, EPSILON) * scale).to(type)
    k = _normalised(k, k_norm, HEAD, VARIANCE, EPSILON).to(type)
    score = tl.dot(q, tl.trans(k), input_precision="ieee")
    score = tl.where((tl.arange(0, ROWS) < rows)[None, :], score, float("-inf"))
    share = tl.exp2(score - tl.max(score, 1)[:, None])
    found = tl.dot(share.to(type), v, input_precision="ieee") / tl.sum(share, 1)[:, None]
    row = top + tl.arange(0, BLOCK)
    at = row[:, None] * width + first + tl.arange(0, HEAD)[None, :]
    tl.store(answers + at, found.to(type), mask=(row < rows)[:, None])


@triton.jit
def _to(
    parts,
    answers,
    norm,
    bias,
    kept,
    added,
    weights,
    keys,
    rows,
    width,
    scale,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    MASKED: tl.constexpr,
    LENGTH: tl.constexpr,
    KEYS: tl.constexpr,
):
    head, top, stretch = tl.program_id(0), tl.program_id(1) * BLOCK, tl.program_id(2)
    type: tl.constexpr = kept.dtype.element_ty
    q = _columns(parts, bias, top, head * HEAD, rows, width, PARTS, BLOCK, HEAD)
    q = (_normalised(q, norm, HEAD, VARIANCE, EPSILON) * scale).to(type)
    row, column = top + tl.arange(0, BLOCK), head * HEAD + tl.arange(0, HEAD)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    found = tl.zeros((BLOCK, HEAD), tl.float32)
    last = tl.minimum((stretch + 1) * LENGTH, keys)
    for start in range(0, LENGTH, KEYS):
        key = stretch * LENGTH + start + tl.arange(0, KEYS)
        there = key < last
        at = key[:, None] * (2 * width) + column[None, :]
        k = tl.load(kept + at, mask=there[:, None], other=0)
        v = tl.load(kept + width + at, mask=there[:, None], other=0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            score += tl.load(added + key, mask=there, other=float("-inf")).to(tl.float32)[None, :]
        else:
            score = tl.where(there[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        share, before = tl.exp2(score - higher[:, None]), tl.exp2(highest - higher)
        total = total * before + tl.sum(share, 1)
        found = tl.dot(share.to(type), v, found * before[:, None], input_precision="ieee")
        highest = higher
    within = row < rows
    at = stretch * rows + row
    answer = found / total[:, None]
    tl.store(answers + at[:, None] * width + column[None, :], answer.to(answers.dtype.element_ty), mask=within[:, None])
    if not MASKED:
        tl.store(weights + at * (width // HEAD) + head, highest + tl.log2(total), mask=within)


@triton.jit
def _join(answers, weights, answer, rows, width, HEAD: tl.constexpr, STRETCHES: tl.constexpr, COLUMNS: tl.constexpr):
    """The mean of a row's answers, weighted by 2 to the power of their logarithms."""
    row, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there, heads = column < width, width // HEAD
    highest = tl.full((COLUMNS,), float("-inf"), tl.float32)
    for stretch in tl.static_range(STRETCHES):
        at = (stretch * rows + row) * heads + column // HEAD
        highest = tl.maximum(highest, tl.load(weights + at, mask=there, other=0))
    total = tl.zeros((COLUMNS,), tl.float32)
    found = tl.zeros((COLUMNS,), tl.float32)
    for stretch in tl.static_range(STRETCHES):
        at = (stretch * rows + row) * heads + column // HEAD
        share = tl.exp2(tl.load(weights + at, mask=there, other=0) - highest)
        total += share
        found += share * tl.load(answers + (stretch * rows + row) * width + column, mask=there, other=0)
    tl.store(answer + row * width + column, (found / total).to(answer.dtype.element_ty), mask=there)
