"""A teacher's merged maps, and the weights that they are merged by, a tile at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.functional.attention import masked_maps
from shd_vit.functional.compiler import choose
from shd_vit.functional.masks import Mask, ignored_queries
from shd_vit.functional.merging import (
    Weigh,
    columns_of,
    group_weights,
    head_outputs,
    merge_maps,
    mix_heads,
    weigh_constant,
)
from shd_vit.functional.order import head_groups
from shd_vit.functional.squeeze import gram_matrix
from shd_vit.functional.tiles import Parts, Tile, batch_chunks, may_stay, row_blocks


class TeacherMaps(NamedTuple):
    """Merged maps (B, G, N, M) as :class:`LazyMaps`.

    Attributes:
        query: (B, H, N, D).
        key: (B, H, M, D).
        value: (B, H, M, D_v); None if weights need none.
        gram: (H * D_v, H * D_v) where maps are merged whole; or None.
        factor: On the dot products, of the softmax.
        bias: Of the softmax, so divided by T_a.
        mask: Of the keys.
        dropped: Rows of each head that do not count, (b, h, n, 1); or None.
        sizes: Of the groups.
        weigh: Of a group.
        weights: (B, H); None if each tile has whole maps, which give them.
        made: Unmerged maps of tiles that are made already, by their first row; or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    gram: Tensor | None
    factor: float
    bias: Tensor | None
    mask: Mask
    dropped: Tensor | None
    sizes: tuple[int, ...]
    weigh: Weigh
    weights: Tensor | None = None
    made: dict[int, Tensor] | None = None

    @property
    def ignored(self) -> Tensor | None:
        rows = self.dropped
        return rows if rows is None or rows.dim() < 3 else rows.all(-3, keepdim=True)

    @property
    def function(self) -> Callable[..., Tensor]:
        if self.made is not None:
            return mix_heads
        return _whole if self.weights is None else _mixed

    def ready(self, batch: slice, heads: slice, parts: Parts) -> TeacherMaps:
        return self

    def arguments(self, tile: Tile) -> tuple:
        sizes, heads = self.sizes[tile.heads], self.members(tile.heads)
        if self.made is not None:
            assert self.weights is not None
            return self.made[tile.rows.start], self.weights[tile.batch, heads], sizes
        made_of = self.maps_of(tile._replace(heads=heads))
        if self.weights is not None:
            return (*made_of, self.weights[tile.batch, heads], sizes)
        value = None if self.value is None else self.value[tile.batch]
        return (*made_of, value, self.gram, sizes, self.weigh)

    def members(self, heads: slice) -> slice:
        """The unmerged heads of some merged ones."""
        first = sum(self.sizes[: heads.start])
        return slice(first, first + sum(self.sizes[heads]))

    def maps_of(self, tile: Tile) -> tuple:
        """What :func:`masked_maps` makes a tile of the unmerged maps from."""
        B = len(self.query)
        return (
            self.query[tile.batch, tile.heads, tile.rows],
            self.key[tile.batch, tile.heads, tile.keys],
            self.factor,
            tile.of(self.bias, B),
            self.mask.visible_end(tile.batch, tile.rows, tile.keys, self.query.device),
            tile.of_rows(self.dropped, B),
        )

    def weighed(self, out_proj: Tensor | None, compiled: bool) -> StreamedMaps:
        """For tiles that have no whole maps, from which their weights could be had.

        Args:
            out_proj: (E, H * D_v), None where weights need no values.
            compiled: Run what is done to a tile through :func:`torch.compile`.
        """
        return StreamedMaps(self, out_proj, compiled)


