"""Tiles of maps: some samples and heads, a block of query rows, a run of keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from shd_vit.functional.masks import Mask, batch_slice, tile_of

# Elements of a temporary map (b, h, n, m), whatever the batch size. On a CPU 2 MiB in float32, so
# that the few maps in flight stay in cache; elsewhere 128 MiB, so that launches are few.
CHUNK_ELEMENTS = {'cpu': 2**19, 'default': 2**25}
# Maps of up to so many rows are made whole even where they are larger, with a mask and without:
# merging them on the way to the weights is then faster than making them twice.
WHOLE_ROWS = {True: 256, False: 640}
# Maps of a run of heads that may stay from their weights to the loss, in CHUNK_ELEMENTS: else they
# are made again.
KEPT_CHUNKS = {'cpu': 10, 'default': 2}
FEWEST_ROWS = 32  # of a block: products of fewer are slow
ROWS = 128  # of a block, for which heads are parted


Parts = list[tuple[slice, slice]]  # blocks of query rows, and the keys that those see


class Tile(NamedTuple):
    """A part of the maps (B, H, N, M): some samples, heads, query rows and keys."""

    batch: slice
    heads: slice
    rows: slice
    keys: slice

    def of(self, bias: Tensor | None, batch: int) -> Tensor | None:
        """The part of what broadcasts to (B, H, N, M), or repeats as windows do."""
        if bias is None:
            return None
        part = batch_slice(bias, batch, self.batch)
        return tile_of(part, self.heads, self.rows, self.keys)

    def of_rows(self, rows: Tensor | None, batch: int) -> Tensor | None:
        """The same of what broadcasts to (B, H, N, 1)."""
        return self._replace(keys=slice(0, 1)).of(rows, batch)


def limit(device_type: str) -> int:
    """Elements of a temporary map on a device."""
    return CHUNK_ELEMENTS.get(device_type, CHUNK_ELEMENTS['default'])


def may_stay(heads: int, parts: Parts, device_type: str) -> bool:
    """Whether maps of so many heads, of all blocks of rows, are few enough to be kept."""
    elements = heads * sum(_length(rows) * _length(keys) for rows, keys in parts)
    chunks = KEPT_CHUNKS.get(device_type, KEPT_CHUNKS['default'])
    return elements <= chunks * limit(device_type)


def batch_chunks(batch: int, elements: int, device_type: str) -> list[slice]:
    """Slices of the batch, as even as can be, that keep to CHUNK_ELEMENTS (or hold one sample).

    Args:
        batch: Samples.
        elements: Of the maps of a sample.
        device_type: Where.
    """
    chunks = -(-batch // max(1, limit(device_type) // elements))
    size = max(1, -(-batch // max(1, chunks)))
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def each_of(batch: int) -> list[slice]:
    """Slices of a sample each."""
    return [slice(start, start + 1) for start in range(batch)]


def is_whole(rows: int, keys: int, heads: int, masks: Sequence[Mask], device_type: str) -> bool:
    """Whether the maps of a sample are made whole: few rows, or within CHUNK_ELEMENTS."""
    is_masked = not all(mask.is_empty for mask in masks)
    return rows <= WHOLE_ROWS[is_masked] or heads * rows * keys <= limit(device_type)


def blocks(
    sizes: tuple[int, ...], rows: int, keys: int, masks: Sequence[Mask], device_type: str
) -> Iterator[tuple[slice, Parts]]:
    """Runs of merged heads, each with its blocks of query rows and the keys that those see.

    Args:
        sizes: Heads that are merged into each.
        rows: Of the maps of a sample.
        keys: The same.
        masks: A key is seen where one of them lets it be.
        device_type: Where.
    """
    if is_whole(rows, keys, sum(sizes), masks, device_type):
        yield slice(0, len(sizes)), [(slice(0, rows), slice(0, keys))]
        return
    first = 0
    while first < len(sizes):
        heads, last = sizes[first], first + 1
        width = ROWS * _length(_keys_of(masks, slice(rows // 2, rows // 2 + 1), keys))
        while last < len(sizes) and (heads + sizes[last]) * width <= limit(device_type):
            heads, last = heads + sizes[last], last + 1
        yield slice(first, last), row_blocks(rows, keys, heads, masks, device_type)
        first = last


def row_blocks(rows: int, keys: int, heads: int, masks: Sequence[Mask], device_type: str) -> Parts:
    """Blocks of query rows that keep to CHUNK_ELEMENTS, with the keys that one of them sees."""
    found, start = [], 0
    most = rows if _length(_keys_of(masks, slice(0, 1), keys)) == keys else ROWS
    while start < rows:
        size = min(most, rows - start)
        while True:
            block = slice(start, start + size)
            seen = _keys_of(masks, block, keys)
            if size <= FEWEST_ROWS or heads * size * _length(seen) <= limit(device_type):
                break
            size = max(FEWEST_ROWS, size // 2)
        found.append((block, seen))
        start = block.stop
    return found[::-1]  # largest first: what they leave is large enough for the others


def _keys_of(masks: Sequence[Mask], rows: slice, keys: int) -> slice:
    runs = [mask.keys_of(rows, keys) for mask in masks]
    return slice(min(run.start for run in runs), max(run.stop for run in runs))


def _length(run: slice) -> int:
    return run.stop - run.start
