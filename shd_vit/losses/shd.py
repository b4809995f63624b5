"""Squeezing-Heads Distillation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import (
    LazyMaps,
    attention_kl,
    attention_maps,
    attention_mse,
    gram_matrix,
    native,
)
from shd_vit.functional.compiler import compiler_error
from shd_vit.losses.base import DistillationLoss
from shd_vit.merging import MERGING_STRATEGIES
from shd_vit.merging.linear import merge_linear
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.pairing.layers import Pair, Pairs, check_attended_tokens, check_layers, layer_pairs
from shd_vit.pairing.tokens import TOKENS, TokenAlignment, align_tokens
from shd_vit.taps import Anatomy, AttentionTap

DISTANCES = dict(kl=attention_kl, mse=attention_mse)


class SHDLoss(DistillationLoss):
    """The student's attention maps follow the teacher's squeezed ones (arXiv 2502.07436, Eq. 11).

    ``weight * sum over layers and student heads of KL(squeezed teacher map || student map)``, where
    KL is the mean over batch and query rows. It has no weights.

    ``strategy`` and ``distance`` are for comparisons: the defaults are the paper's method.

    Args:
        weight: Weight of the loss. None is 1.0.
        temperature: Attention temperature T_a of both maps, above 0. The merging weights are
            computed from the softened maps as well.
        layers: 'uniform': student layer l of L_s learns from teacher layer ceil(l L_t / L_s), so
            that last learns from last; in hierarchical models, stage by stage. 'last': the last
            pair alone. Or a list of (student, teacher) layers, counted from 1.
        tokens: 'all': both models need the same tokens. 'shared': the prefix tokens (class,
            distillation, registers) that both have, by name, and all patches. 'patches': those
            alone. Tokens that are left out are neither queries nor keys: the maps are softmaxes
            over the keys that are kept.
        strategy: How teacher heads are merged: 'linear', 'constant', 'hard', 'head_matching',
            'simplex', or ``dict(type=name, ...)``; see :mod:`shd_vit.merging`.
        distance: 'kl', or 'mse': the squared error summed over keys, with no other change.
        compile: Run the maths through torch.compile or, in the default method for float32 on a
            CPU, as a C++ kernel. None does where a compiler is found; it takes its time at the
            first batch and saves passes over the maps.
        beta: The paper's name of ``weight``; one of the two may be given.
    """

    def __init__(
        self,
        weight: float | None = None,
        temperature: float = 1.0,
        layers: str | Sequence[tuple[int, int]] = 'uniform',
        tokens: str = 'all',
        strategy: str | dict = 'linear',
        distance: str = 'kl',
        compile: bool | None = None,
        beta: float | None = None,
    ) -> None:
        super().__init__()
        if weight is not None and beta is not None:
            raise ConfigError(f'SHDLoss.beta={beta} is another name of weight={weight}: give one')
        name, value = ('weight', weight) if beta is None else ('beta', beta)
        self.weight = 1.0 if value is None else self.number(name, value)
        self.temperature = self.number('temperature', temperature, positive=True)
        check_layers(layers, 'SHDLoss')
        if tokens not in TOKENS:
            raise ConfigError(f"SHDLoss.tokens={tokens!r} must be 'all', 'shared' or 'patches'")
        if distance not in tuple(DISTANCES):
            raise ConfigError(f"SHDLoss.distance={distance!r} must be 'kl' or 'mse'")
        if compile is not None and not isinstance(compile, bool):
            raise ConfigError(f'SHDLoss.compile={compile!r} must be True, False or None')
        self.layers = layers
        self.tokens = tokens
        self.strategy: Any = MERGING_STRATEGIES.build(strategy)
        self.distance = distance
        self.is_compiled = compile
        self.pairs: Pairs = []
        self.alignment = TokenAlignment()

    @property
    def beta(self) -> float:
        """The paper's name of ``weight``."""
        return self.weight

    @beta.setter
    def beta(self, value: float) -> None:
        self.weight = value

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        self.pairs = layer_pairs(self.layers, student, teacher, 'SHDLoss')
        self.alignment = align_tokens(self.tokens, student, teacher, 'SHDLoss')
        heads = {(s, t): (student.heads[s - 1], teacher.heads[t - 1]) for s, t in self.pairs}
        for (s, t), (heads_s, heads_t) in heads.items():
            if heads_s > heads_t:
                raise ConfigError(
                    f'student layer {s} has {heads_s} heads, teacher layer {t} has {heads_t}: '
                    'SHDLoss squeezes heads, so the student may have as many or fewer'
                )
        self.strategy.bind(heads)
        students, teachers = zip(*self.pairs, strict=True)
        return Needs(attention=students), Needs(attention=teachers)

    @property
    def is_settled(self) -> bool:  # type: ignore[override]
        return self.strategy.is_settled

    def observe(self, teacher: ModelOutput) -> None:
        for s, t in self.pairs:
            self.strategy.observe(self.alignment.teacher.of(teacher.attention[t]), (s, t))

    def settle(self) -> None:
        self.strategy.settle()

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        if not self.is_settled:
            raise ConfigError(
                f'{type(self.strategy).__name__} must see training images first: use '
                "DistillRunner, or call observe() with the teacher's output for some batches, then "
                'settle()'
            )
        total: Any = sum(
            self._layer(student.attention[s], teacher.attention[t], (s, t)) for s, t in self.pairs
        )
        return self.weight * total

    def _layer(self, student: AttentionTap, teacher: AttentionTap, pair: Pair) -> Tensor:
        student, teacher = self.alignment.student.of(student), self.alignment.teacher.of(teacher)
        check_attended_tokens(student, teacher, pair, 'SHDLoss')
        merging = self.strategy
        teacher = merging.arrange(teacher, pair)
        compiled = self._compiles(student.q.device.type)
        if compiled and self._is_for_the_kernel(student, teacher):
            return native.squeezed_kl(
                *student[:2],
                *teacher[:3],
                gram_matrix(teacher.out_proj),
                student.scale,
                teacher.scale,
                self.temperature,
            )
        v, out_proj, gram = None, None, None
        if merging.uses_values:
            v, out_proj, gram = teacher.v, teacher.out_proj, gram_matrix(teacher.out_proj)
        heads = student.q.shape[1]
        target = LazyMaps(
            _merged_maps,
            (teacher.q, teacher.k, v, teacher.bias),
            (out_proj, gram, teacher.scale, self.temperature, heads, merging.merge),
        )
        return DISTANCES[self.distance](
            student.q,
            student.k,
            target,
            student.scale,
            self.temperature,
            student.bias,
            compiled=compiled,
        )

    def _is_for_the_kernel(self, student: AttentionTap, teacher: AttentionTap) -> bool:
        is_default = self.distance == 'kl' and self.strategy.merge is merge_linear
        has_bias = student.bias is not None or teacher.bias is not None
        if not is_default or has_bias or not native.takes(*student[:2], *teacher[:4]):
            return False
        return native.kernel_error() is None

    def _compiles(self, device_type: str) -> bool:
        """Whether to compile, found out and logged at the first batch."""
        if torch.compiler.is_compiling():
            return False  # a step that is compiled as a whole traces this with the rest
        if self.is_compiled is None:
            error = compiler_error(device_type)
            self.is_compiled = error is None
            if error:
                logging.getLogger(__name__).warning('SHDLoss runs without torch.compile: %s', error)
        return self.is_compiled

    def extra_repr(self) -> str:
        pairs = ', '.join(f'{s}<-{t}' for s, t in self.pairs) or self.layers
        prefix = self.alignment.prefix
        tokens = f' ({", ".join([*prefix, "patches"])})' if prefix is not None else ''
        compile = {None: 'if it works', True: 'yes', False: 'no'}[self.is_compiled]
        return (
            f'weight={self.weight}, temperature={self.temperature}, distance={self.distance}, '
            f'strategy={type(self.strategy).__name__}, '
            f'tokens={self.tokens}{tokens}, '
            f'torch.compile: {compile}, '
            f'layers: {pairs}'
        )


def _merged_maps(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    bias: Tensor | None,
    out_proj: Tensor | None,
    gram: Tensor | None,
    scale: float,
    temperature: float,
    num_heads: int,
    merge: Callable[..., Tensor],
) -> Tensor:
    """A teacher's maps merged into ``num_heads``."""
    maps = attention_maps(query, key, scale, temperature, bias)
    return merge(maps, value, out_proj, num_heads, gram)
