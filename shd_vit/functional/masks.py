"""Which keys a query may see, said without an N x N tensor; and which queries count."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.errors import ConfigError

ROWS = 64  # of a dense bias that are looked through at a time


class Mask(NamedTuple):
    """Keys that queries may see; without arguments, all of them.

    Query i stands at the position ``i + offset`` among the keys. What the fields say holds all at
    once. Padding has no part in losses, neither as a key nor as a query.

    Attributes:
        is_causal: No query sees a key behind its own position.
        offset: How many keys precede the first query, as a prefix or a cache does; 0 or above.
        window: Keys nearer than this alone are seen, before the query and, unless it is causal,
            behind: 1 is the query's own key. None: all.
        padding: Bool (B, M) for M keys, True at those of tokens, False at those of padding.
        documents: (B, M), a number a token: queries see the keys with their own number, as in
            packed rows.
        queries: Bool (B, N), True at queries that have a part in losses. It hides no key.
    """

    is_causal: bool = False
    offset: int = 0
    window: int | None = None
    padding: Tensor | None = None
    documents: Tensor | None = None
    queries: Tensor | None = None

    def check(self, batch: int, queries: int, keys: int) -> None:
        """Refuse a mask that does not fit, or that leaves queries without keys.

        Raises:
            ConfigError: Naming the field, its value and what is allowed.
        """
        if self.window is not None and self.window < 1:
            raise ConfigError(f'window={self.window} leaves queries without keys: at least 1')
        if self.offset < 0:
            raise ConfigError(f'offset={self.offset} leaves queries without keys: at least 0')
        if keys != queries + self.offset:
            raise ConfigError(
                f'{queries} queries and {keys} keys with offset={self.offset} of the mask: '
                f'expected {queries + self.offset} keys'
            )
        for name in ('padding', 'documents'):
            given = getattr(self, name)
            if given is not None and given.shape != (batch, keys):
                raise ConfigError(f'{name} {tuple(given.shape)} must be (B, N) = {(batch, keys)}')
        if self.queries is not None and self.queries.shape != (batch, queries):
            expected = batch, queries
            raise ConfigError(f'queries {tuple(self.queries.shape)} must be (B, N) = {expected}')
        if self.padding is not None and self.padding.dtype != torch.bool:
            raise ConfigError(f'padding is {self.padding.dtype}: expected bool, True at tokens')

    def keys_of(self, rows: slice, keys: int) -> slice:
        """The run of keys, of ``keys``, outside of which no query of ``rows`` sees any."""
        first, last = rows.start + self.offset, rows.stop + self.offset
        start, stop = 0, last if self.is_causal else keys
        if self.window is not None:
            start = max(0, first - self.window + 1)
            stop = min(stop, last + self.window - 1)
        return slice(start, min(stop, keys))

    def visible(
        self, batch: slice, rows: slice, keys: slice, device: torch.device
    ) -> Tensor | None:
        """Bool (b or 1, 1, n, m), True where a query of ``rows`` sees a key; None if all do."""
        parts = []
        first, last = rows.start + self.offset, rows.stop - 1 + self.offset
        query = torch.arange(first, last + 1, device=device)[:, None]
        key = torch.arange(keys.start, keys.stop, device=device)
        if self.is_causal and keys.stop - 1 > first:
            parts.append(key <= query)
        if self.window is not None:
            if keys.start <= last - self.window:
                parts.append(key > query - self.window)
            if not self.is_causal and keys.stop - 1 >= first + self.window:
                parts.append(key < query + self.window)
        if self.padding is not None:
            parts.append(self.padding[batch, None, None, keys])
        if self.documents is not None:
            of_queries = self.documents[batch, first : last + 1]
            parts.append(of_queries[:, None, :, None] == self.documents[batch, None, None, keys])
        if not parts:
            return None
        seen = parts[0]
        for part in parts[1:]:
            seen = seen & part
        return seen.expand(*(1,) * (4 - seen.dim()), *seen.shape)

    def visible_end(
        self, batch: slice, rows: slice, keys: slice, device: torch.device
    ) -> Tensor | None:
        """:meth:`visible` of the last of ``keys``; the others are seen by all of these queries."""
        first, last = rows.start + self.offset, rows.stop - 1 + self.offset
        start = keys.start
        is_behind = self.window is not None and keys.start <= last - self.window
        if self.is_causal and not is_behind and self.padding is None and self.documents is None:
            seen = min(max(start, first + 1), keys.stop)
            if seen - start > keys.stop - seen:  # else a part is not less work than all
                start = seen
        return self.visible(batch, rows, slice(start, keys.stop), device)

    def dense(self, batch: int, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """:meth:`visible` of all queries and keys, for those who keep whole maps anyway."""
        self.check(batch, queries, keys)
        return self.visible(slice(0, batch), slice(0, queries), slice(0, keys), device)

    @property
    def is_empty(self) -> bool:
        """Whether every query sees every key."""
        return not self.is_causal and all(x is None for x in self[2:])


ALL_KEYS = Mask()


def check_bias(name: str, bias: Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuse a bias that does not broadcast to maps of a shape (B, H, N, M).

    Raises:
        ConfigError: Naming both shapes.
    """
    if bias is None:
        return
    own = (1,) * (4 - bias.dim()) + tuple(bias.shape)
    fits = len(own) == 4 and all(own[i] in (1, shape[i]) for i in (1, 2, 3))
    if not fits or shape[0] % own[0]:
        raise ConfigError(
            f'{name} {tuple(bias.shape)} does not broadcast to maps {shape}: expected 1 or the '
            'same in each place, or windows (W, ...) of which the batch is a multiple'
        )


