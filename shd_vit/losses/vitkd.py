"""ViTKD: features of shallow and deep blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.functional import random_token_mask, squared_error
from shd_vit.losses.base import DistillationLoss, check_dims
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import FINAL, Anatomy

SHALLOW = (1, 2)


class ViTKDLoss(DistillationLoss):
    """Mimic shallow blocks, generate the deep one (ViTKD, arXiv 2209.02432).

    Patch tokens only. Mimicking: the outputs of blocks 1 and 2, each through a Linear of its own,
    squared error summed, over the batch size, times ``alpha``. Generation: the normed output of
    the last block through a Linear; a share ``mask_ratio`` of a sample's tokens is replaced by a
    learned token; two 3x3 convolutions with a ReLU between rebuild the teacher's; squared error on
    replaced tokens summed, over the batch size, times ``beta / mask_ratio``. Between models of
    equal width there is no Linear.

    Constants are those of the authors' code:
    https://github.com/yzd-v/cls_KD/blob/master/mmcls/models/dis_losses/vitkd.py

    Args:
        student_dims: Width of the student.
        teacher_dims: Width of the teacher.
        alpha: Weight of mimicking.
        beta: Weight of generation.
        mask_ratio: Lambda, share of masked tokens, in (0, 1].
    """

    def __init__(
        self,
        student_dims: int,
        teacher_dims: int,
        alpha: float = 3e-5,
        beta: float = 3e-6,
        mask_ratio: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio <= 1:
            raise ConfigError(f'ViTKDLoss.mask_ratio={mask_ratio} must be above 0 and at most 1')
        self.student_dims = student_dims
        self.teacher_dims = teacher_dims
        self.alpha = alpha
        self.beta = beta
        self.mask_ratio = mask_ratio

        def align() -> nn.Module:
            same = student_dims == teacher_dims
            return nn.Identity() if same else nn.Linear(student_dims, teacher_dims)

        self.align_shallow = nn.ModuleList(align() for _ in SHALLOW)
        self.align_deep = align()
        self.mask_token = nn.Parameter(torch.zeros(teacher_dims))
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_dims, teacher_dims, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_dims, teacher_dims, 3, padding=1),
        )

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        check_dims(self, student, teacher)
        needs = Needs(tokens=(*SHALLOW, FINAL))
        return needs, needs

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        s, t = student.tokens, teacher.tokens
        patches_s, patches_t = s[FINAL].patches.shape[1], t[FINAL].patches.shape[1]
        if patches_s != patches_t or math.isqrt(patches_s) ** 2 != patches_s:
            raise ConfigError(
                f'student has {patches_s} patch tokens, teacher {patches_t}: ViTKDLoss needs equal '
                'numbers, on a square grid'
            )
        mimicking = sum(
            squared_error(align(s[block].patches), t[block].patches)
            for block, align in zip(SHALLOW, self.align_shallow, strict=True)
        )
        generation = self._generate(self.align_deep(s[FINAL].patches), t[FINAL].patches)
        return self.alpha * mimicking + self.beta / self.mask_ratio * generation

    def _generate(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``student`` and ``teacher`` are (B, N, E), N a square number."""
        B, N, E = student.shape
        side = math.isqrt(N)
        mask = random_token_mask(B, N, self.mask_ratio, student.device)
        visible = torch.where(mask.unsqueeze(-1), self.mask_token.to(student.dtype), student)
        grid = visible.transpose(1, 2).reshape(B, E, side, side)
        rebuilt = self.generation(grid).flatten(2).transpose(1, 2)
        return squared_error(rebuilt, teacher, mask)

    def extra_repr(self) -> str:
        return f'alpha={self.alpha}, beta={self.beta}, mask_ratio={self.mask_ratio}'
