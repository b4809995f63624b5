"""Whose attention is laid over an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from shd_vit.errors import ConfigError


class Query(NamedTuple):
    """Whose attention is drawn over the image.

    Attributes:
        kind: 'cls', 'mean' or 'patch'.
        row, column: Of the patch, from 1.
    """

    kind: str
    row: int = 0
    column: int = 0

    @classmethod
    def parse(cls, text: str) -> Query:
        """From 'cls', 'mean' or 'ROW,COL'.

        Raises:
            ConfigError: If it is none of them.
        """
        if text in ('cls', 'mean'):
            return cls(text)
        numbers = text.split(',')
        if len(numbers) == 2 and all(n.isdigit() for n in numbers):
            return cls('patch', *map(int, numbers))
        raise ConfigError(f'--query {text!r}: allowed are cls, mean, ROW,COL (from 1) and none')

    def __str__(self) -> str:
        return {
            'cls': 'the class token',
            'mean': 'the mean patch',
            'patch': f'patch {self.row},{self.column}',
        }[self.kind]

    def check(self, prefix: Sequence[str], tokens: int) -> None:
        """Refuse what maps of ``tokens`` tokens, of which the first are ``prefix``, cannot show.

        Raises:
            ConfigError: If there is no class token, no such patch or no square grid.
        """
        patches = tokens - len(prefix)
        side = math.isqrt(patches)
        if side * side != patches:
            raise ConfigError(
                f'--query {self.kind}: the {patches} patches are no square grid to lay over the '
                'image; use --query none, which draws the matrices alone'
            )
        if self.kind == 'cls' and 'cls' not in prefix:
            raise ConfigError('--query cls: no class token is compared; use mean or ROW,COL')
        if self.kind == 'patch' and not (1 <= self.row <= side and 1 <= self.column <= side):
            raise ConfigError(f'--query {self.row},{self.column}: rows and columns are 1 to {side}')

    def heat(self, maps: Tensor, prefix: Sequence[str]) -> Tensor:
        """What the query gives to each patch: (H, side, side) of maps (H, N, N)."""
        to_patches = maps[..., len(prefix) :]
        side = math.isqrt(to_patches.shape[-1])
        if self.kind == 'cls':
            weights = to_patches[:, prefix.index('cls')]
        elif self.kind == 'mean':
            weights = to_patches[:, len(prefix) :].mean(1)
        else:
            patch = (self.row - 1) * side + self.column - 1
            weights = to_patches[:, len(prefix) + patch]
        return weights.unflatten(-1, (side, side))
