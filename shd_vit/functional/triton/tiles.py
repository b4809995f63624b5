"""Tiles of attention maps on a GPU: what one program makes of some queries and some keys.

Legend: a side is the student or the teacher, B batch, H its heads, N queries, M keys, D head width;
i are queries and j keys of a tile, either along its rows. Logits are in base 2: ``log2(e)`` is in
their factor.
"""

# Annotations are read by Triton: not to be postponed.
import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

# On NVIDIA's cards, as compiled.
HAS_LOG2 = tl.constexpr(bool(torch.version.cuda) and os.environ.get('TRITON_INTERPRET') != '1')
LOG2_E = tl.constexpr(1.4426950408889634)
HIDDEN = tl.constexpr(-1e38)  # a logit whose softmax is 0, finite as its logarithm
LOWEST = tl.constexpr(-1e37)  # of a bias that is finite: above HIDDEN


UNROLLED = tl.constexpr(4)  # heads of a group up to which their loop is


class Side(NamedTuple):
    """Queries and keys of one model, and what masks them; tensors are pointers in kernels.

    Attributes:
        q: (B, H, N, D), of unit stride in D.
        k: (B, H, M, D), likewise.
        bias: (W, H, N, M) of unit stride in M, additive; or bool, as int8; or None. A batch repeats
            W windows.
        codes: (B, M), whole numbers; a query sees keys that have its own. Or None.
        lse: (B, H, N), base-2 logarithms of the sums of the softmax; inf in rows that do not count.
            None of maps whose rows a program holds.
        lse_stride: Of H, a multiple of 16: many are then loaded at once.
        q_strides: Of B, H and N.
        k_strides: The same.
        bias_strides: Of W, H and N; 0 where it is broadcast.
        windows: W.
        heads: H.
        factor: On the dot products, before they are in base 2.
        before: Keys nearer than this alone are seen, before the query.
        behind: Minus the same of keys behind it: -1 if causal.
        width: D.
    """

    q: Any
    k: Any
    bias: Any
    codes: Any
    lse: Any
    lse_stride: Any
    q_strides: Any
    k_strides: Any
    bias_strides: Any
    windows: Any
    heads: Any
    factor: Any
    before: Any
    behind: Any
    width: Any


@triton.jit
def vectors(start, strides, b, h, n, limit, width, COLUMNS: tl.constexpr):
    """(len(n), COLUMNS): vectors n of head h of sample b, 0 beyond ``limit`` and ``width``."""
    columns = tl.arange(0, COLUMNS)
    start += b.to(tl.int64) * strides[0] + h * strides[1]
    inside = (n[:, None] < limit) & (columns[None, :] < width)
    return tl.load(start + n[:, None] * strides[2] + columns[None, :], mask=inside, other=0.0)


@triton.jit
def sums_of_rows(side, b, h, i, N):
    """The lse of queries i, in their shape; inf beyond N."""
    start = side.lse + (b * side.heads + h).to(tl.int64) * side.lse_stride
    return tl.load(start + i, mask=i < N, other=float('inf'))


@triton.jit
def visible(side, b, i, j, N, M):
    """Which keys j queries i see; both have two dimensions."""
    place = i + (M - N)
    nearer = place - j
    seen = (nearer < side.before) & (nearer > side.behind) & (j < M)
    if side.codes is not None:
        codes = side.codes + b.to(tl.int64) * M
        own = tl.load(codes + place, mask=i < N, other=0)
        seen &= own == tl.load(codes + j, mask=j < M, other=0)
    return seen


@triton.jit
def is_partial(side, i, ROWS: tl.constexpr, j, KEYS: tl.constexpr, N, M):
    """Whether queries i to i + ROWS may not see all of keys j to j + KEYS."""
    if side.codes is not None:
        return True
    nearest, farthest = i + (M - N) - (j + KEYS - 1), i + ROWS - 1 + (M - N) - j
    return (j + KEYS > M) | (farthest >= side.before) | (nearest <= side.behind)


