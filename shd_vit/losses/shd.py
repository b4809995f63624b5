"""Squeezing-Heads Distillation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import (
    LazyMaps,
    attention_kl,
    attention_maps,
    gram_matrix,
    squeeze_heads,
)
from shd_vit.functional.compiler import compiler_error
from shd_vit.losses.base import DistillationLoss, ModelOutput, Needs
from shd_vit.taps import Anatomy, AttentionTap


class SHDLoss(DistillationLoss):
    """The student's attention maps follow the teacher's squeezed ones (arXiv 2502.07436, Eq. 11).

    ``beta * sum over layers and student heads of KL(squeezed teacher map || student map)``, where
    KL is the mean over batch and query rows. It has no weights.

    Args:
        beta: Weight of the loss.
        temperature: Attention temperature T_a of both maps, above 0. The merging weights are
            computed from the softened maps as well.
        layers: 'uniform': student layer l of L_s learns from teacher layer ceil(l L_t / L_s), so
            that last learns from last. Or a list of (student, teacher) layers, counted from 1.
        compile: Run the maths through torch.compile. None does where a compiler is found; it
            takes its time at the first batch and saves passes over the maps.
    """

    def __init__(
        self,
        beta: float = 1.0,
        temperature: float = 1.0,
        layers: str | Sequence[tuple[int, int]] = 'uniform',
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f'SHDLoss.temperature={temperature} must be above 0')
        if not beta >= 0:
            raise ConfigError(f'SHDLoss.beta={beta} must not be negative')
        if layers != 'uniform' and not _are_pairs(layers):
            raise ConfigError(
                f"SHDLoss.layers={layers!r} must be 'uniform' or a list of (student, teacher) pairs"
            )
        self.beta = beta
        self.temperature = temperature
        self.layers = layers
        self.compile = compile
        self.pairs: list[tuple[int, int]] = []

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        self.pairs = uniform_pairs(student.depth, teacher.depth)
        if self.layers != 'uniform':
            self.pairs = [tuple(pair) for pair in self.layers]
        for s, t in self.pairs:
            for number, model in ((s, student), (t, teacher)):
                if not 1 <= number <= model.depth:
                    raise ConfigError(
                        f'SHDLoss.layers names layer {number} of the {model.role}, which has '
                        f'layers 1 to {model.depth}'
                    )
            heads_s, heads_t = student.heads[s - 1], teacher.heads[t - 1]
            if heads_s > heads_t:
                raise ConfigError(
                    f'student layer {s} has {heads_s} heads, teacher layer {t} has {heads_t}: '
                    'SHDLoss squeezes heads, so the student may have as many or fewer'
                )
        students, teachers = zip(*self.pairs, strict=True)
        return Needs(attention=students), Needs(attention=teachers)

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        return self.beta * sum(
            self._layer(student.attention[s], teacher.attention[t], s, t) for s, t in self.pairs
        )

    def _layer(self, student: AttentionTap, teacher: AttentionTap, s: int, t: int) -> Tensor:
        tokens_s, tokens_t = student.q.shape[2], teacher.q.shape[2]
        if tokens_s != tokens_t:
            raise ConfigError(
                f'student layer {s} sees {tokens_s} tokens, teacher layer {t} sees {tokens_t}: '
                'SHDLoss needs equal token counts (image size, patch size, prefix tokens)'
            )

        target = LazyMaps(
            _squeezed_maps,
            (teacher.q, teacher.k, teacher.v, teacher.bias),
            (
                teacher.out_proj,
                gram_matrix(teacher.out_proj),
                teacher.scale,
                self.temperature,
                student.q.shape[1],
            ),
        )
        return attention_kl(
            student.q,
            student.k,
            target,
            student.scale,
            self.temperature,
            student.bias,
            compiled=self._is_compiled(student.q.device.type),
        )

    def _is_compiled(self, device_type: str) -> bool:
        """Whether to compile, found out and logged at the first batch."""
        if torch.compiler.is_compiling():
            return False  # a step that is compiled as a whole traces this with the rest
        if self.compile is None:
            error = compiler_error(device_type)
            self.compile = error is None
            if error:
                logging.getLogger(__name__).warning('SHDLoss runs without torch.compile: %s', error)
        return self.compile

    def extra_repr(self) -> str:
        pairs = ', '.join(f'{s}<-{t}' for s, t in self.pairs) or self.layers
        compile = {None: 'if it works', True: 'yes', False: 'no'}[self.compile]
        return (
            f'beta={self.beta}, temperature={self.temperature}, torch.compile: {compile}, '
            f'layers: {pairs}'
        )


def _squeezed_maps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    out_proj: Tensor,
    gram: Tensor,
    scale: float,
    temperature: float,
    num_heads: int,
) -> Tensor:
    """A teacher's maps merged into ``num_heads``."""
    maps = attention_maps(query, key, scale, temperature, bias)
    return squeeze_heads(maps, value, out_proj, num_heads, gram).maps


def uniform_pairs(student_depth: int, teacher_depth: int) -> list[tuple[int, int]]:
    """(l, ceil(l * L_t / L_s)) for every student layer l, from 1."""
    return [
        (layer, -(-layer * teacher_depth // student_depth)) for layer in range(1, student_depth + 1)
    ]


def _are_pairs(layers: object) -> bool:
    return (
        isinstance(layers, Sequence)
        and len(layers) > 0
        and all(
            isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
            for pair in layers
        )
    )
