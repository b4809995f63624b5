"""Made-up taps and anatomies for losses on pairs of layers."""

import torch

from shd_vit.losses import ModelOutput
from shd_vit.taps import FINAL, AttentionTap, TokenTap


class Model:
    """What a loss's bind asks of a model's anatomy."""

    def __init__(self, role, depth=2, dim=4, heads=2):
        self.role, self.depth, self.dim, self.heads = role, depth, dim, [heads] * depth
        self.stages, self.prefix_tokens = [list(range(1, depth + 1))], ('cls',)


def bound(loss, student_dim=4, teacher_dim=6, student_depth=2, teacher_depth=2):
    loss.bind(
        Model('student', student_depth, student_dim), Model('teacher', teacher_depth, teacher_dim)
    )
    return loss


def tokens(dim, depth=2, patches=9, prefix=1, B=3, dtype=torch.float64, mask=None, grid=(3, 3)):
    """Block outputs that ask for gradients, of a teacher too, to see that it gets none."""
    return ModelOutput(
        None,
        {},
        {
            n: TokenTap(
                torch.randn(B, prefix + patches, dim, dtype=dtype, requires_grad=True),
                prefix,
                mask,
                grid,
            )
            for n in (*range(1, depth + 1), FINAL)
        },
    )


def attention(heads, depth=2, N=5, B=3, D=4, bias=None, sharpness=1.0):
    """Attention taps that ask for gradients."""

    def tap():
        q, k, v = torch.randn(3, B, heads, N, D, dtype=torch.float64).unbind(0)
        out_proj = torch.randn(heads * D, heads * D, dtype=torch.float64)
        q = sharpness * q
        return AttentionTap(q.requires_grad_(), k.requires_grad_(), v, out_proj, 0.5, bias)

    return ModelOutput(None, {n: tap() for n in range(1, depth + 1)}, {})


def leaves(output):
    return [tap.x for tap in output.tokens.values()] + [
        x for tap in output.attention.values() for x in tap[:2]
    ]
