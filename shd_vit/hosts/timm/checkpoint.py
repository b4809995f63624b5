"""Checkpoints of timm's training scripts, read as data: none of their content can run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timm.models import create_model, load_checkpoint
from timm.task import TrainingTask
from torch import nn
from torch.optim import Optimizer

from shd_vit.checkpoint import model_weights, safe_load, weights_of
from shd_vit.errors import CheckpointError

_logger = logging.getLogger(__name__)

_JAX = ('.npz', '.npy')  # timm reads them, without pickles


def load_weights(model: nn.Module, filename: str) -> None:
    """Put a file's weights into a model: averaged ones if it has any, as timm's checkpoint_path.

    Raises:
        CheckpointError: If the file is missing or damaged, holds more than data, or does not fit.
    """
    with _fitting(filename):
        if Path(filename).suffix in _JAX:
            load_checkpoint(model, filename)
        else:
            model.load_state_dict(model_weights(safe_load(filename), filename)[0])


def create_from(
    name: str, filename: str, num_classes: int, overlay: dict | None = None, **kwargs: Any
) -> nn.Module:
    """A timm model with a file's weights, adapted as timm adapts pretrained ones.

    Args:
        name: timm's.
        filename: The weights, of that many classes.
        num_classes: Of the model.
        overlay: More of timm's ``pretrained_cfg_overlay``.
        kwargs: Of the model.

    Raises:
        CheckpointError: As :func:`load_weights`.
    """
    overlay = dict(dict(file=filename, num_classes=num_classes), **overlay or {})
    if Path(filename).suffix not in _JAX:
        overlay['state_dict'], _ = model_weights(safe_load(filename), filename)
    with _fitting(filename):
        model: nn.Module = create_model(
            name, True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **kwargs
        )
    getattr(model, 'pretrained_cfg', {}).pop('state_dict', None)  # a second copy
    return model


def resume_task(
    task: TrainingTask, checkpoint: dict, filename: str, optimizer: Optimizer, scaler: Any = None
) -> int:
    """Take up what timm's CheckpointSaver wrote of a task: as timm's ``resume_task_checkpoint``.

    Args:
        task: Gets weights, averaged ones if it has an average, and its own state.
        checkpoint: Of :func:`~shd_vit.checkpoint.safe_load`.
        filename: How errors name it.
        optimizer: Gets its state.
        scaler: timm's NativeScaler, if gradients are scaled.

    Returns:
        The epoch to go on with.

    Raises:
        CheckpointError: If it does not fit.
    """
    weights = weights_of(checkpoint, filename)
    epoch, version = checkpoint.get('epoch', 0), checkpoint.get('version', 1)
    if type(epoch) is not int or type(version) is not int:
        raise CheckpointError(f'checkpoint {filename!r} has no epoch to go on from: {epoch!r:.100}')
    with _fitting(filename):
        task.load_checkpoint_state(weights, checkpoint.get('task_state'))
        if 'optimizer' in checkpoint:
            optimizer.load_state_dict(checkpoint['optimizer'])
        if scaler is not None and scaler.state_dict_key in checkpoint:
            scaler.load_state_dict(checkpoint[scaler.state_dict_key])
        if task.has_ema():
            is_averaged = checkpoint.get('state_dict_ema') is not None
            state = checkpoint.get('task_state_ema' if is_averaged else 'task_state')
            task.load_checkpoint_state(model_weights(checkpoint, filename)[0], state, ema=True)
    _logger.info('Resumed %s', filename)
    if 'epoch' not in checkpoint:
        return 0
    return epoch + 1 if version > 1 else epoch


def own_history(checkpoint: dict) -> dict | None:
    """What a CheckpointSaver is to know of earlier checkpoints; None if the file does not say.

    The saver removes those that are no longer among the best: of the files that a checkpoint
    names, only numbered checkpoints in the saver's own folder are kept.
    """
    saver = checkpoint.get('saver')
    if not isinstance(saver, dict):
        return None
    files = []
    for entry in saver.get('checkpoint_files') or ():
        name, metric = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, None)
        is_ours = isinstance(name, str) and re.fullmatch(r'checkpoint-\d+\.pth\.tar', name)
        if is_ours and _is_number(metric):
            files.append((name, metric))
        else:
            _logger.warning(
                'Ignored %.200r of the resumed checkpoint: no file that this run writes', name
            )
    pending = saver.get('pending')
    if not isinstance(pending, tuple) or [type(pending[0]), _is_number(pending[-1])] != [int, True]:
        pending = (None, None)
    best = (saver.get('best_epoch'), saver.get('best_metric'))
    if type(best[0]) is not int or not _is_number(best[1]):
        best = (None, None)
    return dict(
        checkpoint_files=files, pending=pending[:2], best_epoch=best[0], best_metric=best[1]
    )


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


@contextmanager
def _fitting(filename: str) -> Iterator[None]:
    """Turns what torch and timm raise about content that does not fit into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        lines = str(e).splitlines() or [type(e).__name__]
        reason = ' '.join(lines[:2]).replace('\t', ' ')[:300]
        raise CheckpointError(f'checkpoint {filename!r} does not fit: {reason}') from None
