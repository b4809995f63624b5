"""The passes over tiles, a program each a block of rows or keys of one head.

Rows of long maps do not fit on chip: their sums come first, then whatever is made of the maps. No
two programs write the same numbers, so results do not depend on their order. Legend as in
:mod:`shd_vit.functional.triton.tiles`; a run is of groups of the same SIZE, next to each other.
"""

import triton
import triton.language as tl

from shd_vit.functional.triton.tiles import (
    HIDDEN,
    is_partial,
    keys_seen,
    log2,
    log_map,
    logits,
    merged_map,
    queries_seen,
    sums_of_rows,
    vectors,
)

# Arguments that differ from batch to batch, and are not worth another compilation.
COUNTS = ('first_group', 'first_head', 'groups', 'N', 'M')
TINY = tl.constexpr(1.2e-38)  # of the numbers that the processor's logarithm takes for other than 0


@triton.jit(do_not_specialize=('N', 'M'))
def row_sums(
    side, ignored, ignored_strides, ignored_windows, N, M,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``side.lse`` of a block of rows: inf where they are ignored, or NaN."""
    blocks = (N + ROWS - 1) // ROWS
    block, h = tl.program_id(0) % blocks, tl.program_id(0) // blocks % side.heads
    b = tl.program_id(0) // blocks // side.heads
    rows = block * ROWS + tl.arange(0, ROWS)
    i = rows[:, None]
    q = vectors(side.q, side.q_strides, b, h, rows, N, side.width, D)
    start, stop = keys_seen(side, side, block * ROWS, ROWS, N, M)
    largest = tl.full([ROWS], HIDDEN, tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    for first in range(start // KEYS * KEYS, stop, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = vectors(side.k, side.k_strides, b, h, keys, M, side.width, D)
        partial = is_partial(side, block * ROWS, ROWS, first, KEYS, N, M)
        tile = logits(side, q, k, partial, b, h, i, keys[None, :], N, M, PRECISION)
        larger = tl.maximum(largest, tl.max(tile, 1))
        total = total * tl.exp2(largest - larger) + tl.sum(tl.exp2(tile - larger[:, None]), 1)
        largest = larger
    lse = largest + tl.log2(total)
    if ignored is not None:
        s = ignored_strides
        start = ignored + (b % ignored_windows).to(tl.int64) * s[0] + h * s[1]
        dropped = tl.load(start + rows * s[2], mask=rows < N, other=0)
        lse = tl.where(dropped != 0, float('inf'), lse)
    start = side.lse + (b * side.heads + h).to(tl.int64) * side.lse_stride
    tl.store(start + rows, lse, mask=rows < N)


@triton.jit(do_not_specialize=COUNTS)
def loss_of_rows(
    student, teacher, weights, losses, slopes, grad, grad_strides,
    first_group, first_head, groups, N, M, SIZE: tl.constexpr, IS_MSE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    D_T: tl.constexpr, PRECISION_T: tl.constexpr,
):  # fmt: skip
    """Loss and gradient of the queries of a block of rows of a student head.

    A loss a program, of KL in base 2. Of MSE, ``slopes`` (B, H, N) are each row's <map, error>.
    """
    blocks = (N + ROWS - 1) // ROWS
    block, g = tl.program_id(0) % blocks, tl.program_id(0) // blocks % groups
    b, h = tl.program_id(0) // blocks // groups, first_group + g
    head, row = first_head + g * SIZE, block * ROWS
    rows = row + tl.arange(0, ROWS)
    counts = sums_of_rows(student, b, h, rows, N) != float('inf')
    start, stop = keys_seen(student, teacher, row, ROWS, N, M)
    start = start // KEYS * KEYS
    loss = tl.full([ROWS], 0.0, tl.float32)
    slope = tl.full([ROWS], 0.0, tl.float32)
    if IS_MSE:
        for first in range(start, stop, KEYS):
            log_p, wanted = both_maps(
                student, teacher, weights, b, h, head, row, ROWS, first, KEYS, N, M, False,
                SIZE, D, PRECISION, D_T, PRECISION_T,
            )  # fmt: skip
            p = tl.exp2(log_p)
            loss += tl.sum((p - wanted) * (p - wanted), 1)
            slope += tl.sum((p - wanted) * p, 1)
        of_slopes = slopes + (b * student.heads + h).to(tl.int64) * N + rows
        tl.store(of_slopes, slope, mask=rows < N)
    total = tl.full([ROWS, D], 0.0, tl.float32)
    for first in range(start, stop, KEYS):
        log_p, wanted = both_maps(
            student, teacher, weights, b, h, head, row, ROWS, first, KEYS, N, M, False,
            SIZE, D, PRECISION, D_T, PRECISION_T,
        )  # fmt: skip
        if not IS_MSE:
            loss += tl.sum(divergence(student, log_p, wanted), 1)
        residual = of_logits(log_p, wanted, slope[:, None], IS_MSE)
        keys = first + tl.arange(0, KEYS)
        k = vectors(student.k, student.k_strides, b, h, keys, M, student.width, D)
        total = tl.dot(residual.to(k.dtype), k, total, input_precision=PRECISION)
    tl.store(losses + tl.program_id(0), tl.sum(tl.where(counts, loss, 0.0), 0))
    total = tl.where(counts[:, None], total * student.factor, 0.0)
    put(grad, grad_strides, b, h, rows, total, N, student.width, D)


@triton.jit(do_not_specialize=COUNTS)
def gradient_of_keys(
    student, teacher, weights, slopes, grad, grad_strides,
    first_group, first_head, groups, N, M, SIZE: tl.constexpr, IS_MSE: tl.constexpr,
    SOME_COUNT: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr, D_T: tl.constexpr, PRECISION_T: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of keys of a student head; tiles have a row a key.

    SOME_COUNT: not all of the rows up to N do.
    """
    blocks = (M + KEYS - 1) // KEYS
    block, g = tl.program_id(0) % blocks, tl.program_id(0) // blocks % groups
    b, h = tl.program_id(0) // blocks // groups, first_group + g
    head, key = first_head + g * SIZE, block * KEYS
    start, stop = queries_seen(student, teacher, key, KEYS, N, M)
    total = tl.full([KEYS, D], 0.0, tl.float32)
    for first in range(start // ROWS * ROWS, stop, ROWS):
        rows = first + tl.arange(0, ROWS)
        i = rows[None, :]
        log_p, wanted = both_maps(
            student, teacher, weights, b, h, head, first, ROWS, key, KEYS, N, M, True,
            SIZE, D, PRECISION, D_T, PRECISION_T,
        )  # fmt: skip
        slope = 0.0
        if IS_MSE:
            of_slopes = slopes + (b * student.heads + h).to(tl.int64) * N
            slope = tl.load(of_slopes + i, mask=i < N, other=0.0)
        residual = of_logits(log_p, wanted, slope, IS_MSE)
        if SOME_COUNT:
            counts = sums_of_rows(student, b, h, i, N) != float('inf')
            residual = tl.where(counts, residual, 0.0)
        q = vectors(student.q, student.q_strides, b, h, rows, N, student.width, D)
        total = tl.dot(residual.to(q.dtype), q, total, input_precision=PRECISION)
    keys = key + tl.arange(0, KEYS)
    put(grad, grad_strides, b, h, keys, total * student.factor, M, student.width, D)


@triton.jit
def both_maps(
    student, teacher, weights, b, h, head, row, ROWS: tl.constexpr, key, KEYS: tl.constexpr, N, M,
    BY_KEYS: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    D_T: tl.constexpr, PRECISION_T: tl.constexpr,
):  # fmt: skip
    """Logarithms of the student's map in base 2, and the teacher's merged one: a tile."""
    rows, keys = row + tl.arange(0, ROWS), key + tl.arange(0, KEYS)
    if BY_KEYS:
        i, j = rows[None, :], keys[:, None]
    else:
        i, j = rows[:, None], keys[None, :]
    partial = is_partial(teacher, row, ROWS, key, KEYS, N, M)
    wanted = merged_map(
        teacher, weights, b, head, partial, i, j, rows, keys, N, M, BY_KEYS, SIZE, D_T, PRECISION_T
    )  # fmt: skip
    partial = is_partial(student, row, ROWS, key, KEYS, N, M)
    log_p = log_map(student, b, h, partial, i, j, rows, keys, N, M, BY_KEYS, D, PRECISION)
    return log_p, wanted


@triton.jit
def divergence(student, log_p, wanted):
    """``wanted log2(wanted / p)``; what is no number stays none."""
    if student.bias is not None:  # keys may be at -inf, and 0 * -inf would be NaN
        log_p = tl.where(log_p < -3.4e38, -3.4e38, log_p)
    return wanted * (log2(tl.maximum(wanted, TINY)) - log_p)


@triton.jit
def of_logits(log_p, wanted, slope, IS_MSE: tl.constexpr):
    """Gradient of the distance with respect to the student's logits."""
    p = tl.exp2(log_p)
    if IS_MSE:
        return 2 * p * (p - wanted - slope)
    return p - wanted


@triton.jit
def put(start, strides, b, h, n, values, limit, width, COLUMNS: tl.constexpr):
    """Store vectors n of head h of sample b, rounded to the type that is there."""
    columns = tl.arange(0, COLUMNS)
    start += b.to(tl.int64) * strides[0] + h * strides[1]
    inside = (n[:, None] < limit) & (columns[None, :] < width)
    places = start + n[:, None] * strides[2] + columns[None, :]
    tl.store(places, values.to(start.dtype.element_ty), mask=inside)


@triton.jit
def multiplied(numbers, factor, result, count, BLOCK: tl.constexpr):
    """``numbers * factor`` in float32, rounded once: in one pass over memory."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    product = tl.load(numbers + i, mask=i < count).to(tl.float32) * tl.load(factor)
    tl.store(result + i, product.to(result.dtype.element_ty), mask=i < count)
