"""The table that a distillation opens its log with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from torch import nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import Anatomy

if TYPE_CHECKING:
    from shd_vit.hosts.mmpretrain.distiller import ViTDistiller


def summary(distiller: ViTDistiller) -> str:
    """Teacher, student and losses of a distiller, as a plain-text table."""
    table = Table(title='Distillation', title_justify='left')
    for heading in ('', 'class', 'parameters', 'layers', 'heads', 'prefix tokens'):
        table.add_column(
            heading, justify='right' if heading in ('parameters', 'layers') else 'left'
        )
    for role, model in (('teacher', distiller.teacher), ('student', distiller.student)):
        table.add_row(role, *_model_row(model))
        left_out = _left_out(model)
        if left_out:
            table.add_row('', f'[dim]left out: {left_out}[/dim]')
    table.add_section()
    for name, loss in distiller.losses.items():
        table.add_row(f'loss_{name}', type(loss).__name__, _count(loss))
        table.add_row('', f'[dim]{loss.extra_repr()}[/dim]')
        if name in distiller.schedules.schedules:
            table.add_row('', f'[dim]schedule: {distiller.schedules.schedules[name]}[/dim]')
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return f'\n{captured.get()}'


def _model_row(model: nn.Module) -> tuple[str, ...]:
    # ImageClassifier calls it backbone; TimmClassifier and HuggingFaceClassifier, model.
    inner = getattr(model, 'backbone', getattr(model, 'model', model))
    name = f'{type(model).__name__}({type(inner).__name__})'
    try:
        anatomy = Anatomy(model)
        heads = ', '.join(map(str, sorted(set(anatomy.heads))))
        return name, _count(model), str(anatomy.depth), heads, _prefix_of(anatomy)
    except UnsupportedAttention:
        return name, _count(model), '-', '-', '-'


def _left_out(model: nn.Module) -> str:
    """Attention that no loss can ask for; of a model whose layers are read."""
    anatomy = Anatomy(model)
    try:
        return ', '.join(anatomy.left_out) if anatomy.depth else ''
    except UnsupportedAttention:
        return ''


def _prefix_of(anatomy: Anatomy) -> str:
    try:
        return ', '.join(anatomy.prefix_tokens) or 'none'
    except UnsupportedAttention:
        return '-'


def _count(model: nn.Module) -> str:
    return f'{sum(p.numel() for p in model.parameters()):,}'
