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

BLOCK = 32  # tokens of a program of self-attention
KEYS = 64  # of a turn of a program of the others
WARPS, STAGES = 8, 3
LEAST = 16  # rows of a matrix product


def attend_within(parts: Tensor, bias: Tensor, q_norm: Tensor, k_norm: Tensor, form: Norm) -> Tensor:
    """Self-attention from the parts (S, M, 3D) of the product that gives query, key and value -> (M, D)."""
    answer = bias.new_empty(parts.shape[1], parts.shape[2] // 3)
    _launch(_within, triton.cdiv(len(answer), BLOCK), parts, answer, q_norm, form, bias, k_norm, BLOCK=BLOCK)
    return answer


def attend_to(parts: Tensor, bias: Tensor, norm: Tensor, form: Norm, kept: Tensor, added: Tensor) -> Tensor:
    """Attention of queries in parts (S, M, D) to keys and values (C, 2D), but those where (C,) is -inf -> (M, D)."""
    answer = bias.new_empty(parts.shape[1:])
    constants = {"MASKED": True, "WHOLE": True, "LENGTH": len(kept), "KEYS": KEYS}
    _launch(_to, 1, parts, answer, norm, form, bias, kept, added, added, len(kept), **constants)
    return answer


def attend_in_stretches(
    parts: Tensor, bias: Tensor, norm: Tensor, form: Norm, kept: Tensor, stretches: int
) -> tuple[Tensor, Tensor]:
    """The same for each stretch of the keys: float32 answers (E, M, D), logarithms (base 2) of their weights (E, M, H).

    `kernels.joined` makes one answer of them.
    """
    rows, width = parts.shape[1:]
    answers = torch.empty(stretches, rows, width, device=bias.device)
    weights = torch.empty(stretches, rows, width // len(norm), device=bias.device)
    constants = {"MASKED": False, "WHOLE": False, "LENGTH": triton.cdiv(len(kept), stretches), "KEYS": KEYS}
    _launch(_to, stretches, parts, answers, norm, form, bias, kept, kept, weights, len(kept), **constants)
    return answers, weights


def _launch(
    kernel: Any, pieces: int, parts: Tensor, answers: Tensor, norm: Tensor, form: Norm, *given: Any, **constants: Any
) -> None:
    """A program for each head and each of so many pieces of the work."""
    (rows, width), head = answers.shape[-2:], len(norm)
    kernel[width // head, pieces](
        parts,
        answers,
        norm,
        *given,
        rows,
        width,
        head**-0.5 * math.log2(math.e),
        PARTS=len(parts),
        ROWS=max(triton.next_power_of_2(rows), LEAST),
        HEAD=head,
        VARIANCE=form == "variance",
        EPSILON=NORM_EPSILON,
        num_warps=WARPS,
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
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
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
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    MASKED: tl.constexpr,
    WHOLE: tl.constexpr,
    LENGTH: tl.constexpr,
    KEYS: tl.constexpr,
):
    head, stretch = tl.program_id(0), tl.program_id(1)
    type: tl.constexpr = kept.dtype.element_ty
    q = _columns(parts, bias, 0, head * HEAD, rows, width, PARTS, ROWS, HEAD)
    q = (_normalised(q, norm, HEAD, VARIANCE, EPSILON) * scale).to(type)
    row, column = tl.arange(0, ROWS), head * HEAD + tl.arange(0, HEAD)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, HEAD), tl.float32)
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
    if not WHOLE:
        tl.store(weights + at * (width // HEAD) + head, highest + tl.log2(total), mask=within)
