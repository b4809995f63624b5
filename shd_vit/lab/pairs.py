"""Whether two models can be paired: SHD between them, measured and taken down one step."""

from __future__ import annotations

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.lab.models import record
from shd_vit.pairing import ModelOutput
from shd_vit.taps import Anatomy

HEADINGS = (
    'teacher -> student',
    'classes',
    'layers, student<-teacher',
    'heads',
    'prefix tokens compared',
    'SHD loss',
    'after a step',
    'ok',
)


def pair_of(teacher: str | dict, student: str | dict, tokens: str = 'all') -> ViTDistiller:
    """A distiller with SHD alone, in eval mode: neither drop-path nor dropout.

    Weights are random, those of attention large enough for maps that are far from uniform.

    Args:
        teacher: A classifier's config, or the path of one.
        student: The same.
        tokens: Those compared, see :class:`SHDLoss`.
    """
    torch.manual_seed(0)
    teacher = dict(config=teacher) if isinstance(teacher, str) else teacher
    distiller = MODELS.build(
        dict(
            type='ViTDistiller',
            teacher=dict(teacher, checkpoint=None),
            student=student,
            losses=dict(shd=dict(type='SHDLoss', tokens=tokens, compile=False)),
        )
    )
    distiller.init_weights()
    for model in (distiller.teacher, distiller.student):
        sharpen(model)
    return distiller.eval()


@torch.no_grad()
def sharpen(model: nn.Module) -> None:
    """Draw the attention weights anew, so that logits and position biases have a spread near 1."""
    for layer in Anatomy(model).layers:
        for name, parameter in layer.attn.named_parameters():
            if 'bias' in name:
                parameter.normal_()
            elif parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)


def row(name: str, distiller: ViTDistiller, side: int, num_images: int = 1) -> list[str]:
    """What HEADINGS say of a pair, for random images of a side."""
    images = torch.randn(num_images, 3, side, side)
    before, reached = descend(distiller, images)
    after = shd_loss(distiller, images)[0].item()
    loss = distiller.losses['shd']
    prefix = loss.alignment.prefix
    return [
        name,
        f'{class_of(distiller.teacher)} -> {class_of(distiller.student)}',
        layers_of(loss.pairs),
        heads_of(distiller),
        '-' if prefix is None else ', '.join(prefix) or 'none',
        f'{before:.4f}',
        f'{after:.4f}',
        'yes' if reached and 0 < after < before else 'no',
    ]


def shd_loss(distiller: ViTDistiller, images: Tensor) -> tuple[Tensor, ModelOutput]:
    """The loss, and what was recorded of the student."""
    student, teacher = record(distiller, images)
    return distiller.losses['shd'](student, teacher, None), student


def descend(distiller: ViTDistiller, images: Tensor) -> tuple[float, bool]:
    """Take one step along the loss's gradient.

    Returns:
        The loss before, and whether its gradient reached queries and keys of all layers that learn
        and nothing of the teacher.
    """
    loss, student = shd_loss(distiller, images)
    learning = [x for tap in student.attention.values() for x in (tap.q, tap.k)]
    for x in learning:
        x.retain_grad()
    loss.backward()
    reached = all(x.grad is not None and x.grad.abs().sum() > 0 for x in learning)
    untouched = all(parameter.grad is None for parameter in distiller.teacher.parameters())
    moved = [p for p in distiller.student.parameters() if p.grad is not None]
    with torch.no_grad():
        # A first-order prediction of 1 % less.
        rate = 0.01 * loss / sum(p.grad.square().sum() for p in moved)
        for parameter in moved:
            parameter -= rate * parameter.grad
    return loss.item(), reached and untouched


def class_of(classifier: nn.Module) -> str:
    """The classifier's and the model's inside."""
    inner = getattr(classifier, 'backbone', getattr(classifier, 'model', None))
    return f'{type(classifier).__name__}({type(inner).__name__})'


def layers_of(pairs: list[tuple[int, int]]) -> str:
    """As '1<-1, 2<-3', or '1-12' where all numbers are equal."""
    if all(s == t for s, t in pairs):
        return f'{pairs[0][0]}-{pairs[-1][0]}'
    return ', '.join(f'{s}<-{t}' for s, t in pairs)


def heads_of(distiller: ViTDistiller) -> str:
    """Of the teacher and of the student, by stage where stages differ."""
    heads = [dict.fromkeys(Anatomy(m).heads) for m in (distiller.teacher, distiller.student)]
    return ' -> '.join(', '.join(map(str, each)) for each in heads)