def scaled(bias: Tensor | None, temperature: float) -> Tensor | None:
    """``bias / T_a``, of two dimensions at least; a bool mask as it is."""
    if bias is None:
        return None
    bias = torch.atleast_2d(bias)
    return bias if bias.dtype == torch.bool else bias / temperature


def seen_by(bias: Tensor) -> Tensor:
    """Bool, True where a bias lets a query see a key."""
    # NaN is seen, and makes the loss NaN.
    return bias if bias.dtype == torch.bool else bias != float('-inf')


def counted_rows(bias: Tensor) -> Tensor:
    """Which query rows have a part in losses: bool, (..., N or 1) for a bias (..., N or 1, N).

    Not those that see no key, and not those of padding: tokens whose own key no query sees.
    """
    visible = seen_by(torch.atleast_2d(bias))
    return visible.any(-1) & visible.any(-2)


def ignored_rows(bias: Tensor) -> Tensor:
    """The rows that do not count, (..., N or 1, 1)."""
    return ~counted_rows(bias)[..., None]


def ignored_queries(
    bias: Tensor | None, mask: Mask, batch: int, queries: int, keys: int, device: torch.device
) -> Tensor | None:
    """True at queries that do not count by a bias and a mask together: (b, h, N or 1, 1), or None.

    As :func:`ignored_rows`, a block of rows at a time.
    """
    ignored = _masked_queries(bias, mask, batch, queries, keys, device)
    if mask.queries is None:
        return ignored
    left_out = ~mask.queries[:, None, :, None]
    return left_out if ignored is None else ignored | left_out


def _masked_queries(
    bias: Tensor | None, mask: Mask, batch: int, queries: int, keys: int, device: torch.device
) -> Tensor | None:
    """Those that see no key, or are padding."""
    if bias is None:
        return None if mask.padding is None else ~mask.padding[:, None, mask.offset :, None]
    if mask.is_empty and not mask.offset:
        return ignored_rows(bias)
    bias = batch_slice(bias, batch, slice(0, batch))
    see, seen = [], torch.zeros((), dtype=torch.bool, device=device)
    for start in range(0, queries, ROWS):
        rows = slice(start, min(start + ROWS, queries))
        visible = mask.visible(slice(0, batch), rows, slice(0, keys), device)
        block = seen_by(tile_of(bias, slice(None), rows, slice(0, keys)))
        if visible is not None:
            block = block & visible
        shape = torch.broadcast_shapes(block.shape, (rows.stop - rows.start, keys))
        block = block.expand(shape)
        see.append(block.any(-1))
        seen = seen | block.any(-2)
    return ~(torch.cat(see, dim=-1) & seen[..., mask.offset :])[..., None]


def batch_slice(bias: Tensor, batch: int, chunk: slice) -> Tensor:
    """The part of a bias for a slice of the batch.

    A bias (W, H, N, N) of a batch of B = B' W windows, image by image, repeats every W.
    """
    if bias.dim() < 4 or len(bias) == 1:
        return bias
    if len(bias) == batch:
        return bias[chunk]
    return bias[torch.arange(*chunk.indices(batch), device=bias.device) % len(bias)]


def tile_of(bias: Tensor, heads: slice, rows: slice, keys: slice) -> Tensor:
    """The part of what broadcasts to (..., H, N, M) for some heads, query rows and keys."""
    for dim, part in ((-1, keys), (-2, rows), (-3, heads)):
        if bias.dim() >= -dim and bias.shape[dim] > 1:
            index = (..., part) + (slice(None),) * (-dim - 1)
            bias = bias[index]
    return bias
