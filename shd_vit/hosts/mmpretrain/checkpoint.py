"""Checkpoints in mmengine's runs: whose weights they are, and what resuming may take from them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from shd_vit.checkpoint import model_weights, safe_load, weights_of
from shd_vit.errors import CheckpointError

__all__ = [
    'check_resumable',
    'fit_names',
    'insert_weights',
    'load_weights',
    'mmengine_loads_safely',
    'safe_load',
    'save_student_as_alone',
    'student_weights',
]


def load_weights(model: nn.Module, filename: str) -> None:
    """Load the weights that a model starts from. Weights that it has no use for are only logged.

    A distiller's checkpoint fits a plain classifier (its student's weights are taken), and a plain
    classifier's fits a distiller's student. Of weights and their average (EMA), the average is
    taken, by which checkpoints are chosen.

    Raises:
        CheckpointError: If a weight of the model is missing, or a shape differs.
    """
    weights, which = model_weights(safe_load(filename), filename)
    print_log(f'checkpoint {filename!r}: {which}', logger='current')
    insert_weights(model, dict(state_dict=weights), filename, allow=('unexpected',))


def insert_weights(
    model: nn.Module, checkpoint: dict, filename: str, allow: tuple[str, ...] = ()
) -> None:
    """Put a loaded checkpoint's weights into a model.

    Args:
        model: Where they go.
        checkpoint: What :func:`safe_load` gave: ``state_dict`` or ``model`` inside, or bare.
        filename: How errors name it.
        allow: Which of 'missing' and 'unexpected' weights are logged instead of refused.

    Raises:
        CheckpointError: If weights are missing or left over, or a shape differs.
    """
    state = fit_names(weights_of(checkpoint, filename), model.state_dict().keys())
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        reason = lines[1].strip() if len(lines) > 1 else lines[0]
        raise CheckpointError(f'checkpoint {filename!r} does not fit: {reason}') from None
    for kind, names in (('missing', missing), ('unexpected', unexpected)):
        if names:
            problem = (
                f'checkpoint {filename!r} does not fit {type(model).__name__}: '
                f'{len(names)} weights {kind} (first: {names[0]})'
            )
            if kind not in allow:
                raise CheckpointError(problem)
            print_log(problem, logger='current', level=logging.WARNING)


def check_resumable(checkpoint: dict, filename: str) -> None:
    """Refuse to resume what is no training's checkpoint, and take its config's text out.

    mmengine would run that text as Python, to look for a field that its runners no longer write.

    Raises:
        CheckpointError: If what resuming reads is missing, or of another type.
    """
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    parts = [
        ('meta', meta, dict),
        ('message_hub', hub, dict),
        *((f'meta.{key}', (meta or {}).get(key), int) for key in ('epoch', 'iter')),
        *((f'message_hub.{key}', (hub or {}).get(key), dict) for key in _HUB),
    ]
    if isinstance(meta, dict) and meta.get('seed') is not None:
        parts.append(('meta.seed', meta['seed'], int))
    for name, value, kind in parts:
        if type(value) is not kind:
            raise CheckpointError(
                f'checkpoint {filename!r} cannot be resumed: {name} is '
                f'{"missing" if value is None else f"a {type(value).__name__}"}, expected '
                f'{"an" if kind is int else "a"} {kind.__name__}; load_from takes weights alone'
            )
    checkpoint['meta'].pop('config', None)


_HUB = ('log_scalars', 'runtime_info', 'resumed_keys')


@contextmanager
def mmengine_loads_safely() -> Iterator[None]:
    """Inside, what mmengine itself loads, for ``init_cfg=dict(type='Pretrained')``, is data too.

    mmengine calls ``torch.load`` as it comes, which runs a file's code in versions before 2.6.
    """
    known = dict(CheckpointLoader._schemes)
    CheckpointLoader.register_scheme(['', 'http://', 'https://'], _load_for_mmengine, force=True)
    try:
        yield
    finally:
        CheckpointLoader._schemes = known


def _load_for_mmengine(filename: str, map_location: str | None = None) -> dict:
    return {'state_dict': weights_of(safe_load(filename, map_location), filename)}


def fit_names(state: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Names of a checkpoint's weights as the model has them: with or without 'student.'."""
    distiller_wanted = any(name.startswith('student.') for name in wanted)
    distiller_given = any(name.startswith('student.') for name in state)
    if distiller_given and not distiller_wanted:
        return student_weights(state)
    if distiller_wanted and not distiller_given:
        return {f'student.{name}': weight for name, weight in state.items()}
    return state


def student_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's weights of a distiller's state dict, named as the student alone has them."""
    return {
        name.removeprefix('student.'): weight
        for name, weight in state.items()
        if name.startswith('student.')
    }


def save_student_as_alone(module, state_dict, prefix, local_metadata) -> None:
    """A state dict's hook of a distiller: the student's names are those that it has alone.

    A TimmClassifier drops 'model.' from its names when saved alone, keeps it when nested, and
    loads only names without it.
    """
    inner = f'{prefix}student.'
    for name in [name for name in state_dict if name.startswith(inner)]:
        del state_dict[name]
    state_dict.update(module.student.state_dict(prefix=inner))
