"""Attention of a chunk's few tokens to thousands of picture tokens, forward and backward: Triton kernels for training.

The keys come as the Linear gives them, and what their norm would write and read again is never made. With the key x_c
of a head and r_c the inverse root of its power (`RmsNorm`, its weight w taken into the queries q_n, which are few),

    score_nc = d^-1/2 (q_n . r_c x_c),  P = softmax(score),  y = P v,

so the norm is a factor of a column of scores. Backward, from the gradient dy of the answers and for each key anew,

    dscore = P (dy v^T - sum(dy y)),  dv = P^T dy,  dq = d^-1/2 sum_c dscore_nc r_c x_c,
    dx_c = d^-1/2 (sum_n dscore_nc r_c q_n - r_c^2 x_c / d sum_n dscore_nc r_c (q_n . x_c)),

the last term being the norm's own gradient by dr/dx = -r^3 x / d; the variance form has x - mean(x) there, and d - 1.
A program takes all tokens of one head and sample through all keys, so that none adds to another's sums.
Letters in shapes: B batch, N tokens, C keys, D width, H heads, d = D/H.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from rdt_ros.model.config import ModelConfig, Norm
from rdt_ros.model.network import NORM_EPSILON, CrossAttention, RdtNetwork

HEADS = (16, 32, 64)  # widths of a head whose tiles fit beside each other
TOKENS = 128  # at most, that one tile of the forward kernel holds
# Keys of a turn, and warps.
FORWARD = (64, 8)  # the fastest of those tried on an H200
BACKWARD_HOPPER = (64, 4)  # so is this
BACKWARD = (32, 8)  # elsewhere products take their factors from registers, into which 64 keys do not fit
STAGES = 3  # of loading ahead: the keys of two turns are on their way
FIRST = 64  # tokens of the backward kernel's first tile: 128 at once are more than the registers hold
LEAST = 16  # rows of a matrix product


def takes(config: ModelConfig) -> bool:
    """Whether the kernels are for a network of these sizes."""
    return config.hidden_size // config.num_heads in HEADS and config.horizon + 3 <= TOKENS


def install(network: RdtNetwork) -> None:
    """Puts them into the network's picture blocks, if they are for its sizes."""
    blocks: list[Any] = list(network.model.blocks)
    if takes(network.config):
        for block in blocks[1::2]:
            block.cross_attn = PictureAttention(block.cross_attn)


class PictureAttention(nn.Module):
    """A `CrossAttention` without a mask by the kernels; its parts, and so the names of its weights, stay the same."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.q, self.kv = attention.q, attention.kv
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.proj = attention.proj

    def forward(self, x: Tensor, condition: Tensor, mask: None) -> Tensor:
        """(B, N, D), (B, C, D) -> (B, N, D)."""
        # The kernels add the gradient of the bias up on their way: the Linear would go through all of it once more.
        whole = type(self.kv) is nn.Linear
        kv = F.linear(condition, self.kv.weight, self.kv.bias.detach()) if whole else self.kv(condition)
        bias = self.kv.bias if whole else None
        q = self.q_norm(self.q(x).unflatten(-1, (self.num_heads, -1))) * self.k_norm.weight
        return self.proj(attend(q.flatten(2).to(kv.dtype), kv, bias, self.num_heads, self.k_norm.form))


def attend(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, form: Norm) -> Tensor:
    """Attention of queries (B, N, D) to keys, whose norm has no weight, and values (B, C, 2D) -> (B, N, D).

    Both are float32 or both bfloat16; the answer can be differentiated once. `bias` (2D) is one that `kv` has in it
    already, and gets its gradient here.
    """
    return _attend(q, kv, bias, heads, form)[0]


@torch.library.custom_op("rdt_ros::attend_to_pictures", mutates_args=())
def _attend(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, form: str) -> tuple[Tensor, Tensor, Tensor]:
    """Answers (B, N, D), logarithms (base 2) of the sums of their weights (B, H, N), keys' inverse roots (B, H, C)."""
    answers, weights, inverses = _like_answers(q, kv, bias, heads, form)
    tile = {"ROWS": _tile(q.shape[1])}
    _launch(_forward, FORWARD, tile, q.contiguous(), kv.contiguous(), heads, form, answers, weights, inverses)
    return answers, weights, inverses


