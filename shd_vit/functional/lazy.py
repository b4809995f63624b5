"""Maps that never exist as a whole: how their tiles are made where they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from shd_vit.functional.masks import ALL_KEYS, Mask
from shd_vit.functional.tiles import Parts, Tile


class TileMaker(Protocol):
    """Makes tiles of maps where they are used.

    Attributes:
        function: ``function(*arguments) -> maps`` (b, H, n, m), a plain function.
    """

    @property
    def function(self) -> Callable[..., Tensor]: ...

    def arguments(self, tile: Tile) -> tuple:
        """What the function takes to make this tile."""


class LazyMaps(Protocol):
    """Maps (B, H, N, M) that never exist as a whole.

    Attributes:
        sizes: How many heads are merged into each of H.
        mask: Outside of which they are 0.
        ignored: Rows that do not count, (b, 1, n, 1); or None.
    """

    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def mask(self) -> Mask: ...
    @property
    def ignored(self) -> Tensor | None: ...

    def ready(self, batch: slice, heads: slice, parts: Parts) -> TileMaker:
        """What makes the tiles of these samples and heads, for these blocks of rows."""


class GivenMaps:
    """Maps that are at hand."""

    mask: Mask = ALL_KEYS
    ignored: Tensor | None = None

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps
        self.sizes = (1,) * maps.shape[1]

    @staticmethod
    def function(maps: Tensor) -> Tensor:
        return maps

    def ready(self, batch: slice, heads: slice, parts: Parts) -> GivenMaps:
        return self

    def arguments(self, tile: Tile) -> tuple:
        return (self.maps[tuple(tile)],)
