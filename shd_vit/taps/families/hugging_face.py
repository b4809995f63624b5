"""Hugging Face models, through the attention registry of transformers itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor, nn

from shd_vit.taps.families.hugging_face_masks import described, describing
from shd_vit.taps.families.ops import add_biases, sdpa_mask
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.projection import PROJECTIONS
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap

# What the tapped implementation is called in the registry, and the one it hands on to.
TAPPED = 'shd_vit_sdpa'
ORIGINAL = 'sdpa'
# Arguments that change the maps in ways a tap cannot carry.
_UNSUPPORTED = ('softcap', 's_aux', 'cache')


def uses_registry(attn: nn.Module) -> bool:
    """Whether a module gets its attention function from the registry of transformers."""
    forward = inspect.unwrap(type(attn).forward)
    names = getattr(getattr(forward, '__code__', None), 'co_names', ())
    return 'ALL_ATTENTION_FUNCTIONS' in names and hasattr(attn, 'config')


@ATTENTION_TAPS.register_where(uses_registry)
class HuggingFaceAttention(AttentionFamily):
    """Any attention that calls SDPA through ``ALL_ATTENTION_FUNCTIONS``.

    What is recorded is what SDPA gets: q, k and v after rotary embedding, mask and scaling.
    """

    def refusal(self, attn):
        used = attn.config._attn_implementation
        if used not in (ORIGINAL, TAPPED):
            return (
                f'attn_implementation={used!r} is not {ORIGINAL!r}: what it computes from q, k and '
                f'v is not known. Call model.set_attn_implementation({ORIGINAL!r})'
            )
        if self.projection(attn) is None:
            return f'it has no output projection {", ".join(PROJECTIONS)}'
        return None

    def num_heads(self, attn):
        return next(
            getattr(owner, name)
            for name in ('num_attention_heads', 'num_heads')
            for owner in (attn, attn.config)
            if hasattr(owner, name)
        )

    def attach(self, attn, keep):
        _register()
        return [_Tap(attn, keep)]

    @contextmanager
    def recording(self, attn):
        """The tapped implementation for as long as a bank records, and not a moment longer.

        So the config of a copy, or one that is saved, is the model's own.
        """
        config, used = attn.config, attn.config._attn_implementation
        reason = self.refusal(attn)
        if reason:
            self.refuse(attn, reason)
        config._attn_implementation = {'': TAPPED}  # of this config, not of those inside it
        try:
            yield
        finally:
            config._attn_implementation = {'': used}

    def read(self, attn, outputs, call):
        q, k, v, mask, kwargs = outputs['interface']
        for name in _UNSUPPORTED:
            if kwargs.get(name) is not None:
                self.refuse(attn, f'{name} changes its maps')
        if k.shape[2] != q.shape[2]:
            self.refuse(attn, f'{q.shape[2]} queries see {k.shape[2]} keys: not self-attention')
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scale = kwargs.get('scaling')
        is_causal = kwargs.get('is_causal')
        if is_causal is None:
            is_causal = getattr(attn, 'is_causal', True)
        words = described(mask)
        bias, seen = sdpa_mask(mask, is_causal) if words is None else (None, words)
        bias = add_biases(bias, kwargs.get('position_bias'))
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return AttentionTap(q, k, v, NO_WEIGHT, scale, bias, mask=seen)


class _Tap:
    """A recorder at a module, and its removal."""

    def __init__(self, attn: Any, keep: Callable[[str, Any], None]) -> None:
        self.attn = attn
        self.keep = keep
        attn.__dict__.setdefault('_shd_vit_taps', []).append(keep)

    def remove(self) -> None:
        self.attn._shd_vit_taps.remove(self.keep)


@cache
def _register() -> None:
    """Enter the tapped implementation, and SDPA's masks for it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[ORIGINAL]

    def tapped(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask, **kwargs
    ):
        for keep in getattr(module, '_shd_vit_taps', ()):
            keep('interface', (query, key, value, attention_mask, kwargs))
        return original(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(TAPPED, tapped)
    masks = describing(ALL_MASK_ATTENTION_FUNCTIONS[ORIGINAL])
    AttentionMaskInterface.register(TAPPED, masks)
