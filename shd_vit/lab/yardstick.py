"""SHD as the paper writes it, in torch's own ops: what the benchmark measures ours against."""

from __future__ import annotations

import torch
from torch import Tensor

from shd_vit.losses import SHDLoss
from shd_vit.pairing import ModelOutput
from shd_vit.taps import AttentionTap


class LiteralSHDLoss(SHDLoss):
    """The yardstick in the place of SHDLoss: linear merging, all tokens, KL."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor | None) -> Tensor:
        layers = [
            literal_shd(student.attention[s], teacher.attention[t], self.temperature)
            for s, t in self.pairs
        ]
        return self.beta * torch.stack(layers).sum()


def literal_shd(student: AttentionTap, teacher: AttentionTap, temperature: float = 1.0) -> Tensor:
    """SHD of one layer, with every X_i = V_i W_i^O formed; autograd keeps whatever it likes.

    Eq. 7's N is mended as in the package.

    Args:
        student: A tap without bias.
        teacher: The same, of as many heads or more.
        temperature: T_a.
    """
    with torch.no_grad():
        heads = teacher.v.shape[1]
        weights = teacher.out_proj.chunk(heads, dim=1)
        a = list(_maps(teacher, temperature).unbind(1))
        x = [teacher.v[:, h] @ weights[h].T for h in range(heads)]
        while len(a) > student.q.shape[1]:
            merges = min(len(a) // 2, len(a) - student.q.shape[1])
            next_a, next_x = [], []
            for i in range(0, 2 * merges, 2):
                total = x[i] + x[i + 1]
                m = a[i] @ total - a[i + 1] @ total
                n = a[i + 1] @ x[i] - a[i] @ x[i]
                alpha = -(m * n).sum((-2, -1)) / (m**2).sum((-2, -1))
                alpha = alpha.clamp(0, 1)[:, None, None]
                next_a.append(alpha * a[i] + (1 - alpha) * a[i + 1])
                next_x.append(total)
            a, x = next_a + a[2 * merges :], next_x + x[2 * merges :]
        target = torch.stack(a, dim=1)
    tiny = torch.finfo(target.dtype).tiny
    ratio = target.clamp(min=tiny).log() - _maps(student, temperature).log()
    return (target * ratio).sum((1, 3)).mean()


def _maps(tap: AttentionTap, temperature: float) -> Tensor:
    return ((tap.q @ tap.k.transpose(-2, -1) * tap.scale) / temperature).softmax(-1)
