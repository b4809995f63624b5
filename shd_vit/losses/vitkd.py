"""ViTKD: features of shallow and deep blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.functional import random_token_mask, squared_error
from shd_vit.losses.base import WIDTH, DistillationLoss, learned_dims, unbound
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.pairing.tokens import common_grid
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
        student_dims: Width of the student. None takes it from the model.
        teacher_dims: Width of the teacher. None takes it from the model.
        alpha: Weight of mimicking.
        beta: Weight of generation.
        mask_ratio: Lambda, share of masked tokens, in (0, 1].
        weight: Weight of both together.
    """

    align_deep: nn.Module
    generation: nn.Module
    mask_token: nn.Parameter

    mean_over = 'sequences'

    def __init__(
        self,
        student_dims: int | None = None,
        teacher_dims: int | None = None,
        alpha: float = 3e-5,
        beta: float = 3e-6,
        mask_ratio: float = 0.5,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.student_dims = self.number('student_dims', student_dims, **WIDTH)
        self.teacher_dims = self.number('teacher_dims', teacher_dims, **WIDTH)
        self.weight = self.number('weight', weight)
        self.alpha = self.number('alpha', alpha)
        self.beta = self.number('beta', beta)
        self.mask_ratio = self.number('mask_ratio', mask_ratio, positive=True, at_most=1)
        self.align_shallow = nn.ModuleList()

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        for model in (student, teacher):
            if model.depth < len(SHALLOW):
                raise ConfigError(
                    f'ViTKDLoss reads blocks 1 and 2, but the {model.role} has {model.depth}'
                )
        student_dims, teacher_dims = learned_dims(self, student, teacher)

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
        needs = Needs(tokens=(*SHALLOW, FINAL))
        return needs, needs

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        if not self.align_shallow:
            raise unbound(self)
        grid = common_grid(student.tokens[FINAL], teacher.tokens[FINAL], 'ViTKDLoss')
        s, t = (
            {block: output.tokens[block].patches for block in (*SHALLOW, FINAL)}
            for output in (student, teacher)
        )
        s = {block: patches.to(self.mask_token.dtype) for block, patches in s.items()}
        t = {block: patches.detach() for block, patches in t.items()}
        mimicking = sum(
            squared_error(align(s[block]), t[block])
            for block, align in zip(SHALLOW, self.align_shallow, strict=True)
        )
        generation = self._generate(self.align_deep(s[FINAL]), t[FINAL], grid)
        return self.weight * (self.alpha * mimicking + self.beta / self.mask_ratio * generation)

    def _generate(self, student_BNE: Tensor, teacher_BNE: Tensor, grid: tuple[int, int]) -> Tensor:
        """From N patches of a ``grid`` (rows, columns); E is the teacher's width."""
        B, N, E = student_BNE.shape
        mask_BN = random_token_mask(B, N, self.mask_ratio, student_BNE.device)
        hidden_BN1 = mask_BN.unsqueeze(-1)
        # Products rather than torch.where, which would hide a NaN of the student from the loss.
        token_E = self.mask_token.to(student_BNE.dtype)
        visible_BNE = student_BNE * ~hidden_BN1 + token_E * hidden_BN1
        rebuilt_BEhw = self.generation(visible_BNE.transpose(1, 2).reshape(B, E, *grid))
        return squared_error(rebuilt_BEhw.flatten(2).transpose(1, 2), teacher_BNE, mask_BN)

    def extra_repr(self) -> str:
        return (
            f'{super().extra_repr()}, alpha={self.alpha}, beta={self.beta}, '
            f'mask_ratio={self.mask_ratio}'
        )
