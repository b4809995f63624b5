"""Masks of transformers in words: what its mask functions say, without an (N, N) tensor.

transformers describes a mask by a function of indices, put together from a few of its own, before
it makes a tensor of it. Where all of them are known, a tap carries their arguments; where one is
not, as with a model's own function, the tensor itself is the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shd_vit.functional.masks import Mask

_MODULE = 'transformers.masking_utils'
_NAME = '_shd_vit_words'


class _Words(NamedTuple):
    """What a mask says, and the version of the tensor that was made of it."""

    mask: Mask
    version: int


def describing(make_mask: Callable[..., Any]) -> Callable[..., Any]:
    """An entry of transformers' ``AttentionMaskInterface``, whose masks know what they say.

    Args:
        make_mask: The entry that makes them.
    """

    def make(**call: Any) -> Any:
        made = make_mask(**call)
        if made is not None and not torch.compiler.is_compiling():
            words, version = words_of(**call), _version(made)
            if words is not None and version is not None:
                setattr(made, _NAME, _Words(words, version))
        return made

    return make


def described(made: Any) -> Mask | None:
    """What a mask of :func:`describing` says; None if not known, or if it was changed since."""
    words = getattr(made, _NAME, None)
    return None if words is None or words.version != _version(made) else words.mask


def words_of(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    q_offset: Any = 0,
    kv_offset: Any = 0,
    attention_mask: Tensor | None = None,
    device: Any = 'cpu',
    **others: Any,
) -> Mask | None:
    """A mask as fields, from the arguments of a mask function of transformers; None if not known.

    Arguments are those of ``transformers.masking_utils.sdpa_mask``.
    """
    if q_length != kv_length or q_offset != 0 or kv_offset != 0:
        return None
    said = _said_by(mask_function)
    if said is None:
        return None
    window, documents = said.get('window'), said.get('documents')
    if 'behind' in said:  # no further back; how far ahead, the causal part says
        if window is not None or 'is_causal' not in said:
            return None
        window = said['behind']
    if 'positions' in said and documents is None:
        return None  # by positions that start anew, tokens of two documents see each other
    padding = attention_mask
    shape = (batch_size, kv_length)
    if any(x is not None and x.shape != shape for x in (padding, documents)):
        return None
    if padding is not None and padding.dtype != torch.bool:
        return None
    padding, documents = (None if x is None else x.to(device) for x in (padding, documents))
    return Mask('is_causal' in said, 0, window, padding, documents)


def _said_by(function: Callable[..., Any]) -> dict[str, Any] | None:
    """What a function of transformers was made with, each field once; None if not known."""
    if getattr(function, '__module__', None) != _MODULE:
        return None
    given = inspect.getclosurevars(function).nonlocals
    match function.__qualname__.split('.')[0]:
        case 'bidirectional_mask_function':
            return {}
        case 'causal_mask_function':
            return {'is_causal': True}
        case 'sliding_window_overlay':  # j > i - window
            return {'behind': given['sliding_window']}
        case 'sliding_window_bidirectional_overlay':  # |i - j| <= window
            return {'window': given['sliding_window'] + 1}
        case 'packed_sequence_mask_function':
            return {'documents': given['packed_sequence_mask']}
        case 'remap_positions_for_packed_sequence':
            return _both({'positions': True}, _said_by(given['mask_function']))
        case 'and_masks':
            said: dict[str, Any] | None = {}
            for part in given['mask_functions']:
                said = _both(said, _said_by(part))
            return said
    return None


def _both(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    if one is None or other is None or one.keys() & other.keys():
        return None
    return {**one, **other}


def _version(made: Any) -> int | None:
    """Counts what is done to a mask in place; None where that cannot be told."""
    if not isinstance(made, Tensor):
        return 0
    return None if made.is_inference() else made._version
