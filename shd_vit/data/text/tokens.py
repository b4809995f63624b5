"""Tokens of a text, read from memory-mapped files.

A folder holds tokenizer/, train.bin and validation.bin (token ids, uint16, little-endian: documents
one after the other, each ended by </s>), and text.json, which says what they are made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shd_vit.errors import ConfigError, DatasetError, check_number

SPLITS = ('train', 'validation')
TOKEN = np.dtype('<u2')


class TokenFile:
    """A split of a text.

    Args:
        folder: As tools/data/prepare_text.py writes it.
        split: 'train' or 'validation'.

    Attributes:
        tokens: All ids, uint16, a read-only memory map.
        parts: By name of a part (genre), the ids in it, views of ``tokens``.
        vocabulary: How many tokens the tokenizer has.
        about: All that text.json says.

    Raises:
        ConfigError: If there is no such split.
        DatasetError: If a file is missing, or they do not belong together.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        if split not in SPLITS:
            raise ConfigError(f'split={split!r} must be one of {", ".join(SPLITS)}')
        self.folder, self.split = Path(folder), split
        self.about = _read_about(self.folder)
        self.vocabulary: int = self.about['vocabulary']
        count, spans = _spans(self.about, split, self.folder)
        path = self.folder / f'{split}.bin'
        if not path.is_file() or path.stat().st_size != count * TOKEN.itemsize:
            size = path.stat().st_size if path.is_file() else 'no'
            raise DatasetError(
                f'{path}: {size} bytes, but text.json says {count} tokens of {TOKEN.itemsize}: '
                'prepare the text anew'
            )
        self.tokens = np.memmap(path, TOKEN, 'r')
        self.parts = {name: self.tokens[start:end] for name, (start, end) in spans.items()}

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder, for ``AutoTokenizer.from_pretrained``."""
        return self.folder / 'tokenizer'


class Chunks(Dataset):
    """Sequences of one length, cut one after the other, without a gap.

    An item is ``dict(input_ids, labels)``, both (length,) and the same: causal models of
    transformers shift labels themselves. No token is padding.

    Args:
        tokens: Ids, 1-D.
        length: Tokens a sequence.
        random_offset: Cut each epoch somewhere else: the first sequence starts at one of the first
            ``length`` tokens. The number of sequences is the same for all offsets.
        seed: Of the offsets.

    Raises:
        ConfigError: If there are too few tokens for one sequence.
    """

    def __init__(
        self, tokens: np.ndarray, length: int, random_offset: bool = False, seed: int = 0
    ) -> None:
        self.tokens = tokens
        self.length = check_number('length', length, positive=True, whole=True)
        self.random_offset = random_offset
        self.seed = check_number('seed', seed, whole=True)
        spare = self.length - 1 if random_offset else 0
        self._count = (len(tokens) - spare) // self.length
        if self._count < 1:
            raise ConfigError(
                f'length={length}: a text of {len(tokens)} tokens has no sequence of that length'
                f'{" at every offset" if random_offset else ""}'
            )
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Move the offset to that of an epoch, which is the same in every process and run."""
        draw = np.random.default_rng([self.seed, int(epoch)])
        self.offset = int(draw.integers(self.length)) if self.random_offset else 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        if not 0 <= number < self._count:
            raise IndexError(f'sequence {number} of {self._count}')
        start = self.offset + number * self.length
        ids = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
        return dict(input_ids=ids, labels=ids.clone())


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / 'text.json'
    try:
        about = json.loads(path.read_text(encoding='utf-8'))
        size = about['vocabulary']
        is_right = type(size) is int and 0 < size <= 2**16 and isinstance(about['splits'], Mapping)
    except (OSError, ValueError, KeyError, TypeError):
        is_right = False
    if not is_right:
        raise DatasetError(
            f'{str(folder)!r} has no readable text.json: make a text with '
            'tools/data/prepare_text.py'
        )
    return about


def _spans(about: dict[str, Any], split: str, folder: Path) -> tuple[int, dict[str, list[int]]]:
    """Tokens of a split, and where its parts start and end."""
    try:
        count = about['splits'][split]['tokens']
        spans = about['splits'][split]['parts']
        edges = [0, *(edge for start, end in spans.values() for edge in (start, end)), count]
        follow = all(a == b for a, b in zip(edges[::2], edges[1::2], strict=True))
        is_right = follow and edges == sorted(edges) and count > 0
    except (KeyError, TypeError, ValueError, AttributeError):
        is_right = False
    if not is_right:
        raise DatasetError(
            f'{folder / "text.json"}: parts of {split} must follow one another: prepare the text '
            'anew'
        )
    return count, spans
