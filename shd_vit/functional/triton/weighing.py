"""What maps make of values, and of that what weighs a pair; a program a block of rows.

Differences between maps are taken tile by tile, before they are rounded. Legend as in
:mod:`shd_vit.functional.triton.tiles`; a run is of groups of the same SIZE, next to each other.
"""

import triton
import triton.language as tl

from shd_vit.functional.triton.tiles import is_partial, keys_seen, log_map, vectors

COUNTS = ('first_head', 'groups', 'N', 'M')  # not worth another compilation


@triton.jit(do_not_specialize=COUNTS)
def head_outputs(
    side, value, value_strides, value_width, outputs, first_head, groups, N, M,
    SIZE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(A_i - A_1) V_j of a run, (groups, B, SIZE - 1, N, SIZE * value_width), some columns of it.

    Programs are along the blocks of columns, the heads i, the blocks of rows, groups and samples.
    """
    width = SIZE * value_width
    parts, blocks = (width + COLUMNS - 1) // COLUMNS, (N + ROWS - 1) // ROWS
    columns = tl.program_id(0) % parts * COLUMNS + tl.arange(0, COLUMNS)
    rest = tl.program_id(0) // parts
    member, rest = rest % (SIZE - 1), rest // (SIZE - 1)
    block, rest = rest % blocks, rest // blocks
    group, b = rest % groups, rest // groups
    head, row = first_head + group * SIZE, block * ROWS
    of_head = (head + columns // value_width) * value_strides[1] + columns % value_width
    of_head += b.to(tl.int64) * value_strides[0]
    start, stop = keys_seen(side, side, row, ROWS, N, M)
    total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for first in range(start // KEYS * KEYS, stop, KEYS):
        delta = difference_of_maps(
            side, b, head, 1 + member, row, ROWS, first, KEYS, N, M, D, PRECISION
        )  # fmt: skip
        keys = first + tl.arange(0, KEYS)
        inside = (keys[:, None] < M) & (columns[None, :] < width)
        places = value + of_head[None, :] + keys[:, None] * value_strides[2]
        v = tl.load(places, mask=inside, other=0.0)
        total = tl.dot(delta.to(v.dtype), v, total, input_precision=PRECISION)
    i = (row + tl.arange(0, ROWS))[:, None]
    batch = tl.num_programs(0) // (parts * (SIZE - 1) * blocks * groups)
    of_rows = ((group * batch + b).to(tl.int64) * (SIZE - 1) + member) * N + i
    inside = (i < N) & (columns[None, :] < width)
    tl.store(outputs + of_rows * width + columns[None, :], total, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def pair_sums(
    side, value, value_strides, width, grams, sums, first_head, groups, N, M,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D_V: tl.constexpr, OF_PRODUCT: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """<Delta S, Delta X_1> and ||Delta S||^2 of a block of rows of each pair of heads.

    The sums (B, groups, blocks, 2) of :func:`shd_vit.functional.squeeze.pair_weight`, of the second
    head less the first, with ``grams`` (groups, 2 width, 2 width).
    """
    blocks = (N + ROWS - 1) // ROWS
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    group, b = rest % groups, rest // groups
    head, row = first_head + 2 * group, block * ROWS
    start, stop = keys_seen(side, side, row, ROWS, N, M)
    u = tl.full([ROWS, D_V], 0.0, tl.float32)  # Delta V_1
    other_u = tl.full([ROWS, D_V], 0.0, tl.float32)  # Delta V_2
    for first in range(start // KEYS * KEYS, stop, KEYS):
        delta = difference_of_maps(side, b, head, 1, row, ROWS, first, KEYS, N, M, D, PRECISION)
        keys = first + tl.arange(0, KEYS)
        v = vectors(value, value_strides, b, head, keys, M, width, D_V)
        delta = delta.to(v.dtype)
        u = tl.dot(delta, v, u, input_precision=PRECISION)
        v = vectors(value, value_strides, b, head + 1, keys, M, width, D_V)
        other_u = tl.dot(delta, v, other_u, input_precision=PRECISION)
    sums_of_pair(sums, u, other_u, grams + group * 4 * width * width, width, D_V, OF_PRODUCT)


@triton.jit
def sums_of_pair(sums, u, other_u, gram, width, D_V: tl.constexpr, OF_PRODUCT: tl.constexpr):
    """Store the sums of this program, from Delta V_1 and Delta V_2."""
    own = weighed_product(u, u, gram, width, D_V, OF_PRODUCT)
    mixed = weighed_product(u, other_u, gram + width, width, D_V, OF_PRODUCT)
    last = gram + 2 * width * width + width
    rest = weighed_product(other_u, other_u, last, width, D_V, OF_PRODUCT)
    tl.store(sums + 2 * tl.program_id(0), own + mixed)
    tl.store(sums + 2 * tl.program_id(0) + 1, own + 2 * mixed + rest)


@triton.jit
def weighed_product(left, right, gram, width, D_V: tl.constexpr, OF_PRODUCT: tl.constexpr):
    """<left^T right, a block of a Gram matrix>."""
    product = tl.dot(tl.trans(left), right, input_precision=OF_PRODUCT)
    return product_with(product, gram, width, D_V)


@triton.jit
def product_with(product, gram, width, D_V: tl.constexpr):
    """<a (D_V, D_V) matrix, a block of a Gram matrix>."""
    row, column = tl.arange(0, D_V)[:, None], tl.arange(0, D_V)[None, :]
    inside = (row < width) & (column < width)
    weights = tl.load(gram + row * 2 * width + column, mask=inside, other=0.0)
    return tl.sum(tl.sum(product * weights, 1), 0)


@triton.jit
def difference_of_maps(
    side, b, head, member, row, ROWS: tl.constexpr, key, KEYS: tl.constexpr, N, M,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The map of ``head + member`` less that of ``head``: a tile; 0 in rows beyond N."""
    rows, keys = row + tl.arange(0, ROWS), key + tl.arange(0, KEYS)
    i, j = rows[:, None], keys[None, :]
    partial = is_partial(side, row, ROWS, key, KEYS, N, M)
    one = log_map(side, b, head, partial, i, j, rows, keys, N, M, False, D, PRECISION)
    other = log_map(side, b, head + member, partial, i, j, rows, keys, N, M, False, D, PRECISION)
    return tl.exp2(other) - tl.exp2(one)
