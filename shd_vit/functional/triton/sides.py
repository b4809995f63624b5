"""What kernels are told of a model, and how they are launched."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shd_vit.functional.attention import widen
from shd_vit.functional.masks import Mask
from shd_vit.functional.triton.kernels import row_sums
from shd_vit.functional.triton.tiles import Side

ANYWHERE = 2**30 - 1  # tokens; odd, since Triton compiles anew for multiples of 16
WIDTHS = 16, 128  # of heads, padded to a power of two: what the tensor cores take, and what fits


class Blocks(NamedTuple):
    """Queries of a program that is made for some (or keys), keys that it looks at a time (or
    queries), its warps, and the stages of its loop."""

    own: int = 64  # of the tensor cores' largest product
    other: int = 32  # with more, a tile of each map fills the registers, and few programs run
    warps: int = 4
    stages: int = 2


# Of maps whose rows a program holds: queries, most keys.
WHOLE = Blocks(32, 256, warps=8, stages=2)
WHOLE_WIDTHS = (64,)  # of heads, padded; programs of narrower ones spill


def are_short(N: int, M: int, *tensors: Tensor) -> bool:
    """Whether a program holds whole rows of maps of these heads."""
    if not (N == M <= WHOLE.other and holds_rows(tensors[0].device)):
        return False
    return all(t.element_size() == 2 and padded(t.shape[-1]) in WHOLE_WIDTHS for t in tensors)


@cache
def holds_rows(device: torch.device) -> bool:
    """Whether the registers of a program hold whole rows there: on Hopper and Blackwell (10.x).

    Compiled for 8.0, 8.9 and 12.0, kilobytes are spilled, or shared memory does not suffice.
    """
    if device.type != 'cuda':
        return True  # in the interpreter
    return bool(torch.version.cuda) and torch.cuda.get_device_capability(device)[0] in (9, 10)


def blocks_of(*tensors: Tensor, size: int = 1) -> Blocks:
    """By what fills registers and shared memory: the type and width of heads, and how many."""
    width, bytes_of_number = (
        max(padded(t.shape[-1]) for t in tensors),
        max(t.element_size() for t in tensors),
    )
    if bytes_of_number > 2:  # multiplied without tensor cores, out of registers
        side = 32 if width <= 64 else 16
        return Blocks(side, side, warps=8, stages=1)
    return Blocks(stages=3 if width * size <= 128 else 2 if width * size <= 256 else 1)


class Run(NamedTuple):
    """Groups of one size, next to each other."""

    size: int
    first_group: int
    first_head: int
    groups: int


def runs_of(sizes: tuple[int, ...]) -> Iterator[Run]:
    group, head = 0, 0
    for size, same in groupby(sizes):
        count = len(list(same))
        yield Run(size, group, head, count)
        group, head = group + count, head + count * size


def side_of(
    query: Tensor,
    key: Tensor,
    factor: float,
    bias: Tensor | None,
    mask: Mask,
    ignored: Tensor | None,
    wants_sums: bool = True,
) -> Side:
    """Of (B, H, N, D) and (B, H, M, D); runs the pass over rows that others stand on, if wanted.

    Args:
        query: Of the model.
        key: Of the model.
        factor: On the dot products, of the softmax.
        bias: Of the softmax, broadcastable to (W, H, N, M).
        mask: What its queries see besides.
        ignored: Rows that do not count, broadcastable to (W, H, N, 1); or None.
        wants_sums: Whether ``lse`` is computed.
    """
    if query.dtype != key.dtype:  # neither is rounded to the other's type
        query, key = widen(query), widen(key)
    query, key = (unit_stride(t) for t in (query, key))
    B, H, N, D = query.shape
    M, windows = key.shape[2], 1
    strides: tuple[int, ...] = 0, 0, 0
    if bias is not None:
        bias, windows, strides = _broadcast(bias, (H, N, M))
        if bias.stride(-1) != 1:
            bias = bias.contiguous()
            strides = bias.stride()[:3]
    before = ANYWHERE if mask.window is None else mask.window
    stride = -(-N // 16) * 16
    lse = query.new_empty(B, H, stride, dtype=torch.float32) if wants_sums else None
    side = Side(
        *(query, key, bias, _codes(mask), lse, stride),
        *(query.stride()[:3], key.stride()[:3], strides, windows, H, float(factor)),
        *(before, -1 if mask.is_causal else -before, D),
    )
    if lse is None:
        return side
    rows: tuple[Any, ...] = None, (0, 0, 0), 1
    if ignored is not None:
        flags, many, of_flags = _broadcast(ignored, (H, N, 1))
        rows = flags, of_flags, many
    blocks = blocks_of(query)
    launch(
        *(row_sums, B * H * -(-N // blocks.own), blocks, side, *rows, N, M),
        ROWS=blocks.own, KEYS=blocks.other, **of_dots(side),
    )  # fmt: skip
    return side


def launch(kernel: Any, programs: int, blocks: Blocks, *args: Any, **constants: Any) -> None:
    """Run ``programs`` of a kernel on the device of its tensors."""
    with torch.cuda.device_of(args[0].q):
        kernel[(programs,)](*args, num_warps=blocks.warps, num_stages=blocks.stages, **constants)


def of_dots(side: Side) -> dict[str, Any]:
    """What the kernels' products of queries and keys are compiled for."""
    return dict(D=padded(side.width), PRECISION=precision())


def precision() -> str:
    """Of products of float32: exact, unless torch's own are allowed to round to TF32."""
    return 'ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'


def padded(width: int) -> int:
    """The power of two that a head of this width is padded to."""
    return max(WIDTHS[0], 1 << (width - 1).bit_length())


def unit_stride(heads: Tensor) -> Tensor:
    return heads if heads.stride(-1) == 1 else heads.contiguous()


def _codes(mask: Mask) -> Tensor | None:
    """Numbers (B, M) that a query and the keys it sees have in common."""
    codes, padding = mask.documents, mask.padding
    if padding is None:
        return None if codes is None else codes.contiguous()
    if codes is None:
        return padding.to(torch.int32).contiguous()
    codes = codes.long()
    return torch.where(padding, codes, codes.amin() - 1).contiguous()


def _broadcast(tensor: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, int, tuple[int, ...]]:
    """As (W, *shape), without a copy; W; and its strides."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bool:
        tensor = tensor.view(torch.int8)
    full = tensor.expand(*(1,) * (4 - tensor.dim()), *tensor.shape)
    full = full.expand(len(full), *shape)
    return full, len(full), full.stride()[:3]
