"""Kernels of flash attention as their documentation has them, for CPUs, that tell their maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest import mock

import torch
from torch import Tensor
from transformers import modeling_flash_attention_utils as utils


class Kernels:
    """``flash_attn_func`` and ``flash_attn_varlen_func`` 2, in float64, sequence by sequence.

    Attributes:
        maps: Of each call, the maps (H, L, L) of its sequences, in their order.
    """

    def __init__(self) -> None:
        self.maps: list[list[Tensor]] = []

    def func(
        self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
        softcap=0.0, deterministic=False,
    ):  # fmt: skip
        self.maps.append([])
        rows = [
            self._attend(*each, softmax_scale, causal, window_size)
            for each in zip(q, k, v, strict=True)
        ]
        return torch.stack(rows)

    def varlen_func(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
        softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False,
    ):  # fmt: skip
        self.maps.append([])
        assert cu_seqlens_q.equal(cu_seqlens_k)
        out = torch.zeros_like(q)
        for start, stop in pairwise(cu_seqlens_q):
            part = slice(start, stop)
            out[part] = self._attend(q[part], k[part], v[part], softmax_scale, causal, window_size)
        return out

    def _attend(self, q, k, v, scale, causal, window):
        """(L, H, D) of one sequence; a window is of so many keys to the left and to the right."""
        groups, L = q.shape[1] // k.shape[1], len(q)
        k, v = (x.repeat_interleave(groups, dim=1).double() for x in (k, v))
        logits = torch.einsum('nhd,mhd->hnm', q.double(), k) * (scale or q.shape[-1] ** -0.5)
        for n in range(L):
            for m in range(L):
                outside = (0 <= window[0] < n - m) or (0 <= window[1] < m - n)
                if outside or (causal and m > n):
                    logits[:, n, m] = float('-inf')
        maps = logits.softmax(-1)
        self.maps[-1].append(maps)
        return torch.einsum('hnm,mhd->nhd', maps, v).to(q.dtype)


@contextmanager
def flash_kernels(name: str = 'flash_attention_2') -> Iterator[Kernels]:
    """In place of the package that transformers would import under this very name."""
    kernels = Kernels()

    def imported(implementation, *args, **kwargs):
        assert implementation == name, implementation
        tools = utils._pad_input, utils._unpad_input
        return kernels.func, kernels.varlen_func, None, *tools

    with (
        mock.patch.object(utils, '_lazy_imports', imported),
        mock.patch.object(utils, '_loaded_implementation', None),
    ):
        yield kernels
