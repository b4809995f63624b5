"""Where a transformer keeps its attention layers, stages, blocks and tokens."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from torch import nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps.family import AttentionFamily
from shd_vit.taps.norms import FINAL_NORMS, final_norm_of, unknown_norm
from shd_vit.taps.search import Found, find_attention
from shd_vit.taps.tokens import Segment, find_segments


class Layer(NamedTuple):
    """One attention layer: its dotted name in the model, the module, and how it is read."""

    name: str
    attn: nn.Module
    family: AttentionFamily

    @property
    def num_heads(self) -> int:
        return self.family.num_heads(self.attn)

    @property
    def block_name(self) -> str:
        """Name of the list entry around it: 'layers.0' of 'layers.0.attn.inner'."""
        place = Found(self.name, self.attn, self.family).place
        entries = [i for i, part in enumerate(place) if part.isdigit()]
        return '.'.join(place[: entries[-1] + 1] if entries else place)

    @property
    def list_name(self) -> str:
        """Name of the list that the entry stands in: 'layers' of 'layers.0.attn.inner'."""
        return self.block_name.rpartition('.')[0]


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
        """All attention layers in lists of blocks, in the order in which the model registers them.

        Of a model without such a list, all that it has.

        Raises:
            UnsupportedAttention: If there are none, or one that no family reads.
        """
        layers = []
        for name, module, family, refusal in self._attention[0]:
            if family is None:
                raise UnsupportedAttention(refusal)
            layers.append(Layer(name, module, family))
        if not layers:
            raise UnsupportedAttention(
                f'{type(self.model).__name__}: the {self.role} has no attention layer'
            )
        return layers

    @property
    def left_out(self) -> list[str]:
        """Attention that is not among the layers, as 'class at name': an attention pool, say."""
        outside = self._attention[1]
        return [f'{type(found.module).__name__} at {found.name!r}' for found in outside]

    @cached_property
    def _attention(self) -> tuple[list[Found], list[Found]]:
        """In lists of blocks, and outside."""
        return find_attention(self.model, self.role)

    @property
    def depth(self) -> int:
        """Number of attention layers."""
        return len(self.layers)

    @cached_property
    def stages(self) -> list[list[int]]:
        """Numbers of the layers in each list of blocks: one list, or a hierarchical model's."""
        stages: dict[str, list[int]] = {}
        for number, layer in enumerate(self.layers, start=1):
            stages.setdefault(layer.list_name, []).append(number)
        return list(stages.values())

    @property
    def heads(self) -> list[int]:
        """Heads of each layer."""
        return [layer.num_heads for layer in self.layers]

    @property
    def dim(self) -> int:
        """Width E of the last layer's output."""
        return self.layers[-1].family.dim(self.layers[-1].attn)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The transformer block around each attention layer."""
        return [self.model.get_submodule(layer.block_name) for layer in self.layers]

    @cached_property
    def around(self) -> list[nn.Module]:
        """The module that owns the list of blocks, the one around it, and so on to the model.

        Raises:
            UnsupportedAttention: If the blocks are not in one list (a hierarchical model).
        """
        if len(self.stages) != 1:
            raise UnsupportedAttention(
                f'tokens of the {self.role} {type(self.model).__name__} cannot be read: its '
                f'attention layers stand in {len(self.stages)} lists, expected 1'
            )
        return self._ancestors(self.layers[0])

    @property
    def callers(self) -> list[nn.Module]:
        """Every module around a list of blocks, which may be what a host calls."""
        found = {id(m): m for layer in self.layers for m in self._ancestors(layer)}
        return list(found.values())

    def _ancestors(self, layer: Layer) -> list[nn.Module]:
        parents = layer.list_name.split('.')[:-1]
        names = ['.'.join(parents[:depth]) for depth in range(len(parents), -1, -1)]
        return [self.model.get_submodule(name) for name in names]

    @cached_property
    def trunk(self) -> nn.Module:
        """The module that knows the tokens: the innermost around the list of blocks that does.

        If none does, the one that owns the list.
        """
        knowing = (module for module in self.around if find_segments(module) is not None)
        return next(knowing, self.around[0])

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The tokens by name, in order; () if they are all of one kind, as a language model's.

        Raises:
            UnsupportedAttention: If it is not known what they are.
        """
        segments = find_segments(self.trunk)
        if segments is None:
            raise UnsupportedAttention(
                f'{self._trunk_name} has neither num_prefix_tokens nor a class token of a known '
                'name: how many of its tokens are not patches is unknown. Set its '
                'num_prefix_tokens, or token_segments'
            )
        return segments

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        """Names of the tokens before the patches, in order: 'cls', 'dist', 'reg1', 'reg2', ...

        Raises:
            UnsupportedAttention: If it is not known what is before the patches, or there are none.
        """
        if not self.segments:
            raise UnsupportedAttention(f'{self._trunk_name} has no patches, and nothing before')
        names = [name for name, _ in self.segments[:-1]]
        if None in names:
            raise UnsupportedAttention(
                f'{self._trunk_name} puts {self.num_prefix_tokens} tokens before its patches, but '
                'they are not what it has learned under known names: their names are unknown'
            )
        return tuple(name for name in names if name is not None)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches (class, distillation, registers); 0 if there are no patches."""
        lengths = [length for _, length in self.segments[:-1]]
        if None in lengths:
            raise UnsupportedAttention(
                f'{self._trunk_name} has segments {self.segments}: how many tokens are before the '
                'last of them depends on the input'
            )
        return sum(length for length in lengths if length is not None)

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block; the last block of a model that has none.

        Raises:
            UnsupportedAttention: If there is one whose place is not known.
        """
        for module in self.around[: self.around.index(self.trunk) + 1]:
            is_found, norm = final_norm_of(module)
            if is_found:
                return self.blocks[-1] if norm is None else norm
            unknown = unknown_norm(module, self.blocks[0])
            if unknown is not None:
                raise UnsupportedAttention(
                    f"'final' tokens of the {self.role} are not known: {type(module).__name__} has "
                    f'{unknown!r}, but the norm after the last block was looked for as '
                    f'{", ".join(FINAL_NORMS)}; add it to shd_vit.taps.norms.FINAL_NORMS if it is '
                    'that norm'
                )
        return self.blocks[-1]

    @property
    def _trunk_name(self) -> str:
        return f'{type(self.trunk).__name__} of the {self.role}'
