"""Sequences of one length out of text: of files, or of what tools/data/prepare_text.py writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shd_vit.data.text.tokens import TokenFile
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.lab.language.models import load_tokenizer


def sequences(tokenizer: Any, sources: Sequence[str], length: int, count: int) -> Tensor:
    """(count, length) token ids, spread evenly over the text; none crosses a document.

    Args:
        tokenizer: Whose tokens are wanted.
        sources: UTF-8 text files, a document each; or folders of tools/data/prepare_text.py, whose
            validation text is read, and taken apart anew.
        length: Tokens of a sequence.
        count: How many.

    Raises:
        DatasetError: If a source cannot be read.
        ConfigError: If there is less text.
    """
    cut = [
        ids[start : start + length]
        for source in sources
        for text in _documents(source)
        for ids in (tokenizer(text, add_special_tokens=False, verbose=False)['input_ids'],)
        for start in range(0, len(ids) - length + 1, length)
    ]
    if len(cut) < count:
        raise ConfigError(
            f'{count} sequences of {length} tokens are wanted, the text has {len(cut)} that lie '
            'within a document: give more text, or ask for less'
        )
    chosen = np.linspace(0, len(cut) - 1, count).round().astype(int)
    return torch.tensor([cut[i] for i in chosen])


def _documents(source: str) -> Iterator[str]:
    path = Path(source)
    if path.is_dir():
        yield from _documents_of_tokens(path)
        return
    try:
        yield path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{source!r} cannot be read as text: {error}') from None


def _documents_of_tokens(folder: Path) -> Iterator[str]:
    text = TokenFile(folder, 'validation')
    tokenizer = load_tokenizer(str(text.tokenizer))
    ends = np.flatnonzero(text.tokens == tokenizer.eos_token_id)
    for ids in np.split(np.asarray(text.tokens), ends + 1):
        yield tokenizer.decode(ids, skip_special_tokens=True)
