"""Squeezing-Heads Distillation of one layer: the one way from queries and keys to the loss.

How it is computed, in plain torch, through torch.compile, by the C++ kernel or those of Triton, is
chosen here.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import native
from shd_vit.functional.attention import softmax_factor
from shd_vit.functional.attention_loss import attention_kl, attention_mse
from shd_vit.functional.compiler import compiler_error
from shd_vit.functional.masks import ALL_KEYS, Mask, check_bias, ignored_queries, scaled
from shd_vit.functional.merging import Weigh, weigh_linear
from shd_vit.functional.order import group_sizes
from shd_vit.functional.squeeze import gram_matrix
from shd_vit.functional.teacher import TeacherMaps
from shd_vit.functional.tiles import is_whole
from shd_vit.functional.triton import choice

DISTANCES = dict(kl=attention_kl, mse=attention_mse)
BACKENDS = ('auto', 'torch', 'compile', 'cpp', 'triton')
# The C++ kernel is the fastest without masks (half of the time of blocks at 2,048 tokens), but each
# of its threads holds some whole maps: up to so many tokens, or elements of a map of each thread.
KERNEL_TOKENS, KERNEL_ELEMENTS = 1024, 2**23


def shd_loss(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    value: Tensor | None,
    out_proj: Tensor | None,
    scale: float,
    teacher_scale: float,
    temperature: float = 1.0,
    sizes: tuple[int, ...] | None = None,
    weigh: Weigh = weigh_linear,
    distance: str = 'kl',
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    mask: Mask = ALL_KEYS,
    teacher_mask: Mask = ALL_KEYS,
    backend: str = 'auto',
) -> Tensor:
    """Distance of a student's maps from a teacher's merged ones (Eq. 11 of arXiv 2502.07436).

    Summed over heads, the mean over batch and query rows, as :func:`attention_kl`, whose memory
    and precision it has. Types may differ; sums are in float32 (float64 for float64 input).

    Short maps are made whole, a few samples at a time, and merged on the way to the weights. Of
    long ones there is never more than a block of rows: the weights come from what maps make of the
    values, and then the distance from block after block, so memory grows with N and not N^2.

    Args:
        query: (B, Hs, N, D), the student's; the gradient is kept for backward, as of ``key``.
        key: (B, Hs, M, D), the student's; M = N unless ``mask.offset`` says more.
        teacher_query: (B, Ht, N, D_t), a constant, as all of the teacher's.
        teacher_key: (B, Ht, M, D_t).
        value: (B, Ht, M, D_v), the teacher's; None if ``weigh`` needs none.
        out_proj: (E, Ht D_v), weight of its output projection; None likewise.
        scale: Factor on the student's dot products, usually D^-0.5.
        teacher_scale: The same of the teacher.
        temperature: T_a of both maps, and of those that weights come from.
        sizes: How many neighbours of the teacher's heads each student head learns from, of sum
            Ht; those of progressive merging if None.
        weigh: How a group of heads is weighed, see :mod:`shd_vit.functional.merging`.
        distance: 'kl' or 'mse' (:func:`attention_mse`).
        bias: Additive, of the student, as in :func:`attention_kl`; may ask for a gradient.
        teacher_bias: The same of the teacher, without a gradient.
        mask: What the student's queries see besides.
        teacher_mask: The same of the teacher.
        backend: 'torch'; 'compile': through torch.compile; 'cpp': the C++ kernel, for the defaults
            in float32 on a CPU without masks and biases; 'triton': kernels for a GPU, without a
            gradient of a bias; 'auto': what is fastest.

    Returns:
        Scalar in float32 at least.

    Raises:
        ConfigError: If shapes do not fit, or the backend does not serve them.
        RuntimeError: If the backend is 'triton', and does not work here.
    """
    heads, teacher_heads = query.shape[1], teacher_query.shape[1]
    if sizes is None:
        sizes = group_sizes(teacher_heads, heads)
    if len(sizes) != heads or sum(sizes) != teacher_heads:
        raise ConfigError(
            f'groups of {sizes} heads do not make {heads} heads of {teacher_heads}: expected '
            f'{heads} sizes of sum {teacher_heads}'
        )
    _check_teacher(query, teacher_query, teacher_key, value, out_proj, teacher_bias, teacher_mask)
    if backend in ('auto', 'triton') and not torch.compiler.is_compiling():
        call = dict(
            query=query, key=key, teacher_query=teacher_query, teacher_key=teacher_key,
            value=value, out_proj=out_proj, scale=scale, teacher_scale=teacher_scale,
            temperature=temperature, sizes=sizes, weigh=weigh, distance=distance,
            bias=bias, teacher_bias=teacher_bias, mask=mask, teacher_mask=teacher_mask,
        )  # fmt: skip
        backend = choice.choose(backend, call, shd_loss)
    for_the_kernel = (
        backend in ('auto', 'cpp')
        and weigh is weigh_linear
        and sizes == group_sizes(teacher_heads, heads)
        and distance == 'kl'
        and bias is None
        and teacher_bias is None
        and mask.is_empty
        and teacher_mask.is_empty
        and query.shape == key.shape
        and value is not None
        and out_proj is not None
        and native.takes(query, key, teacher_query, teacher_key, value, out_proj)
    )
    device_type, M = query.device.type, key.shape[2]
    whole = is_whole(query.shape[2], M, teacher_heads, (mask, teacher_mask), device_type)
    chosen = _choose(backend, for_the_kernel, whole, M, device_type)
    gram = None
    if out_proj is not None and (
        chosen == 'cpp' or (chosen != 'triton' and whole and heads < teacher_heads)
    ):
        gram = gram_matrix(out_proj)
    if chosen == 'cpp':
        assert value is not None and gram is not None
        return native.squeezed_kl(
            *(query, key, teacher_query, teacher_key, value, gram),
            *(scale, teacher_scale, temperature),
        )
    compiled = chosen == 'compile'
    B, N = len(query), query.shape[2]
    with torch.no_grad():
        of_softmax = scaled(teacher_bias, temperature)
        target: Any = TeacherMaps(
            *(teacher_query, teacher_key, value, gram),
            softmax_factor(teacher_scale, temperature),
            of_softmax,
            teacher_mask,
            ignored_queries(of_softmax, teacher_mask, B, N, M, query.device),
            sizes,
            weigh,
        )
        if chosen != 'triton' and not whole:
            target = target.weighed(out_proj, compiled)
    if chosen == 'triton':
        from shd_vit.functional.triton.loss import streamed_loss

        of_student = scale, temperature, distance, bias, mask
        return streamed_loss(query, key, target, out_proj, *of_student)
    return DISTANCES[distance](query, key, target, scale, temperature, bias, mask, compiled)


def _check_teacher(
    query: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    value: Tensor | None,
    out_proj: Tensor | None,
    bias: Tensor | None,
    mask: Mask,
) -> None:
    """Refuse what does not fit the student's query (B, Hs, N, D), naming it."""
    B, _, N, _ = query.shape
    H, M, D = teacher_query.shape[1], teacher_key.shape[2], teacher_query.shape[3]
    mask.check(B, N, M)
    expected: dict[str, tuple] = dict(teacher_query=(B, H, N, D), teacher_key=(B, H, M, D))
    given: dict[str, Tensor] = dict(teacher_query=teacher_query, teacher_key=teacher_key)
    if value is not None:
        given['value'], expected['value'] = value, (B, H, M, value.shape[-1])
        if out_proj is not None:
            given['out_proj'] = out_proj
            expected['out_proj'] = (len(out_proj), H * value.shape[-1])
    for name, tensor in given.items():
        if tensor.shape != expected[name]:
            raise ConfigError(
                f'{name} {tuple(tensor.shape)} does not fit query {tuple(query.shape)} of the '
                f'student: expected {expected[name]}'
            )
    check_bias('teacher_bias', bias, (B, H, N, M))


def _choose(backend: str, for_the_kernel: bool, whole: bool, keys: int, device_type: str) -> str:
    """'torch', 'compile', 'cpp' or 'triton'; found out, and logged, at the first batch."""
    if torch.compiler.is_compiling():
        return 'torch'  # a step that is compiled as a whole traces this with the rest
    if backend == 'cpp' and not for_the_kernel:
        raise ConfigError(
            "backend='cpp' takes linear merging and KL, in float32 on a CPU, without masks or "
            "biases; 'auto' takes anything"
        )
    if backend != 'auto':
        return backend
    is_small = keys <= KERNEL_TOKENS or keys**2 * torch.get_num_threads() <= KERNEL_ELEMENTS
    if for_the_kernel and is_small and native.kernel_error() is None:
        return 'cpp'
    if device_type == 'cpu' and not whole:
        return 'torch'  # a compiled function of tiles of so many shapes is slower
    error = compiler_error(device_type)
    if error:
        _warn(error)
    return 'torch' if error else 'compile'


@cache
def _warn(error: str) -> None:
    logging.getLogger(__name__).warning('SHD runs without torch.compile: %s', error)
