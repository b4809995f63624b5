"""Hugging Face models, through the attention registry of transformers itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from torch import Tensor, nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.functional import Mask
from shd_vit.taps.families.hugging_face_flash import flash_mask
from shd_vit.taps.families.hugging_face_flex import flex_mask
from shd_vit.taps.families.hugging_face_masks import described, describing
from shd_vit.taps.families.ops import add_biases, sdpa_mask
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.projection import PROJECTIONS
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap

# Attention functions of transformers that are tapped, and how each reads its mask.
MASKS: dict[str, Callable[..., tuple[Tensor | None, Mask]]] = dict(
    sdpa=lambda query, mask, is_causal, call: sdpa_mask(mask, is_causal),
    flash_attention_2=flash_mask,
    flash_attention_3=flash_mask,
    flex_attention=flex_mask,
)
PREFIX = 'shd_vit_'  # of their names in the registry while they are tapped
# What modules have that changes the maps in ways a tap cannot carry, by the argument of a call.
_UNSUPPORTED = {
    'softcap': ('attn_logit_softcapping', 'its logits are capped'),
    's_aux': ('sinks', 'its sinks take a part of each row'),
    'cache': ('', 'it sees keys of an earlier call'),
}


def uses_registry(attn: nn.Module) -> bool:
    """Whether a module gets its attention function from the registry of transformers."""
    forward = inspect.unwrap(type(attn).forward)
    names = getattr(getattr(forward, '__code__', None), 'co_names', ())
    return 'ALL_ATTENTION_FUNCTIONS' in names and hasattr(attn, 'config')


@ATTENTION_TAPS.register_where(uses_registry)
class HuggingFaceAttention(AttentionFamily):
    """Any attention that calls one of :data:`MASKS` through ``ALL_ATTENTION_FUNCTIONS``.

    What is recorded is what that gets: q, k and v after rotary embedding, mask and scaling.
    """

    def refusal(self, attn):
        used = attn.config._attn_implementation
        if used is None or used.removeprefix(PREFIX) not in MASKS:
            return (
                f'attn_implementation={used!r} is none of {", ".join(MASKS)}: what it computes '
                "from q, k and v is not known. Call model.set_attn_implementation('sdpa')"
            )
        for attribute, reason in _UNSUPPORTED.values():
            if attribute and getattr(attn, attribute, None) is not None:
                return f'{reason} ({attribute}), which a tap cannot carry'
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
        return [_Tap(attn, keep)]

    @contextmanager
    def recording(self, attn):
        """The tapped function for as long as a bank records, and not a moment longer.

        So the config of a copy, or one that is saved, is the model's own.
        """
        config, used = attn.config, attn.config._attn_implementation
        reason = self.refusal(attn)
        if reason:
            self.refuse(attn, reason)
        name = used.removeprefix(PREFIX)
        _register(name)
        is_tapped = used == PREFIX + name  # as one that layers share is after the first of them
        with nullcontext() if is_tapped else _named(config, PREFIX + name):
            yield

    def read(self, attn, outputs, call):
        name, q, k, v, mask, kwargs = outputs['interface']
        for argument, (_, reason) in _UNSUPPORTED.items():
            if kwargs.get(argument) is not None:
                self.refuse(attn, f'{reason} ({argument}), which a tap cannot carry')
        if k.shape[2] != q.shape[2]:
            self.refuse(attn, f'{q.shape[2]} queries see {k.shape[2]} keys: not self-attention')
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scale = kwargs.get('scaling')
        is_causal = kwargs.get('is_causal')
        if is_causal is None:
            is_causal = getattr(attn, 'is_causal', True)
        words = described(mask)
        try:
            bias, seen = MASKS[name](q, mask, is_causal, kwargs) if words is None else (None, words)
        except UnsupportedAttention as error:
            self.refuse(attn, str(error))
        if not name.startswith('flash'):  # which knows no such argument
            bias = add_biases(bias, kwargs.get('position_bias'))
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return AttentionTap(q, k, v, NO_WEIGHT, scale, bias, mask=seen)


@contextmanager
def _named(config: Any, implementation: str) -> Iterator[None]:
    """The attention function of a config, not of those inside it, for a while."""
    used = config._attn_implementation
    config._attn_implementation = {'': implementation}
    try:
        yield
    finally:
        config._attn_implementation = {'': used}


class _Tap:
    """A recorder at a module, and its removal."""

    def __init__(self, attn: Any, keep: Callable[[str, Any], None]) -> None:
        self.attn = attn
        self.keep = keep
        attn.__dict__.setdefault('_shd_vit_taps', []).append(keep)

    def remove(self) -> None:
        self.attn._shd_vit_taps.remove(self.keep)


@cache
def _register(name: str) -> None:
    """Enter the tapped form of an attention function, with its masks."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[name]
    is_flash = name.startswith('flash')

    def tapped(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ):
        for keep in getattr(module, '_shd_vit_taps', ()):
            keep('interface', (name, query, key, value, attention_mask, kwargs))
        # Flash attention looks its kernels up by the name in the config.
        with _named(module.config, name) if is_flash else nullcontext():
            return original(module, query, key, value, attention_mask, **kwargs)

    masks = ALL_MASK_ATTENTION_FUNCTIONS[name]
    AttentionInterface.register(PREFIX + name, tapped)
    # Flash attention makes none: its calls say what they hide.
    AttentionMaskInterface.register(PREFIX + name, masks if is_flash else describing(masks))
