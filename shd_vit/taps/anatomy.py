"""Where a vision transformer keeps its attention layers, stages, blocks and prefix tokens."""

from __future__ import annotations

import re
from functools import cached_property
from typing import NamedTuple

from torch import nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tokens import declared_prefix, learned_prefix

_ATTENTION_LIKE = re.compile(r'attention|attn|msa$', re.IGNORECASE)


class Layer(NamedTuple):
    """One attention layer: its dotted name in the model, the module, and how it is read."""

    name: str
    attn: nn.Module
    family: AttentionFamily

    @property
    def num_heads(self) -> int:
        return self.family.num_heads(self.attn)


class Anatomy:
    """What a loss may ask of a model before it is run. Layers are numbered from 1.

    Everything is found when it is first asked for, so that a model without attention can be the
    teacher of a loss on logits.

    Args:
        model: Any module.
        role: How errors name the model, such as 'student'.
    """

    def __init__(self, model: nn.Module, role: str = 'model') -> None:
        self.model = model
        self.role = role

    @cached_property
    def layers(self) -> list[Layer]:
        """All attention layers, in the order in which the model registers them.

        Raises:
            UnsupportedAttention: If there are none, or one whose class no family reads.
        """
        layers: list[Layer] = []
        inside: str | tuple[()] = ()
        for name, module in self.model.named_modules():
            if name.startswith(inside):
                continue
            family = ATTENTION_TAPS.find(name, module)
            if family is not None:
                layers.append(Layer(name, module, family))
                inside = f'{name}.'
            elif _ATTENTION_LIKE.search(type(module).__name__) and not self._knows_inside(module):
                cls = f'{type(module).__module__}.{type(module).__qualname__}'
                raise UnsupportedAttention(
                    f'{cls} at {name!r} of the {self.role}: no attention family reads this class; '
                    'add one with @ATTENTION_TAPS.register(...)'
                )
        if not layers:
            raise UnsupportedAttention(
                f'{type(self.model).__name__}: the {self.role} has no attention layer'
            )
        return layers

    @staticmethod
    def _knows_inside(module: nn.Module) -> bool:
        """Whether a module only wraps attention that is known, or holds nothing to tap."""
        inside = list(module.modules())[1:]
        return not inside or any(ATTENTION_TAPS.find('', m) for m in inside)

    @property
    def depth(self) -> int:
        """Number of attention layers."""
        return len(self.layers)

    @cached_property
    def stages(self) -> list[list[int]]:
        """Numbers of the layers in each list of blocks: one list, or a hierarchical model's."""
        stages: dict[str, list[int]] = {}
        for number, layer in enumerate(self.layers, start=1):
            stages.setdefault(_list_name(layer.name), []).append(number)
        return list(stages.values())

    @property
    def heads(self) -> list[int]:
        """Heads of each layer."""
        return [layer.num_heads for layer in self.layers]

    @property
    def dim(self) -> int:
        """Width E of the last layer's output."""
        return self.layers[-1].family.out_proj(self.layers[-1].attn).shape[0]

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The transformer block around each attention layer."""
        return [self.model.get_submodule(_block_name(layer.name)) for layer in self.layers]

    @cached_property
    def trunk(self) -> nn.Module:
        """The module that puts prefix tokens before the patches.

        The innermost around the list of blocks that is known to; else the one that owns the list.

        Raises:
            UnsupportedAttention: If the blocks are not in one list (a hierarchical model).
        """
        knowing = (m for m in self._around if declared_prefix(m) is not None or learned_prefix(m))
        return next(knowing, self._around[0])

    @cached_property
    def _around(self) -> list[nn.Module]:
        """The module that owns the list of blocks, the one around it, and so on to the model."""
        if len(self.stages) != 1:
            raise UnsupportedAttention(
                f'tokens of the {self.role} {type(self.model).__name__} cannot be read: its '
                f'attention layers stand in {len(self.stages)} lists, expected 1'
            )
        parents = _list_name(self.layers[0].name).split('.')[:-1]
        names = ['.'.join(parents[:depth]) for depth in range(len(parents), -1, -1)]
        return [self.model.get_submodule(name) for name in names]

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        """Names of the tokens before the patches, in order: 'cls', 'dist', 'reg1', 'reg2', ...

        Raises:
            UnsupportedAttention: If it is not known what is before the patches.
        """
        names, count = learned_prefix(self.trunk), declared_prefix(self.trunk)
        trunk = f'{type(self.trunk).__name__} of the {self.role}'
        if count is None and not names:
            raise UnsupportedAttention(
                f'{trunk} has neither num_prefix_tokens nor a class token of a known name: how '
                'many of its tokens are not patches is unknown. Set its num_prefix_tokens'
            )
        if count not in (None, len(names)):
            raise UnsupportedAttention(
                f'{trunk} puts {count} tokens before its patches, but has learned '
                f'{", ".join(names) or "none of a known name"}: their names are unknown'
            )
        return names

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches (class, distillation, registers)."""
        count = declared_prefix(self.trunk)
        return len(self.prefix_tokens) if count is None else count

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block, or the last block where there is none."""
        for module in self._around[: self._around.index(self.trunk) + 1]:
            for name in ('norm', 'ln1', 'layernorm', 'ln'):  # timm, mmpretrain, HF, torchvision
                if hasattr(module, name):
                    return getattr(module, name)
        return self.blocks[-1]


def _block_name(attn_name: str) -> str:
    """The list entry around an attention layer: 'layers.0' of 'layers.0.attn.inner'."""
    parents = attn_name.split('.')[:-1]
    entries = [i for i, part in enumerate(parents) if part.isdigit()]
    return '.'.join(parents[: entries[-1] + 1] if entries else parents)


def _list_name(attn_name: str) -> str:
    """The list that the entry stands in: 'layers' of 'layers.0.attn.inner'."""
    return _block_name(attn_name).rpartition('.')[0]
