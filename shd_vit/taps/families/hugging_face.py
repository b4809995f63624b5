"""Hugging Face models, through the attention registry of transformers itself."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn

from shd_vit.taps.families.ops import add_biases, sdpa_mask
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import AttentionTap

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
        if self._out_proj(attn) is None:
            return 'it has no output projection o_proj, out_proj, c_proj or proj'
        return None

    def num_heads(self, attn):
        return next(
            getattr(owner, name)
            for name in ('num_attention_heads', 'num_heads')
            for owner in (attn, attn.config)
            if hasattr(owner, name)
        )

    def out_proj(self, attn):
        projection = self._out_proj(attn)
        # transformers' Conv1D, as in GPT-2, keeps its weight transposed.
        is_transposed = type(projection).__name__ == 'Conv1D'
        return projection.weight.T if is_transposed else projection.weight

    def _out_proj(self, attn: nn.Module) -> Any:
        names = ('o_proj', 'out_proj', 'c_proj', 'proj')
        return next((getattr(attn, name) for name in names if hasattr(attn, name)), None)

    def attach(self, attn, keep):
        return [_Tap(attn, keep)]

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
        bias, seen = sdpa_mask(mask, is_causal)
        bias = add_biases(bias, kwargs.get('position_bias'))
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return AttentionTap(q, k, v, self.out_proj(attn), scale, bias, mask=seen)


class _Tap:
    """A recorder on a module, and its removal."""

    # How many there are under each config; layers share one.
    counts: Counter[int] = Counter()

    def __init__(self, attn: Any, keep: Callable[[str, Any], None]) -> None:
        _register()
        self.attn = attn
        self.keep = keep
        attn.__dict__.setdefault('_shd_vit_taps', []).append(keep)
        attn.config._attn_implementation = TAPPED
        self.counts[id(attn.config)] += 1

    def remove(self) -> None:
        self.attn._shd_vit_taps.remove(self.keep)
        self.counts[id(self.attn.config)] -= 1
        if not self.counts[id(self.attn.config)]:
            del self.counts[id(self.attn.config)]
            self.attn.config._attn_implementation = ORIGINAL


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
    AttentionMaskInterface.register(TAPPED, ALL_MASK_ATTENTION_FUNCTIONS[ORIGINAL])
