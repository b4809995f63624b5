"""SHD of one layer by kernels that make no map in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shd_vit.functional.attention import softmax_factor
from shd_vit.functional.attention_loss import StoredGradients, _either, _num_rows
from shd_vit.functional.masks import Mask, ignored_queries, scaled
from shd_vit.functional.merging import columns_of, group_weights, weigh_linear
from shd_vit.functional.teacher import TeacherMaps
from shd_vit.functional.triton import kernels, weighing, whole
from shd_vit.functional.triton.sides import (
    WHOLE,
    Run,
    are_short,
    blocks_of,
    launch,
    of_dots,
    padded,
    precision,
    runs_of,
    side_of,
    unit_stride,
)
from shd_vit.functional.triton.tiles import Side

BLOCK = 2048  # numbers that a program multiplies
MOST_COLUMNS = 128  # of stacked values that a program multiplies by


def streamed_loss(
    query: Tensor,
    key: Tensor,
    teacher: TeacherMaps,
    out_proj: Tensor | None,
    scale: float,
    temperature: float,
    distance: str,
    bias: Tensor | None,
    mask: Mask,
) -> Tensor:
    """What :func:`shd_vit.functional.shd_loss` returns of these.

    Args:
        query: (B, Hs, N, D), the student's.
        key: (B, Hs, M, D), the student's.
        teacher: Its maps, without weights.
        out_proj: (E, Ht D_v), or None.
        scale: Of the student's dot products.
        temperature: T_a.
        distance: 'kl' or 'mse'.
        bias: Of the student, as it is given; no gradient is made of it.
        mask: Of the student.
    """
    B, _, N, _ = query.shape
    M = key.shape[2]
    factor = softmax_factor(scale, temperature)
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        bias = scaled(bias, temperature)
        ignored = ignored_queries(bias, mask, B, N, M, query.device)
        ignored = _either(ignored, teacher.ignored, B)
        maps_of = teacher.query, teacher.key, teacher.factor, teacher.bias, teacher.mask
        short = _is_short(query, key, teacher, distance, bias, mask)
        side = side_of(*maps_of, teacher.dropped, wants_sums=not short)
        weights = head_weights(side, teacher, out_proj)
    return _StreamedLoss.apply(
        query, key, side, weights, teacher.sizes, factor, distance, bias, mask, ignored
    )


def _is_short(
    query: Tensor, key: Tensor, teacher: TeacherMaps, distance: str, bias: Tensor | None, mask: Mask
) -> bool:
    """Whether the kernels of whole rows serve all of this."""
    maps = [query, key, teacher.query, teacher.key]
    value = teacher.value if max(teacher.sizes) > 1 else None
    if value is not None:
        maps.append(value)
    return (
        max(teacher.sizes) <= 2
        and (value is None or teacher.weigh is weigh_linear)
        and distance == 'kl'
        and bias is None
        and teacher.bias is None
        and mask.is_empty
        and teacher.mask.is_empty
        and are_short(query.shape[2], key.shape[2], *maps)
    )


def head_weights(side: Side, teacher: TeacherMaps, out_proj: Tensor | None) -> Tensor:
    """The weights (B, H) of the teacher's heads, in float32."""
    B, H, _, _ = teacher.query.shape
    weights = torch.ones(B, H, device=teacher.query.device)  # of heads alone
    value, weigh = teacher.value, teacher.weigh
    for run in runs_of(teacher.sizes):
        if run.size == 1:
            continue
        heads = slice(run.first_head, run.first_head + run.groups * run.size)
        if value is None:
            nothing = weights.new_empty(B, run.size - 1, 0, run.size, 0)
            weights[:, heads] = group_weights(weigh, nothing, None).repeat(1, run.groups)
            continue
        assert out_proj is not None
        columns = out_proj[:, columns_of(heads, value.shape[-1])]
        grams = _grams(columns.unflatten(1, (run.groups, -1)).movedim(1, 0))
        if side.lse is None:
            _whole_pair_weights(side, value, grams, run, weights)
            continue
        is_narrow = padded(2 * value.shape[-1]) <= MOST_COLUMNS and value.element_size() == 2
        if weigh is weigh_linear and run.size == 2 and is_narrow:
            first = _pair_weights(side, value, grams, run)
            weights[:, heads] = torch.stack([first, 1 - first], dim=2).flatten(1)
            continue
        outputs = _outputs(side, value, run)
        made = [group_weights(weigh, *group) for group in zip(outputs, grams, strict=True)]
        weights[:, heads] = torch.cat(made, dim=1).float()
    return weights


def _grams(weight: Tensor) -> Tensor:
    """``W^T W`` of each group's columns, (groups, E, F), in float32."""
    weight = weight.float()
    return weight.mT @ weight


