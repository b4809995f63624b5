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
from shd_vit.functional.tiles import Tile, batch_chunks, each_of, row_blocks


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

    @property
    def ignored(self) -> Tensor | None:
        rows = self.dropped
        return rows if rows is None or rows.dim() < 3 else rows.all(-3, keepdim=True)

    @property
    def function(self) -> Callable[..., Tensor]:
        return _whole if self.weights is None else _mixed

    def arguments(self, tile: Tile) -> tuple:
        sizes = self.sizes[tile.heads]
        first = sum(self.sizes[: tile.heads.start])
        heads = slice(first, first + sum(sizes))
        made_of = self.maps_of(tile._replace(heads=heads))
        if self.weights is not None:
            return (*made_of, self.weights[tile.batch, heads], sizes)
        value = None if self.value is None else self.value[tile.batch]
        return (*made_of, value, self.gram, sizes, self.weigh)

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

    def weighed(self, out_proj: Tensor | None, compiled: bool) -> TeacherMaps:
        """With the weights, for tiles that have no whole maps.

        Args:
            out_proj: (E, H * D_v), None where weights need no values.
            compiled: Run what is done to a tile through :func:`torch.compile`.
        """
        return self._replace(weights=streamed_weights(self, out_proj, compiled))


def streamed_weights(maps: TeacherMaps, out_proj: Tensor | None, compiled: bool) -> Tensor:
    """The weights (B, H) of all heads, group by group and sample by sample.

    Only what the maps make of the values is kept, (k - 1) k N D_v numbers of one group.
    """
    B, H, N, _ = maps.query.shape
    M, device = maps.key.shape[2], maps.query.device
    sums = torch.promote_types(maps.query.dtype, torch.float32)
    weights = torch.ones(B, H, dtype=sums, device=device)
    core = choose(_outputs, compiled)
    with torch.autocast(device.type, enabled=False):
        for heads in head_groups(maps.sizes):
            k = heads.stop - heads.start
            if k == 1:
                continue
            if maps.value is None:
                nothing = weights.new_empty(B, k - 1, 0, k, 0)
                weights[:, heads] = group_weights(maps.weigh, nothing, None)
                continue
            assert out_proj is not None
            # Of these heads alone: of all, it would take longer than their maps.
            gram = gram_matrix(out_proj[:, columns_of(heads, maps.value.shape[-1])])
            # In one piece: parts that stay between temporary maps would part the heap, too.
            outputs = weights.new_empty(1, k - 1, N, k, maps.value.shape[-1])
            for sample in each_of(B):
                for rows, keys in row_blocks(N, M, k, (maps.mask,), device.type):
                    tile = Tile(sample, heads, rows, keys)
                    made_of, value = maps.maps_of(tile), maps.value[sample, heads, keys]
                    outputs[:, :, rows] = core(made_of, value)
                weights[sample, heads] = group_weights(maps.weigh, outputs, gram).to(sums)
    return weights


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
