"""Short maps: a program holds whole rows, so that two launches do what takes five over tiles.

Launching these takes longer than running them. A program is a group of heads of a sample: one head
or two, of queries that see all keys. Legend as in :mod:`shd_vit.functional.triton.tiles`; M = N,
and KEYS are all of them, padded.
"""

import triton
import triton.language as tl

from shd_vit.functional.triton.kernels import TINY, put
from shd_vit.functional.triton.tiles import HIDDEN, LOG2_E, log2, vectors
from shd_vit.functional.triton.weighing import product_with

COUNTS = ('first_group', 'first_head', 'groups', 'N')


@triton.jit
def rows_of_logits(side, q, k, N, KEYS: tl.constexpr, PRECISION: tl.constexpr):
    """Those of queries q, less the largest of each row."""
    tile = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (side.factor * LOG2_E)
    tile = tl.where(tl.arange(0, KEYS)[None, :] < N, tile, HIDDEN)
    return tile - tl.max(tile, 1)[:, None]


@triton.jit
def rows_of_map(
    side, k, b, h, rows, N, weight, KEYS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr
):
    """Rows of the map of head h, whose keys are k, times a weight."""
    q = vectors(side.q, side.q_strides, b, h, rows, N, side.width, D)
    exponentials = tl.exp2(rows_of_logits(side, q, k, N, KEYS, PRECISION))
    return exponentials * (weight / tl.sum(exponentials, 1))[:, None]


@triton.jit(do_not_specialize=COUNTS)
def weights_of_pairs(
    side, value, value_strides, width, grams, weights, first_head, groups, N,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    D_V: tl.constexpr, OF_PRODUCT: tl.constexpr,
):  # fmt: skip
    """The ``weights`` (B, H) of both heads of a pair, as :func:`weighing.pair_sums` gives them."""
    group, b = tl.program_id(0) % groups, tl.program_id(0) // groups
    head, keys = first_head + 2 * group, tl.arange(0, KEYS)
    k = vectors(side.k, side.k_strides, b, head, keys, N, side.width, D)
    other_k = vectors(side.k, side.k_strides, b, head + 1, keys, N, side.width, D)
    v = vectors(value, value_strides, b, head, keys, N, width, D_V)
    other_v = vectors(value, value_strides, b, head + 1, keys, N, width, D_V)
    own = tl.full([D_V, D_V], 0.0, tl.float32)
    mixed = tl.full([D_V, D_V], 0.0, tl.float32)
    rest = tl.full([D_V, D_V], 0.0, tl.float32)
    for first in range(0, N, ROWS):
        rows = first + tl.arange(0, ROWS)
        one = rows_of_map(side, k, b, head, rows, N, 1.0, KEYS, D, PRECISION)
        other = rows_of_map(side, other_k, b, head + 1, rows, N, 1.0, KEYS, D, PRECISION)
        delta = (other - one).to(v.dtype)  # 0 beyond N, where both are equal
        u = tl.dot(delta, v, input_precision=PRECISION)
        other_u = tl.dot(delta, other_v, input_precision=PRECISION)
        own = tl.dot(tl.trans(u), u, own, input_precision=OF_PRODUCT)
        mixed = tl.dot(tl.trans(u), other_u, mixed, input_precision=OF_PRODUCT)
        rest = tl.dot(tl.trans(other_u), other_u, rest, input_precision=OF_PRODUCT)
    gram = grams + group * 4 * width * width
    toward = product_with(own, gram, width, D_V)
    both = product_with(mixed, gram + width, width, D_V)
    norm = toward + 2 * both + product_with(rest, gram + 2 * width * width + width, width, D_V)
    # Equal heads: every weight gives the same map. What is no number stays none.
    weight = tl.where(norm <= 0, 0.5, (toward + both) / norm)
    weight = tl.where(weight < 0, 0.0, tl.where(weight > 1, 1.0, weight))
    tl.store(weights + b * side.heads + head, weight)
    tl.store(weights + b * side.heads + head + 1, 1 - weight)


@triton.jit(do_not_specialize=COUNTS)
def loss_and_gradients(
    student, teacher, weights, losses, grad_q, q_strides, grad_k, k_strides,
    first_group, first_head, groups, N, SIZE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    D_T: tl.constexpr, PRECISION_T: tl.constexpr,
):  # fmt: skip
    """KL in base 2 of a student head, one number a program, and both gradients."""
    g, b = tl.program_id(0) % groups, tl.program_id(0) // groups
    h, head, keys = first_group + g, first_head + g * SIZE, tl.arange(0, KEYS)
    k = vectors(student.k, student.k_strides, b, h, keys, N, student.width, D)
    of_one = vectors(teacher.k, teacher.k_strides, b, head, keys, N, teacher.width, D_T)
    of_other, weight, other_weight = of_one, 1.0, 0.0
    if SIZE == 2:
        of_other = vectors(teacher.k, teacher.k_strides, b, head + 1, keys, N, teacher.width, D_T)
        weight = tl.load(weights + b * teacher.heads + head)
        other_weight = tl.load(weights + b * teacher.heads + head + 1)
    loss = tl.full([ROWS], 0.0, tl.float32)
    total = tl.full([KEYS, D], 0.0, tl.float32)
    for first in range(0, N, ROWS):
        rows = first + tl.arange(0, ROWS)
        wanted = rows_of_map(teacher, of_one, b, head, rows, N, weight, KEYS, D_T, PRECISION_T)
        if SIZE == 2:
            wanted += rows_of_map(
                teacher, of_other, b, head + 1, rows, N, other_weight, KEYS, D_T, PRECISION_T
            )
        q = vectors(student.q, student.q_strides, b, h, rows, N, student.width, D)
        log_p = rows_of_logits(student, q, k, N, KEYS, PRECISION)
        p = tl.exp2(log_p)
        sums = tl.sum(p, 1)
        log_p -= tl.log2(sums)[:, None]
        p *= (1 / sums)[:, None]
        of_row = tl.sum(wanted * (log2(tl.maximum(wanted, TINY)) - log_p), 1)
        loss += tl.where(rows < N, of_row, 0.0)
        residual = (p - wanted).to(k.dtype)  # beyond N it meets queries of 0
        of_q = tl.dot(residual, k, input_precision=PRECISION) * student.factor
        put(grad_q, q_strides, b, h, rows, of_q, N, student.width, D)
        total = tl.dot(tl.trans(residual), q, total, input_precision=PRECISION)
    tl.store(losses + tl.program_id(0), tl.sum(loss, 0))
    put(grad_k, k_strides, b, h, keys, total * student.factor, N, student.width, D)
