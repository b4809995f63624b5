"""The table that a distillation opens its log with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import Anatomy

if TYPE_CHECKING:
    from shd_vit.distillation.step import Distillation

LISTED = 4  # of what is left out; a model may have cross-attention in every block
_HEADINGS = ('', 'class', 'parameters', 'layers', 'heads', 'prefix tokens')


def summary(distillation: Distillation, notes: Sequence[str] = ()) -> str:
    """Teacher, student and losses, as a plain-text table.

    Args:
        distillation: What is summed up.
        notes: Lines that a host adds, such as where weights come from.
    """
    teacher, student = distillation.teacher.bank.anatomy, distillation.student_bank.anatomy
    rows = [_HEADINGS, ('teacher', *_model_row(teacher)), ('student', *_model_row(student))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for anatomy in (teacher, student):
        if left_out := _left_out(anatomy):
            lines.append(f'attention of the {anatomy.role} that is left out: {left_out}')
    for name, loss in distillation.losses.items():
        lines.append(f'{name}: {type(loss).__name__}({loss.extra_repr()})')
        if parameters := _count(loss):
            lines.append(f'    {parameters:,} parameters')
        if name in distillation.schedules.schedules:
            lines.append(f'    schedule: {distillation.schedules.schedules[name]}')
    return '\n'.join(['Distillation', *(f'  {line}' for line in [*lines, *notes])])


def _model_row(anatomy: Anatomy) -> tuple[str, ...]:
    model = anatomy.model
    # ImageClassifier calls it backbone; TimmClassifier and HuggingFaceClassifier, model.
    inner = getattr(model, 'backbone', getattr(model, 'model', None))
    name = type(model).__name__ + (f'({type(inner).__name__})' if inner is not None else '')
    count = f'{_count(model):,}'
    try:
        heads = ', '.join(map(str, sorted(set(anatomy.heads))))
        return name, count, str(anatomy.depth), heads, _prefix_of(anatomy)
    except UnsupportedAttention:
        return name, count, '-', '-', '-'


def _left_out(anatomy: Anatomy) -> str:
    """Attention that no loss can ask for; of a model whose layers are read."""
    try:
        names = anatomy.left_out if anatomy.depth else []
        more = f' and {len(names) - LISTED} more' if len(names) > LISTED else ''
        return ', '.join(names[:LISTED]) + more
    except UnsupportedAttention:
        return ''


def _prefix_of(anatomy: Anatomy) -> str:
    try:
        return ', '.join(anatomy.prefix_tokens) or 'none'
    except UnsupportedAttention:
        return '-'


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