def _pair_weights(side: Side, value: Tensor, grams: Tensor, run: Run) -> Tensor:
    """The weights (B, groups) of the first heads of pairs, as :func:`pair_weight`'s, clamped."""
    value = unit_stride(value)
    (B, _, M, width), N = value.shape, side.q.shape[2]
    blocks = blocks_of(side.q, value, size=2)
    parts = -(-N // blocks.own)
    sums = torch.empty(B, run.groups, parts, 2, dtype=torch.float32, device=value.device)
    launch(
        *(weighing.pair_sums, B * run.groups * parts, blocks),
        *(side, value, value.stride()[:3], width, grams, sums, run.first_head, run.groups, N, M),
        ROWS=blocks.own, KEYS=blocks.other, D_V=padded(width), OF_PRODUCT='tf32',
        **of_dots(side),
    )  # fmt: skip
    toward_first, norm = sums.sum(2).unbind(2)
    # Equal heads: every weight gives the same map. What is no number stays none.
    return torch.where(norm <= 0, 0.5, toward_first / norm).clamp(0, 1)


def _whole_pair_weights(
    side: Side, value: Tensor, grams: Tensor, run: Run, weights: Tensor
) -> None:
    """The same, of short maps, into ``weights`` (B, H)."""
    value = unit_stride(value)
    B, _, N, width = value.shape
    launch(
        *(whole.weights_of_pairs, B * run.groups, WHOLE),
        *(side, value, value.stride()[:3], width, grams, weights, run.first_head, run.groups, N),
        ROWS=WHOLE.own, KEYS=padded(N), D_V=padded(width), OF_PRODUCT='tf32', **of_dots(side),
    )  # fmt: skip


def _outputs(side: Side, value: Tensor, run: Run) -> Tensor:
    """What the maps of each group make of its values: (groups, B, k - 1, N, k, D_v)."""
    value = unit_stride(value)
    (B, _, M, width), N, k = value.shape, side.q.shape[2], run.size
    shape = run.groups, B, k - 1, N, k, width
    outputs = torch.empty(shape, dtype=torch.float32, device=value.device)
    columns = min(padded(k * width), MOST_COLUMNS)
    blocks = blocks_of(side.q, value, size=k)
    parts = -(-k * width // columns) * (k - 1) * -(-N // blocks.own)
    launch(
        *(weighing.head_outputs, parts * run.groups * B, blocks),
        *(side, value, value.stride()[:3], width, outputs, run.first_head, run.groups, N, M),
        SIZE=k, ROWS=blocks.own, KEYS=blocks.other, COLUMNS=columns, **of_dots(side),
    )  # fmt: skip
    return outputs


class _StreamedLoss(StoredGradients):
    @staticmethod
    def forward(
        ctx, query, key, teacher, weights, sizes, factor, distance, bias, mask, ignored
    ) -> Tensor:
        B, H, N, _ = query.shape
        M, device = key.shape[2], query.device
        is_short = teacher.lse is None
        student = side_of(query, key, factor, bias, mask, ignored, wants_sums=not is_short)
        gradients = [query.new_empty(query.shape), key.new_empty(key.shape)]
        if (query.shape, query.dtype) == (key.shape, key.dtype):  # then one launch serves both
            gradients = [query.new_empty(2, *query.shape)]
        grad_query, grad_key = _each(gradients)
        losses, is_mse = [], distance == 'mse'
        slopes = query.new_empty(B, H, N, dtype=torch.float32) if is_mse else None
        for run in runs_of(sizes):
            blocks = WHOLE if is_short else blocks_of(student.q, teacher.q, size=run.size)
            heads = B * run.groups
            of_rows, of_keys = (heads * -(-n // blocks.own) for n in (N, M))
            part = torch.empty(heads if is_short else of_rows, dtype=torch.float32, device=device)
            losses.append(part)
            sides = student, teacher, weights
            places = grad_query, grad_query.stride()[:3], grad_key, grad_key.stride()[:3]
            of_run = run.first_group, run.first_head, run.groups, N
            options: dict[str, Any] = dict(
                SIZE=run.size, **of_dots(student),
                D_T=padded(teacher.width), PRECISION_T=precision(),
            )  # fmt: skip
            if is_short:
                launch(
                    *(whole.loss_and_gradients, heads, blocks, *sides, part, *places, *of_run),
                    **dict(options, ROWS=blocks.own, KEYS=padded(N)),
                )
                continue
            options['IS_MSE'] = is_mse
            launch(
                *(kernels.loss_of_rows, of_rows, blocks, *sides, part, slopes),
                *(*places[:2], *of_run, M),
                **dict(options, ROWS=blocks.own, KEYS=blocks.other),
            )
            launch(
                *(kernels.gradient_of_keys, of_keys, blocks, *sides, slopes),
                *(*places[2:], *of_run, M),
                **dict(options, ROWS=blocks.other, KEYS=blocks.own, SOME_COUNT=ignored is not None),
            )
        ctx.save_for_backward(*gradients)
        ctx.rows = B * N if ignored is None else _num_rows(~ignored, B * N)
        total = torch.cat(losses).sum() if len(losses) > 1 else losses[0].sum()
        return total * ((1 if is_mse else math.log(2)) / ctx.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        factor = (grad_loss / ctx.rows).float()
        grads = _each([_multiplied(gradients, factor) for gradients in ctx.saved_tensors])
        return *grads, *[None] * (len(ctx.needs_input_grad) - len(grads))


def _each(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Those of the queries and of the keys, which may lie in one tensor."""
    return gradients if len(gradients) == 2 else gradients[0].unbind(0)


def _multiplied(dense: Tensor, factor: Tensor) -> Tensor:
    """``dense * factor``, where the product alone is rounded."""
    result = torch.empty_like(dense)
    with torch.cuda.device_of(dense):
        programs = -(-dense.numel() // BLOCK)
        kernels.multiplied[(programs,)](dense, factor, result, dense.numel(), BLOCK)
    return result
