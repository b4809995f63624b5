"""diffusers: transformers whose attention is a module and a processor that runs it.

What a processor does between its projections is its own affair, so each is read only in the way in
which it was found to be exact: see ``PLAIN`` and ``DISPATCHED``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shd_vit.functional.masks import ALL_KEYS, Mask
from shd_vit.taps.families.ops import heads_first
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap

MODELS = 'diffusers.models'
# Classes of (attention, processor). The plain one calls SDPA with what its submodules give ...
PLAIN = {
    (f'{MODELS}.attention_processor.Attention', f'{MODELS}.attention_processor.AttnProcessor2_0')
}
# ... and these hand queries and keys, rotated, to the backend that is set.
DISPATCHED = {
    (
        f'{MODELS}.transformers.transformer_wan.WanAttention',
        f'{MODELS}.transformers.transformer_wan.WanAttnProcessor',
    ),
    (
        f'{MODELS}.attention_processor.Attention',
        f'{MODELS}.transformers.transformer_z_image.ZSingleStreamAttnProcessor',
    ),
}
BACKEND = 'native'  # of diffusers: SDPA
HIDDEN = -10_000.0  # what diffusers adds to the logits of keys that are padding


def is_of_diffusers(attn: Any) -> bool:
    """Whether a module is attention that a processor of diffusers runs."""
    return all(hasattr(attn, name) for name in ('processor', 'set_processor', 'to_q'))


def kind(attn: Any) -> tuple[str, str]:
    """The classes of attention and processor."""
    classes = type(attn), type(attn.processor)
    attention, processor = (f'{cls.__module__}.{cls.__qualname__}' for cls in classes)
    return attention, processor


@ATTENTION_TAPS.register_where(lambda attn: is_of_diffusers(attn) and kind(attn) in PLAIN)
class DiffusersAttention(AttentionFamily):
    """``Attention`` with ``AttnProcessor2_0``: DiT, PixArt, Latte and others, also in UNets."""

    outputs: tuple[str, ...] = ('to_q', 'to_k', 'to_v', 'norm_q', 'norm_k')
    kinds = PLAIN

    def num_heads(self, attn):
        return attn.heads

    def projection(self, attn):
        return None if attn.to_out is None else attn.to_out[0]

    def is_cross(self, attn):
        return bool(getattr(attn, 'is_cross_attention', False))

    def refusal(self, attn):
        if self.is_cross(attn):
            return None  # never read
        if getattr(attn, 'added_kv_proj_dim', None) is not None:
            return (
                'joint attention of text and image, whose queries leave through two output '
                'projections, by one of which heads are merged'
            )
        if getattr(attn, 'to_out', None) is None:
            return 'it has no output projection of its own (to_out)'
        if getattr(attn, 'rescale_output_factor', 1) != 1:
            return f'rescale_output_factor={attn.rescale_output_factor} stands behind to_out'
        if getattr(attn, 'inner_kv_dim', attn.to_q.out_features) != attn.to_q.out_features:
            return 'it has fewer key heads than query heads'
        return None

    def read(self, attn, outputs, call):
        self.check(attn, call)
        projected = {n: heads_first(outputs[n], attn.heads) for n in ('to_q', 'to_k', 'to_v')}
        q = outputs.get('norm_q', projected['to_q'])
        k = outputs.get('norm_k', projected['to_k'])
        mask, keys = call.get('attention_mask'), q.shape[2]
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, keys, len(q))
            mask = mask.view(len(q), attn.heads, -1, mask.shape[-1])
        bias, seen = as_padding(mask, keys)
        scale = q.shape[-1] ** -0.5  # the processor leaves it to SDPA
        return AttentionTap(q, k, projected['to_v'], NO_WEIGHT, scale, bias, mask=seen)

    def check(self, attn: Any, call: dict[str, Any]) -> None:
        """Refuse a call that is not self-attention, or is run by another processor by now."""
        if kind(attn) not in self.kinds:
            self.refuse(attn, f'its processor is {type(attn.processor).__name__} by now')
        given = call.get('encoder_hidden_states')
        if given is not None and given is not call.get('hidden_states'):
            self.refuse(attn, 'it was given encoder_hidden_states: cross-attention')


@ATTENTION_TAPS.register_where(lambda attn: is_of_diffusers(attn) and kind(attn) in DISPATCHED)
class DispatchedAttention(DiffusersAttention):
    """Attention that calls ``dispatch_attention_fn``; recorded is what its backend gets.

    Of Z-Image, maps are of text and image in one sequence.
    """

    outputs = ()
    kinds = DISPATCHED

    def attach(self, attn, keep):
        after = attn.register_forward_hook(_leave, always_call=True)
        return [attn.register_forward_pre_hook(_Enter(keep)), after, *super().attach(attn, keep)]

    def recording(self, attn):
        backend = _backend(attn)
        if backend != BACKEND:
            self.refuse(
                attn,
                f'attention backend {backend!r} is not {BACKEND!r}: what it computes is not '
                f"known. Call set_attention_backend('{BACKEND}')",
            )
        return _listening()

    def read(self, attn, outputs, call):
        self.check(attn, call)
        if 'backend' not in outputs:
            self.refuse(attn, f'it did not call the attention backend {BACKEND!r}')
        given = outputs['backend']
        q, k, v = (given[name].transpose(1, 2) for name in ('query', 'key', 'value'))
        if k.shape[1:3] != q.shape[1:3]:
            shapes = [tuple(x.shape[1:3]) for x in (q, k)]
            self.refuse(
                attn, f'(heads, tokens) of queries {shapes[0]} are not those of keys {shapes[1]}'
            )
        bias, seen = as_padding(given.get('attn_mask'), k.shape[2])
        seen = seen._replace(is_causal=given.get('is_causal', False))
        scale = given.get('scale')
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return AttentionTap(q, k, v, NO_WEIGHT, scale, bias, mask=seen)


@ATTENTION_TAPS.register_where(is_of_diffusers)
class UnknownProcessor(DiffusersAttention):
    """Any other: refused with the reason."""

    def refusal(self, attn):
        name = type(attn.processor).__name__
        if 'Linear' in name:
            return f'{name} is linear attention, which has no maps'
        return super().refusal(attn) or (
            f'its processor {name} is unknown: what it computes from its projections was not '
            'held against what a tap would say'
        )


def as_padding(mask: Tensor | None, keys: int) -> tuple[Tensor | None, Mask]:
    """A mask of diffusers as a tap has it: what hides whole keys is padding, also as queries.

    Args:
        mask: Bool (True is seen) or additive, broadcastable to (B, H, N, N), or (B, N) of keys.
        keys: Their number N.
    """
    if mask is None:
        return None, ALL_KEYS
    if mask.dim() == 2:
        mask = mask[:, None, None]
    if mask.dim() != 4 or mask.shape[-2:] != (1, keys):
        return mask, ALL_KEYS
    if mask.dtype == torch.bool:
        return None, Mask(padding=mask[:, 0, 0])
    return mask, Mask(padding=mask[:, 0, 0] > HIDDEN)


# Attention that is running, the innermost last, with each of its recorders.
_inside: list[tuple[Any, Callable[[str, Any], None]]] = []


class _Enter:
    """Forward pre-hook: from here, backend calls are this module's."""

    def __init__(self, keep: Callable[[str, Any], None]) -> None:
        self.keep = keep

    def __call__(self, module, args):
        _inside.append((module, self.keep))


def _leave(module, args, output):
    _inside.pop()


def _backend(attn: Any) -> str:
    """The name of the backend that a module's processor uses."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    own = attn.processor._attention_backend
    return AttentionBackendName(own or _AttentionBackendRegistry.get_active_backend()[0]).value


@contextmanager
def _listening() -> Iterator[None]:
    """The backend hands what it gets to the recorder of the module that calls it.

    Its registry is keyed by a closed enum, so no other can be added; for as long as a bank records,
    the entry is exchanged.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    backends, name = _AttentionBackendRegistry._backends, AttentionBackendName(BACKEND)
    original = backends[name]
    if isinstance(original, _Listener):
        yield  # for another layer already
        return
    backends[name] = _Listener(original)
    try:
        yield
    finally:
        backends[name] = original


class _Listener:
    """A backend that tells what it is called with. Calls have keywords alone."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original

    def __call__(self, **kwargs):
        for module, keep in _inside:
            if module is _inside[-1][0]:
                keep('backend', kwargs)
        return self.original(**kwargs)