@triton.jit
def logits(side, left, right, partial, b, h, i, j, N, M, PRECISION: tl.constexpr):
    """Those of ``left @ right.T``, queries or keys each, in base 2; all seen if not ``partial``."""
    tile = tl.dot(left, tl.trans(right), input_precision=PRECISION) * (side.factor * LOG2_E)
    if side.bias is not None:
        s = side.bias_strides
        start = side.bias + (b % side.windows).to(tl.int64) * s[0] + h * s[1]
        inside = (i < N) & (j < M)
        bias = tl.load(start + i.to(tl.int64) * s[2] + j, mask=inside, other=0)
        if side.bias.dtype.element_ty == tl.int8:
            tile = tl.where(bias != 0, tile, HIDDEN)
        else:
            bias = bias.to(tl.float32) * LOG2_E
            tile += tl.where((bias < LOWEST) & (bias != float('-inf')), LOWEST, bias)
    if partial:
        tile = tl.where(visible(side, b, i, j, N, M), tile, HIDDEN)
    return tile


@triton.jit
def keys_seen(one, other, i, ROWS: tl.constexpr, N, M):
    """First and last key that queries i to i + ROWS see on one of two sides."""
    first = i + (M - N)
    start = first - tl.maximum(one.before, other.before) + 1
    stop = first + ROWS - 1 - tl.minimum(one.behind, other.behind)
    return tl.maximum(start, 0), tl.minimum(stop, M)


@triton.jit
def queries_seen(one, other, j, KEYS: tl.constexpr, N, M):
    """First and last query that see one of keys j to j + KEYS on one of two sides."""
    start = j + tl.minimum(one.behind, other.behind) + 1 - (M - N)
    stop = j + KEYS - 1 + tl.maximum(one.before, other.before) - (M - N)
    return tl.maximum(start, 0), tl.minimum(stop, N)


@triton.jit
def log_map(
    side, b, h, partial, i, j, queries, keys, N, M, BY_KEYS: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Base-2 logarithms of a map at ``queries`` and ``keys``; its rows are keys if BY_KEYS."""
    q = vectors(side.q, side.q_strides, b, h, queries, N, side.width, D)
    k = vectors(side.k, side.k_strides, b, h, keys, M, side.width, D)
    if BY_KEYS:
        tile = logits(side, k, q, partial, b, h, i, j, N, M, PRECISION)
    else:
        tile = logits(side, q, k, partial, b, h, i, j, N, M, PRECISION)
    return tile - sums_of_rows(side, b, h, i, N)


@triton.jit
def weighed_map(
    side, weights, b, h, partial, i, j, queries, keys, N, M, BY_KEYS: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A map, times the weight of its head."""
    log_p = log_map(side, b, h, partial, i, j, queries, keys, N, M, BY_KEYS, D, PRECISION)
    return tl.exp2(log_p) * tl.load(weights + b * side.heads + h)


@triton.jit
def merged_map(
    side, weights, b, first, partial, i, j, queries, keys, N, M, BY_KEYS: tl.constexpr,
    SIZE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weighted sum of the maps of SIZE heads from ``first`` on."""
    if SIZE == 1:  # alone, a head weighs 1
        return tl.exp2(
            log_map(side, b, first, partial, i, j, queries, keys, N, M, BY_KEYS, D, PRECISION)
        )
    total = weighed_map(
        side, weights, b, first, partial, i, j, queries, keys, N, M, BY_KEYS, D, PRECISION
    )  # fmt: skip
    if SIZE <= UNROLLED:
        for n in tl.static_range(1, SIZE):
            total += weighed_map(
                side, weights, b, first + n, partial, i, j, queries, keys, N, M, BY_KEYS, D,
                PRECISION,
            )  # fmt: skip
    else:
        for n in range(1, SIZE):
            total += weighed_map(
                side, weights, b, first + n, partial, i, j, queries, keys, N, M, BY_KEYS, D,
                PRECISION,
            )  # fmt: skip
    return total


@triton.jit
def log2(x):
    """The processor's own, where there is one: Triton's takes as long as all else of a tile."""
    if HAS_LOG2:
        return tl.inline_asm_elementwise(
            'lg2.approx.ftz.f32 $0, $1;', '=f,f', [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.log2(x)
