"""What of a model is attention, and which of it stands in a list of blocks."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import NamedTuple

from torch import nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily

_ATTENTION_LIKE = re.compile(r'attention|attn|msa$', re.IGNORECASE)


class Found(NamedTuple):
    """A module that is attention or is called so, and how it is read or why it cannot be."""

    name: str
    module: nn.Module
    family: AttentionFamily | None
    refusal: str = ''

    @property
    def place(self) -> list[str]:
        """The modules around it, by name; a block that is its own attention is around that."""
        names = self.name.split('.')
        return names if self.family is not None and self.family.is_block else names[:-1]


def find_attention(model: nn.Module, role: str) -> tuple[list[Found], list[Found]]:
    """All that is attention, or is called so and does not only wrap what is.

    Args:
        model: Any module.
        role: How refusals name it.

    Returns:
        What stands in lists of blocks, and what is left out: what stands outside (an attention
        pool, say) and cross-attention. Of a model that has no attention in such a list that a
        family reads, all but cross-attention is of the first kind.
    """
    found: list[Found] = []
    inside: str | tuple[()] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        each = _look_at(name, module, role)
        if each is not None:
            found.append(each)
            inside = f'{name}.'

    parents = [each.place for each in found]
    # What all share, such as the '0' of a wrapper that numbers its parts, is no list of blocks.
    levels = zip(*parents, strict=False)
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    is_listed = {
        each.name: any(part.isdigit() for part in names[shared:])
        for each, names in zip(found, parents, strict=True)
    }
    crossing = [each for each in found if _is_cross(each)]
    found = [each for each in found if not _is_cross(each)]
    if not any(each.family is not None and is_listed[each.name] for each in found):
        return found, crossing
    listed = [each for each in found if is_listed[each.name]]
    return listed, [each for each in found if not is_listed[each.name]] + crossing


def _is_cross(found: Found) -> bool:
    return found.family is not None and found.family.is_cross(found.module)


def _look_at(name: str, module: nn.Module, role: str) -> Found | None:
    """What a module is; None if it is no attention."""
    try:
        family = ATTENTION_TAPS.find(name, module)
    except UnsupportedAttention as error:
        return Found(name, module, None, str(error))
    if family is not None:
        return Found(name, module, family)
    if not _ATTENTION_LIKE.search(type(module).__name__) or _knows_inside(name, module, role):
        return None
    cls = f'{type(module).__module__}.{type(module).__qualname__}'
    refusal = (
        f'{cls} at {name!r} of the {role}: no attention family reads this class; '
        'add one with @ATTENTION_TAPS.register(...)'
    )
    return Found(name, module, None, refusal)


def _knows_inside(name: str, module: nn.Module, role: str) -> bool:
    """Whether a module only wraps attention that is known, or holds nothing to tap."""
    inside = [(child, m) for child, m in module.named_modules() if child]
    is_empty = not inside and not list(module.parameters())
    found = (_look_at(f'{name}.{child}', m, role) for child, m in inside)
    return is_empty or any(each is not None for each in found)
