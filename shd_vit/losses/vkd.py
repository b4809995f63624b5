"""VkD: an orthogonal projection and standardised teacher features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from shd_vit.functional import vkd_distance
from shd_vit.functional.attention import widen
from shd_vit.losses.base import Layers, ProjectedLoss
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import FINAL, Anatomy, TokenTap


class VkDLoss(ProjectedLoss):
    """Pooled features through an orthogonal projection (VkD, arXiv 2403.06213).

    ``weight * sum over pairs of layers of smooth L1(P mean(F_s), standardised mean(F_t))``. As in
    the authors' code for classification, features are the patch tokens of the last block after the
    final norm, averaged over the patches; P is a Linear without bias whose weight has orthonormal
    columns (rows, where the student is wider); the teacher's average is standardised over its
    channels, the student's is not; smooth L1 is a mean over batch and channels:
    https://github.com/roymiles/vkd/blob/4b480506d10bad9bfaf27b144f5929ad4007472d/engine.py#L90-L100
    https://github.com/roymiles/vkd/blob/4b480506d10bad9bfaf27b144f5929ad4007472d/train.py#L201

    Only how P is held orthogonal differs: by Cayley's map. The authors take torch's default, which
    for a matrix that is not square truncates a learned diagonal of -1 to integers, so that the
    first step with weight decay turns P into zeros. All is in float32, whatever autocast says.

    Args:
        student_dims: Width of the student. None takes it from the model.
        teacher_dims: Width of the teacher. None takes it from the model.
        weight: Weight of the loss. The authors use 1.0, at which an untrained pair of models costs
            0.4 to 0.5 a pair of layers.
        layers: 'last', 'uniform' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`. A model's last layer is read after the final norm, others are not
            normed.
    """

    is_token_wise = False

    mean_over = 'sequences'

    def __init__(
        self,
        student_dims: int | None = None,
        teacher_dims: int | None = None,
        weight: float = 1.0,
        layers: Layers = 'last',
    ) -> None:
        super().__init__(student_dims, teacher_dims, weight, layers)
        self.points: list[tuple[int | str, int | str]] = []

    def make_projector(self, student_dims: int, teacher_dims: int) -> nn.Module:
        linear = nn.Linear(student_dims, teacher_dims, bias=False)
        return orthogonal(linear, orthogonal_map='cayley')

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        super().bind(student, teacher)
        self.points = [
            (FINAL if s == student.depth else s, FINAL if t == teacher.depth else t)
            for s, t in self.pairs
        ]
        students, teachers = zip(*self.points, strict=True)
        return Needs(tokens=students), Needs(tokens=teachers)

    def of_pair(self, number: int, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        s, t = self.points[number]
        pooled_s, pooled_t = _pooled(student.tokens[s]), _pooled(teacher.tokens[t])
        with torch.autocast(pooled_s.device.type, enabled=False):
            return vkd_distance(self.projectors[number](pooled_s), pooled_t.detach())


def _pooled(tap: TokenTap) -> Tensor:
    """Mean of the patch tokens that count, (B, E); 0 where none does."""
    patches_BNE = widen(tap.patches)
    if tap.mask is None:
        return patches_BNE.mean(dim=1)
    mask_BN1 = tap.mask[:, tap.num_prefix :, None]
    return patches_BNE.masked_fill(~mask_BN1, 0).sum(dim=1) / mask_BN1.sum(dim=1).clamp(min=1)