class StreamedMaps(NamedTuple):
    """Merged maps as :class:`LazyMaps`, a run of heads at a time: first weights, then tiles."""

    maps: TeacherMaps
    out_proj: Tensor | None
    compiled: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.maps.sizes

    @property
    def mask(self) -> Mask:
        return self.maps.mask

    @property
    def ignored(self) -> Tensor | None:
        return self.maps.ignored

    def ready(self, batch: slice, heads: slice, parts: Parts) -> TeacherMaps:
        maps, members = self.maps, self.maps.members(heads)
        query, sizes = maps.query, maps.sizes[heads]
        made, num_heads = None, members.stop - members.start
        is_weighed = maps.value is not None and len(sizes) < num_heads
        if is_weighed and may_stay(num_heads, parts, query.device.type):
            core = choose(masked_maps, self.compiled)
            tiles = [Tile(batch, members, rows, keys) for rows, keys in parts]
            made = {tile.rows.start: core(*maps.maps_of(tile)) for tile in tiles}
        sums = torch.promote_types(query.dtype, torch.float32)
        weights = torch.ones(*query.shape[:2], dtype=sums, device=query.device)
        for group in head_groups(sizes):
            if group.stop - group.start > 1:
                outputs, gram = self._outputs(batch, members.start, group, parts, made)
                own = slice(members.start + group.start, members.start + group.stop)
                weights[batch, own] = group_weights(maps.weigh, outputs, gram).to(sums)
        return maps._replace(weights=weights, made=made)

    def _outputs(
        self, batch: slice, first: int, group: slice, parts: Parts, made: dict[int, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """What the maps of a group make of its values, (b, k - 1, N, k, D_v), and its Gram matrix.

        Only this is kept of all rows.
        """
        maps, k = self.maps, group.stop - group.start
        query, value = maps.query[batch], maps.value
        sums = torch.promote_types(query.dtype, torch.float32)
        if value is None:
            return query.new_empty(len(query), k - 1, 0, k, 0, dtype=sums), None
        assert self.out_proj is not None
        own = slice(first + group.start, first + group.stop)
        # Of these heads alone: of all, it would take longer than their maps.
        gram = gram_matrix(self.out_proj[:, columns_of(own, value.shape[-1])])
        # In one piece: parts that stay between temporary maps would part the heap, too.
        shape = len(query), k - 1, query.shape[2], k, value.shape[-1]
        outputs = query.new_empty(shape, dtype=sums)
        core = choose(_outputs, self.compiled)
        for rows, keys in parts:
            values = value[batch, own, keys]
            if made is None:
                made_of = maps.maps_of(Tile(batch, own, rows, keys))
                outputs[:, :, rows] = core(made_of, values)
            else:
                outputs[:, :, rows] = head_outputs(made[rows.start][:, group], values)
        return outputs, gram


def _outputs(made_of: tuple, value: Tensor) -> Tensor:
    return head_outputs(masked_maps(*made_of), value)


def map_cosines(
    query: Tensor, key: Tensor, scale: float, bias: Tensor | None, mask: Mask
) -> Tensor:
    """Cosines between the maps of heads, each of them one long vector: (B, H, H) in float64.

    Arguments are those of :func:`attention_maps`. Cosines of nearly uniform maps are nearly 1: only
    in float64 does their order not depend on how samples are batched.
    """
    B, H, N, _ = query.shape
    M, device = key.shape[2], query.device
    mask.check(B, N, M)
    dropped = ignored_queries(bias, mask, B, N, M, device)
    maps = TeacherMaps(query, key, None, None, scale, bias, mask, dropped, (1,) * H, weigh_constant)
    inner = torch.zeros(B, H, H, dtype=torch.float64, device=device)
    with torch.autocast(device.type, enabled=False):
        for batch in batch_chunks(B, H * N * M, device.type):
            for rows, keys in row_blocks(N, M, H, (mask,), device.type):
                made_of = maps.maps_of(Tile(batch, slice(0, H), rows, keys))
                flat = masked_maps(*made_of).double().flatten(2)
                inner[batch] += flat @ flat.mT
    norms = inner.diagonal(dim1=1, dim2=2).sqrt().clamp(min=1e-12)
    return inner / norms[:, None] / norms[:, :, None]


def _whole(
    query: Tensor,
    key: Tensor,
    factor: float,
    bias: Tensor | None,
    visible: Tensor | None,
    dropped: Tensor | None,
    value: Tensor | None,
    gram: Tensor | None,
    sizes: tuple[int, ...],
    weigh: Weigh,
) -> Tensor:
    maps = masked_maps(query, key, factor, bias, visible, dropped)
    return merge_maps(maps, value, gram, sizes, weigh)


def _mixed(
    query: Tensor,
    key: Tensor,
    factor: float,
    bias: Tensor | None,
    visible: Tensor | None,
    dropped: Tensor | None,
    weights: Tensor,
    sizes: tuple[int, ...],
) -> Tensor:
    return mix_heads(masked_maps(query, key, factor, bias, visible, dropped), weights, sizes)
