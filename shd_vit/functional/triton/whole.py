"""Passes in which a program has whole rows of a map: of few keys, such as an image's.

The sums of rows are then made on the way, not in a pass of their own. Legend as in
:mod:`shd_vit.functional.triton.tiles`; KEYS is at least M.
"""

import triton
import triton.language as tl

from shd_vit.functional.triton.kernels import COUNTS, divergence, put, sums_of_pair
from shd_vit.functional.triton.tiles import is_partial, logits, merged_map, vectors


@triton.jit
def whole_rows(
    side, b, h, row, ROWS: tl.constexpr, KEYS: tl.constexpr, N, M,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A map of some rows, 0 beyond N, and its logarithms in base 2; stores ``side.lse``."""
    rows, keys = row + tl.arange(0, ROWS), tl.arange(0, KEYS)
    q = vectors(side.q, side.q_strides, b, h, rows, N, side.width, D)
    k = vectors(side.k, side.k_strides, b, h, keys, M, side.width, D)
    partial = is_partial(side, row, ROWS, 0, KEYS, N, M)
    tile = logits(side, q, k, partial, b, h, rows[:, None], keys[None, :], N, M, PRECISION)
    largest = tl.max(tile, 1)
    maps = tl.exp2(tile - largest[:, None])
    total = tl.sum(maps, 1)
    lse = largest + tl.log2(total)
    tl.store(side.lse + (b * side.heads + h).to(tl.int64) * N + rows, lse, mask=rows < N)
    maps *= tl.where(rows < N, 1 / total, 0.0)[:, None]
    return maps, tile - lse[:, None]


@triton.jit(do_not_specialize=COUNTS[1:])
def pair_sums_of_whole(
    side, value, value_strides, width, grams, sums, first_head, groups, N, M,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D_V: tl.constexpr, OF_PRODUCT: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As :func:`shd_vit.functional.triton.kernels.pair_sums`; stores ``side.lse``."""
    blocks = (N + ROWS - 1) // ROWS
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    group, b = rest % groups, rest // groups
    head, row = first_head + 2 * group, block * ROWS
    keys = tl.arange(0, KEYS)
    one, _ = whole_rows(side, b, head, row, ROWS, KEYS, N, M, D, PRECISION)
    other, _ = whole_rows(side, b, head + 1, row, ROWS, KEYS, N, M, D, PRECISION)
    v = vectors(value, value_strides, b, head, keys, M, width, D_V)
    delta = (other - one).to(v.dtype)
    u = tl.dot(delta, v, input_precision=PRECISION)
    v = vectors(value, value_strides, b, head + 1, keys, M, width, D_V)
    other_u = tl.dot(delta, v, input_precision=PRECISION)
    sums_of_pair(sums, u, other_u, grams + group * 4 * width * width, width, D_V, OF_PRODUCT)


@triton.jit(do_not_specialize=COUNTS)
def loss_of_whole_rows(
    student, teacher, weights, losses, slopes, grad, grad_strides,
    first_group, first_head, groups, N, M, SIZE: tl.constexpr, IS_MSE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    D_T: tl.constexpr, PRECISION_T: tl.constexpr,
):  # fmt: skip
    """As :func:`shd_vit.functional.triton.kernels.loss_of_rows`; stores ``student.lse``."""
    blocks = (N + ROWS - 1) // ROWS
    block, g = tl.program_id(0) % blocks, tl.program_id(0) // blocks % groups
    b, h = tl.program_id(0) // blocks // groups, first_group + g
    head, row = first_head + g * SIZE, block * ROWS
    rows, keys = row + tl.arange(0, ROWS), tl.arange(0, KEYS)
    partial = is_partial(teacher, row, ROWS, 0, KEYS, N, M)
    wanted = merged_map(
        teacher, weights, b, head, partial, rows[:, None], keys[None, :], rows, keys, N, M, False,
        SIZE, D_T, PRECISION_T,
    )  # fmt: skip
    p, log_p = whole_rows(student, b, h, row, ROWS, KEYS, N, M, D, PRECISION)
    if IS_MSE:
        error = p - wanted
        loss = tl.sum(error * error, 1)
        slope = tl.sum(error * p, 1)
        of_slopes = slopes + (b * student.heads + h).to(tl.int64) * N + rows
        tl.store(of_slopes, slope, mask=rows < N)
        residual = 2 * p * (error - slope[:, None])
    else:
        loss = tl.sum(divergence(student, log_p, wanted), 1)
        residual = p - wanted
    k = vectors(student.k, student.k_strides, b, h, keys, M, student.width, D)
    total = tl.dot(residual.to(k.dtype), k, input_precision=PRECISION)
    tl.store(losses + tl.program_id(0), tl.sum(tl.where(rows < N, loss, 0.0), 0))
    put(grad, grad_strides, b, h, rows, total * student.factor, N, student.width, D)