@_attend.register_fake
def _like_answers(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, form: str) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, _ = q.shape
    weights = q.new_empty(batch, heads, rows, dtype=torch.float32)
    return q.new_empty(q.shape), weights, q.new_empty(batch, heads, kv.shape[1], dtype=torch.float32)


@torch.library.custom_op("rdt_ros::attend_to_pictures_backward", mutates_args=())
def _attend_backward(
    given: Tensor, q: Tensor, kv: Tensor, answers: Tensor, weights: Tensor, inverses: Tensor, heads: int, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, of keys and values, and the sums (2D) of the latter, from that of the answers."""
    to_q, to_kv, _ = _like_gradients(given, q, kv, answers, weights, inverses, heads, form)
    rows = q.shape[1]
    first = min(_tile(rows), FIRST)
    tiles = {"FIRST": first, "REST": _tile(rows - first) if rows > first else 0}
    way = BACKWARD_HOPPER if q.is_cuda and torch.cuda.get_device_capability(q.device)[0] == 9 else BACKWARD
    sums = given.new_empty(len(q), q.shape[2], dtype=torch.float32)  # of a sample's keys
    others = answers, weights, inverses, given.contiguous(), to_q, to_kv, sums
    _launch(_backward, way, tiles, q.contiguous(), kv.contiguous(), heads, form, *others)
    # A token's shares add up to one, so the sum over values is that over answers.
    return to_q, to_kv, torch.cat([sums.sum(0), given.sum((0, 1), dtype=torch.float32)])


@_attend_backward.register_fake
def _like_gradients(
    given: Tensor, q: Tensor, kv: Tensor, answers: Tensor, weights: Tensor, inverses: Tensor, heads: int, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), kv.new_empty(kv.shape), q.new_empty(kv.shape[2], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, kv, bias, ctx.heads, ctx.form = inputs
    ctx.bias = None if bias is None else bias.dtype
    ctx.save_for_backward(q, kv, *output)


def _differentiate(ctx: Any, given: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    to_q, to_kv, sums = _attend_backward(given, *ctx.saved_tensors, ctx.heads, ctx.form)
    return to_q, to_kv, None if ctx.bias is None else sums.to(ctx.bias), None, None


_attend.register_autograd(_differentiate, setup_context=_keep)


def _tile(rows: int) -> int:
    return max(triton.next_power_of_2(rows), LEAST)


def _launch(
    kernel: Any,
    way: tuple[int, int],
    tiles: dict[str, int],
    q: Tensor,
    kv: Tensor,
    heads: int,
    form: str,
    *others: Tensor,
) -> None:
    """A program for each head of each sample."""
    (batch, rows, width), head = q.shape, q.shape[2] // heads
    keys, warps = way
    kernel[heads, batch](
        q,
        kv,
        *others,
        rows,
        head**-0.5,
        WIDTH=width,
        HEAD=head,
        VARIANCE=form == "variance",
        EPSILON=NORM_EPSILON,
        KEYS=keys,
        LENGTH=kv.shape[1],  # a constant, as Triton's interpreter does not loop over numbers that are none
        num_warps=warps,
        num_stages=STAGES,
        **tiles,
    )


@triton.jit
def _load(x, top, rows, WIDTH: tl.constexpr, HEAD: tl.constexpr, ROWS: tl.constexpr):
    """(ROWS, HEAD) of this program's sample and head from row `top` on, zero below the last row."""
    row = top + tl.arange(0, ROWS)[:, None]
    x += tl.program_id(1).to(tl.int64) * rows * WIDTH + tl.program_id(0) * HEAD
    return tl.load(x + row * WIDTH + tl.arange(0, HEAD)[None, :], mask=row < rows, other=0)


@triton.jit
def _store(x, value, top, rows, WIDTH: tl.constexpr, HEAD: tl.constexpr, ROWS: tl.constexpr):
    """The other way."""
    row = top + tl.arange(0, ROWS)[:, None]
    x += tl.program_id(1).to(tl.int64) * rows * WIDTH + tl.program_id(0) * HEAD
    tl.store(x + row * WIDTH + tl.arange(0, HEAD)[None, :], value.to(x.dtype.element_ty), mask=row < rows)


@triton.jit
def _own(x, length, WIDTH: tl.constexpr, HEAD: tl.constexpr):
    """Where numbers (B, H, length) of this program's sample and head begin."""
    return x + (tl.program_id(1).to(tl.int64) * (WIDTH // HEAD) + tl.program_id(0)) * length


@triton.jit
def _forward(
    q,
    kv,
    answers,
    weights,
    inverses,
    rows,
    scale,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    KEYS: tl.constexpr,
    LENGTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Shares and their sum relative to the highest score so far, which are made smaller when a higher one comes."""
    scale *= 1.4426950408889634  # log2(e): shares are powers of two
    asked = _load(q, 0, rows, WIDTH, HEAD, ROWS)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, HEAD), tl.float32)
    kv += tl.program_id(1).to(tl.int64) * (LENGTH * 2 * WIDTH)
    inverses = _own(inverses, LENGTH, WIDTH, HEAD)
    column = tl.program_id(0) * HEAD + tl.arange(0, HEAD)
    for start in range(0, LENGTH, KEYS):
        key = start + tl.arange(0, KEYS)
        there = key < LENGTH
        at = kv + key[:, None] * (2 * WIDTH) + column[None, :]
        x = tl.load(at, mask=there[:, None], other=0)
        v = tl.load(at + WIDTH, mask=there[:, None], other=0)
        full = x.to(tl.float32)
        if VARIANCE:
            full = full - tl.sum(full, 1)[:, None] / HEAD
            power = tl.sum(full * full, 1) / (HEAD - 1)
        else:
            power = tl.sum(full * full, 1) / HEAD
        inverse = tl.rsqrt(power + EPSILON)
        tl.store(inverses + key, inverse, mask=there)
        score = tl.dot(asked, tl.trans(x), input_precision="ieee") * (inverse * scale)[None, :]
        score = tl.where(there[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        share, before = tl.exp2(score - higher[:, None]), tl.exp2(highest - higher)
        total = total * before + tl.sum(share, 1)
        found = tl.dot(share.to(v.dtype), v, found * before[:, None], input_precision="ieee")
        highest = higher
    _store(answers, found / total[:, None], 0, rows, WIDTH, HEAD, ROWS)
    row = tl.arange(0, ROWS)
    tl.store(_own(weights, rows, WIDTH, HEAD) + row, highest + tl.log2(total), mask=row < rows)


@triton.jit
def _known(q, answers, weights, given, top, rows, WIDTH: tl.constexpr, HEAD: tl.constexpr, ROWS: tl.constexpr):
    """Of a tile of tokens: queries, gradient dy, logarithms of the weights (no share below the last), sum(dy y)."""
    y = _load(answers, top, rows, WIDTH, HEAD, ROWS).to(tl.float32)
    dy = _load(given, top, rows, WIDTH, HEAD, ROWS)
    row = top + tl.arange(0, ROWS)
    logarithm = tl.load(_own(weights, rows, WIDTH, HEAD) + row, mask=row < rows, other=float("inf"))
    return _load(q, top, rows, WIDTH, HEAD, ROWS), dy, logarithm, tl.sum(dy.to(tl.float32) * y, 1)


@triton.jit
def _add(q, dy, logarithm, without, x, v, inverse, scale, dq, dx, dv, pull):
    """What a tile of tokens and a turn's keys give each other; `pull` is sum_n dscore_nc r_c (q_n . x_c)."""
    product = tl.dot(x, tl.trans(q), input_precision="ieee")
    share = tl.exp2(product * (inverse * scale)[:, None] - logarithm[None, :])
    dv = tl.dot(share.to(q.dtype), dy, dv, input_precision="ieee")
    dscore = share * (tl.dot(v, tl.trans(dy), input_precision="ieee") - without[None, :]) * inverse[:, None]
    pull += tl.sum(dscore * product, 1)
    dscore = dscore.to(q.dtype)
    dx = tl.dot(dscore, q, dx, input_precision="ieee")
    dq = tl.dot(tl.trans(dscore), x, dq, input_precision="ieee")
    return dq, dx, dv, pull


@triton.jit
def _backward(
    q,
    kv,
    answers,
    weights,
    inverses,
    given,
    to_q,
    to_kv,
    sums,
    rows,
    scale,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
    VARIANCE: tl.constexpr,
    EPSILON: tl.constexpr,
    KEYS: tl.constexpr,
    LENGTH: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
):
    """Two tiles of tokens, FIRST and REST, so that 67 need not be 128."""
    scale2 = scale * 1.4426950408889634
    q1, dy1, logarithm1, without1 = _known(q, answers, weights, given, 0, rows, WIDTH, HEAD, FIRST)
    dq1 = tl.zeros((FIRST, HEAD), tl.float32)
    if REST:
        q2, dy2, logarithm2, without2 = _known(q, answers, weights, given, FIRST, rows, WIDTH, HEAD, REST)
        dq2 = tl.zeros((REST, HEAD), tl.float32)
    kv += tl.program_id(1).to(tl.int64) * (LENGTH * 2 * WIDTH)
    to_kv += tl.program_id(1).to(tl.int64) * (LENGTH * 2 * WIDTH)
    inverses = _own(inverses, LENGTH, WIDTH, HEAD)
    column = tl.program_id(0) * HEAD + tl.arange(0, HEAD)
    total = tl.zeros((HEAD,), tl.float32)
    for start in range(0, LENGTH, KEYS):
        key = start + tl.arange(0, KEYS)
        there = key < LENGTH
        at = key[:, None] * (2 * WIDTH) + column[None, :]
        x = tl.load(kv + at, mask=there[:, None], other=0)
        v = tl.load(kv + at + WIDTH, mask=there[:, None], other=0)
        inverse = tl.load(inverses + key, mask=there, other=0)
        dx = tl.zeros((KEYS, HEAD), tl.float32)
        dv = tl.zeros((KEYS, HEAD), tl.float32)
        pull = tl.zeros((KEYS,), tl.float32)
        dq1, dx, dv, pull = _add(q1, dy1, logarithm1, without1, x, v, inverse, scale2, dq1, dx, dv, pull)
        if REST:
            dq2, dx, dv, pull = _add(q2, dy2, logarithm2, without2, x, v, inverse, scale2, dq2, dx, dv, pull)
        tl.store(to_kv + at + WIDTH, dv.to(x.dtype), mask=there[:, None])
        pull *= inverse * inverse
        full = x.to(tl.float32)
        if VARIANCE:
            full = (full - tl.sum(full, 1)[:, None] / HEAD) * (pull / (HEAD - 1))[:, None]
        else:
            full = full * (pull / HEAD)[:, None]
        dx = (dx - full) * scale
        total += tl.sum(dx, 0)
        tl.store(to_kv + at, dx.to(x.dtype), mask=there[:, None])
    tl.store(sums + tl.program_id(1) * WIDTH + column, total)
    _store(to_q, dq1 * scale, 0, rows, WIDTH, HEAD, FIRST)
    if REST:
        _store(to_q, dq2 * scale, FIRST, rows, WIDTH, HEAD, REST)
