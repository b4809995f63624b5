"""Which weights of a checkpoint are meant: it may hold the trained ones and their average."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from shd_vit.errors import CheckpointError, ConfigError

_PLAIN = ('state_dict', 'model')
_AVERAGES = ('state_dict_ema', 'model_ema')  # timm's
# What DDP and torch.compile put before every name.
_WRAPPERS = re.compile(r'^(?:module\.|_orig_mod\.)+')


def weights_of(checkpoint: dict, filename: str, keys: Iterable[str] = ()) -> dict[str, Tensor]:
    """The weights by name that training goes on with: of ``state_dict``, ``model``, or bare.

    Args:
        checkpoint: Of :func:`~shd_vit.checkpoint.safe_load`.
        filename: How errors name it.
        keys: Where to look before that; the first that is there counts.

    Raises:
        CheckpointError: If what is there is no dict of tensors.
    """
    key = next((key for key in (*keys, *_PLAIN) if key in checkpoint), None)
    weights = checkpoint if key is None else checkpoint[key]
    where = f'checkpoint {filename!r}' if key is None else f'{key} of checkpoint {filename!r}'
    if not isinstance(weights, dict):
        shown = 'None' if weights is None else f'a {type(weights).__name__}'
        raise CheckpointError(f'{where} is {shown}: expected a dict of weights')
    if not weights:
        raise CheckpointError(f'{where} is no dict of weights: it is empty')
    for name, weight in weights.items():
        is_extra = str(name).endswith('_extra_state')  # what modules keep beside their weights
        if not isinstance(name, str) or not (isinstance(weight, Tensor) or is_extra):
            raise CheckpointError(
                f'{where} is no dict of weights: {name!r:.99} is a {type(weight).__name__}, '
                'expected a tensor'
            )
    if key == 'ema_state_dict':  # also counts its steps
        weights = {name: x for name, x in weights.items() if name.startswith('module.')}
    return {_WRAPPERS.sub('', name): weight for name, weight in weights.items()}


def model_weights(
    checkpoint: dict, filename: str, *, ema: bool = True
) -> tuple[dict[str, Tensor], str]:
    """The weights to use a model by, and what they are in words.

    timm keeps averaged weights (EMA) in ``state_dict_ema`` or ``model_ema``, beside the plain ones
    in ``state_dict`` or ``model``, and reads the average where there is one. mmengine's ``EMAHook``
    swaps them as it saves: ``state_dict`` is the average, ``ema_state_dict`` has the plain ones
    under 'module.'. Both choose their best epoch by the average.

    Args:
        checkpoint: Of :func:`~shd_vit.checkpoint.safe_load`.
        filename: How errors name it.
        ema: The average, where there is one; else the plain weights.

    Raises:
        CheckpointError: If there are no weights in it.
        ConfigError: If ``ema`` is False and there is no average.
    """
    averages = [key for key in _AVERAGES if checkpoint.get(key) is not None]
    swapped = ['ema_state_dict'] if checkpoint.get('ema_state_dict') is not None else []
    if not ema and not averages and not swapped:
        raise ConfigError('--no-ema: the checkpoint has no averaged weights beside its others')
    keys = averages if ema else swapped
    weights = weights_of(checkpoint, filename, keys)
    key = next((key for key in (*keys, *_PLAIN) if key in checkpoint), None)
    kind = '' if not (averages or swapped) else 'averaged ' if ema else 'plain '
    words = f'the {kind}weights' + (f' ({key})' if key else '')
    return {name: x for name, x in weights.items() if not name.endswith('_extra_state')}, words
