"""From documents to a folder of tokens: cleaned, split, with a tokenizer of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from shd_vit.data.text.sources import Part
from shd_vit.data.text.tokens import SPLITS, TOKEN
from shd_vit.errors import ConfigError, DatasetError, check_number

_CONTROLS = dict.fromkeys(c for c in (*range(32), *range(127, 160)) if chr(c) not in '\n\t')
SPECIAL = ('<pad>', '<s>', '</s>')
Tell = Callable[[str], None]
Texts = dict[str, dict[str, list[str]]]  # by part, by split


def write_text(
    parts: Iterable[tuple[str, Part]],
    out: str | Path,
    vocabulary: int,
    share: float,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    """Write a folder of tokens, whole or not at all.

    Args:
        parts: By name; may be slow to come.
        out: The folder to be.
        vocabulary: Tokens of the tokenizer, the bytes and special ones included.
        share: Of words that are kept for validation, where parts do not say.
        seed: Of that choice.
        tell: Told what is being done.

    Returns:
        What text.json holds.

    Raises:
        ConfigError: If a number cannot work, or the folder exists.
        DatasetError: If a part has too few documents, or words for so large a vocabulary.
    """
    least = len(SPECIAL) + 256
    check_number('--vocabulary', vocabulary, whole=True, at_most=2**16)
    if vocabulary < least:
        raise ConfigError(
            f'--vocabulary {vocabulary} must be at least {least}: all bytes are in it'
        )
    if not 0 < check_number('--share', share) < 1:
        raise ConfigError(f'--share {share} must be between 0 and 1')
    out = Path(out)
    if out.exists():
        raise ConfigError(f'--out {str(out)!r} exists: remove it, or choose another')
    part_folder = out.with_name(f'.{out.name}.part')
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    try:
        about = _fill(part_folder, parts, vocabulary, share, seed, tell)
        os.replace(part_folder, out)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)
    return about


def _fill(
    folder: Path,
    parts: Iterable[tuple[str, Part]],
    vocabulary: int,
    share: float,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    texts: Texts = {}
    named: dict[str, dict[str, Any]] = {}
    for name, part in parts:
        texts[name] = split(name, part, share, seed)
        words = sum(len(text.split()) for own in texts[name].values() for text in own)
        named[name] = dict(
            source=part.source, licence=part.licence, sha256=part.sha256, words=words
        )
        tell(f'{name}: {words:,} words from {part.source}')
    tell(f'Training a tokenizer of {vocabulary:,} tokens')
    tokenizer = train_tokenizer((t for own in texts.values() for t in own['train']), vocabulary)
    if tokenizer.get_vocab_size() != vocabulary:
        raise DatasetError(
            f'--vocabulary {vocabulary}: this text has words for '
            f'{tokenizer.get_vocab_size()} tokens alone'
        )
    _save(tokenizer, folder / 'tokenizer')
    splits = {}
    for name in SPLITS:
        tell(f'Writing {name}.bin')
        splits[name] = _write_tokens(folder / f'{name}.bin', texts, name, tokenizer)
    about = dict(vocabulary=vocabulary, parts=named, splits=splits)
    (folder / 'text.json').write_text(json.dumps(about, indent=1) + '\n')
    return about


def clean(text: str) -> str:
    """Lines without control characters, doubled spaces and blank lines."""
    lines = (' '.join(line.split()) for line in text.translate(_CONTROLS).split('\n'))
    return '\n'.join(line for line in lines if line)


def split(name: str, part: Part, share: float, seed: int) -> dict[str, list[str]]:
    """Cleaned documents by split, none twice; each split in the documents' own order.

    Raises:
        DatasetError: If a split is left without any.
    """
    if part.train is not None:
        train, validation = map(_distinct, (part.train, part.validation or []))
        seen = set(train)
        validation = [text for text in validation if text not in seen]
    else:
        documents = _distinct(part.documents)
        order = list(range(len(documents)))
        random.Random(f'{seed} {name}').shuffle(order)
        wanted = share * sum(len(text.split()) for text in documents)
        chosen: set[int] = set()
        for i in order[:-1]:
            if wanted <= 0:
                break
            chosen.add(i)
            wanted -= len(documents[i].split())
        train = [text for i, text in enumerate(documents) if i not in chosen]
        validation = [documents[i] for i in sorted(chosen)]
    for kind, texts in (('training', train), ('validation', validation)):
        if not texts:
            raise DatasetError(f'{name} has no documents for {kind}: it needs two or more')
    return dict(train=train, validation=validation)


def _distinct(documents: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, map(clean, documents))))


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE as BabyLLaMA's, whose alphabet is all bytes, so that no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    """As ``save_pretrained`` of transformers' fast tokenizers does."""
    folder.mkdir()
    tokenizer.save(str(folder / 'tokenizer.json'))
    tokens = dict(zip(('pad_token', 'bos_token', 'eos_token'), SPECIAL, strict=True))
    config = dict(tokenizer_class='PreTrainedTokenizerFast', **tokens)
    text = json.dumps(config, indent=2) + '\n'
    (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')


def _write_tokens(path: Path, texts: Texts, split: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Write a split's documents one after the other, each ended by </s>."""
    end = tokenizer.token_to_id(SPECIAL[2])
    spans, count = {}, 0
    with open(path, 'wb') as file:
        for name, own in texts.items():
            start = count
            for encoded in tokenizer.encode_batch(own[split]):
                np.array([*encoded.ids, end], TOKEN).tofile(file)
                count += len(encoded.ids) + 1
            spans[name] = [start, count]
    return dict(tokens=count, parts=spans)
