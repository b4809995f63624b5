"""Which weights of a checkpoint are meant: it may hold the trained ones and their average."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from shd_vit.errors import CheckpointError, ConfigError

# What DDP and torch.compile put before every name.
_WRAPPERS = re.compile(r'^(?:module\.|_orig_mod\.)+')


def model_weights(checkpoint: Any, *, ema: bool = True) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's weights, and what they are in words.

    timm keeps averaged weights (EMA) in ``state_dict_ema`` or ``model_ema``, beside the plain ones
    in ``state_dict`` or ``model``, and reads the average where there is one. mmengine's ``EMAHook``
    swaps them as it saves: ``state_dict`` is the average, ``ema_state_dict`` has the plain ones
    under 'module.'. Both choose their best epoch by the average.

    Args:
        checkpoint: As loaded; bare weights as well.
        ema: The average, where there is one; else the plain weights.

    Raises:
        CheckpointError: If there are no weights in it.
        ConfigError: If ``ema`` is False and there is no average.
    """
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'a checkpoint is a dict of weights, this one is a {type(checkpoint).__name__}'
        )
    averages = ('state_dict_ema', 'model_ema')
    average = next((key for key in averages if checkpoint.get(key) is not None), None)
    plain = next((key for key in ('state_dict', 'model') if key in checkpoint), None)
    swapped = checkpoint.get('ema_state_dict') is not None
    if not ema and average is None and not swapped:
        raise ConfigError('--no-ema: the checkpoint has no averaged weights beside its others')
    key = average if ema and average else plain
    if swapped and not ema:
        key = 'ema_state_dict'
    weights = checkpoint if key is None else checkpoint[key]
    if not isinstance(weights, dict):
        raise CheckpointError(f'{key!r} of the checkpoint is {type(weights).__name__}, no weights')
    if key == 'ema_state_dict':  # also counts its steps
        weights = {name: x for name, x in weights.items() if name.startswith('module.')}
    # What modules keep beside their weights.
    weights = {name: x for name, x in weights.items() if not str(name).endswith('_extra_state')}
    others = [name for name, x in weights.items() if not isinstance(x, Tensor)]
    if others or not weights:
        found = f'{others[0]!r:.99} is no tensor' if others else 'it is empty'
        raise CheckpointError(f'{key or "the checkpoint"!r} is no dict of weights: {found}')
    named = {_WRAPPERS.sub('', str(name)): weight for name, weight in weights.items()}
    return named, _words(key, average is not None or swapped, ema)


def plain_meta(checkpoint: dict) -> dict[str, Any]:
    """Of ``meta``, what goes with the weights: the epoch and the names of the classes."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    about = meta.get('dataset_meta')
    classes = about.get('classes') if isinstance(about, dict) else None
    kept: dict[str, Any] = {}
    if isinstance(meta.get('epoch'), int):
        kept['epoch'] = meta['epoch']
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        kept['dataset_meta'] = dict(classes=list(classes))
    return kept


def _words(key: str | None, has_average: bool, ema: bool) -> str:
    where = f' ({key})' if key else ''
    if not has_average:
        return f'the weights{where}'
    return f'the {"averaged" if ema else "plain"} weights{where}'
