"""Files of tokens, and sequences cut out of them."""

import json

import numpy as np
import pytest
import torch

from shd_vit.data.text import Chunks, TokenFile
from shd_vit.errors import ConfigError, DatasetError

IDS = {'train': [7, 8, 9, 2, 300, 65535, 2], 'validation': [5, 2]}


@pytest.fixture
def folder(tmp_path):
    """A text of two parts, its bytes written out by hand."""
    for split, ids in IDS.items():
        data = b''.join(bytes((n % 256, n // 256)) for n in ids)
        (tmp_path / f'{split}.bin').write_bytes(data)
    write_about(tmp_path)
    return tmp_path


def write_about(folder, **changes):
    parts = {'train': dict(speech=[0, 4], novel=[4, 7]), 'validation': dict(novel=[0, 2])}
    splits = {s: dict(tokens=len(IDS[s]), parts=parts[s]) for s in IDS}
    (folder / 'text.json').write_text(json.dumps(dict(vocabulary=2**16, splits=splits) | changes))


def test_tokens_and_parts_are_those_that_were_written(folder):
    train = TokenFile(folder, 'train')
    assert isinstance(train.tokens, np.memmap) and train.tokens.tolist() == IDS['train']
    assert {name: part.tolist() for name, part in train.parts.items()} == dict(
        speech=[7, 8, 9, 2], novel=[300, 65535, 2]
    )
    assert list(TokenFile(folder, 'validation').parts) == ['novel']
    assert train.vocabulary == 2**16 and train.tokenizer == folder / 'tokenizer'
    with pytest.raises(ValueError, match='read-only'):
        train.tokens[0] = 1


@pytest.mark.parametrize(
    'spans',
    [
        dict(a=[0, 3], b=[4, 7]),  # a gap
        dict(a=[0, 5], b=[4, 7]),  # an overlap
        dict(a=[1, 7]),
        dict(a=[0, 8]),
        dict(a=[0]),
        dict(a='07'),
        [],
    ],
)
def test_parts_that_do_not_follow_one_another_are_refused(folder, spans):
    write_about(folder, splits=dict(train=dict(tokens=7, parts=spans)))
    with pytest.raises(DatasetError, match=r'text.json: parts of train must follow one another'):
        TokenFile(folder, 'train')


def test_files_that_are_missing_or_cut_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"split='test' must be one of train, validation"):
        TokenFile(folder, 'test')
    with open(folder / 'train.bin', 'r+b') as file:
        file.truncate(12)
    with pytest.raises(DatasetError, match=r'train.bin: 12 bytes, but text.json says 7 tokens'):
        TokenFile(folder, 'train')
    (folder / 'train.bin').unlink()
    with pytest.raises(DatasetError, match=r'train.bin: no bytes'):
        TokenFile(folder, 'train')
    for text in ('{', '[]', '{"vocabulary": 65537, "splits": {}}', '{"vocabulary": true}'):
        (folder / 'text.json').write_text(text)
        with pytest.raises(DatasetError, match=r'has no readable text.json: make a text with'):
            TokenFile(folder, 'train')


def test_chunks_follow_one_another():
    ids = np.arange(23, dtype='<u2')
    chunks = Chunks(ids, 5)
    assert len(chunks) == 4
    assert torch.cat([c['input_ids'] for c in chunks]).tolist() == list(range(20))
    first = chunks[0]
    assert first['input_ids'].dtype == first['labels'].dtype == torch.int64
    first['labels'][0] = -100
    assert first['input_ids'][0] == 0, 'labels are a copy'
    with pytest.raises(IndexError):
        chunks[4]


def test_an_epoch_moves_the_offset_for_all_chunks():
    ids = np.arange(1000, dtype='<u2')
    chunks = Chunks(ids, 10, random_offset=True, seed=3)
    assert len(chunks) == 99, 'every offset has as many'
    offsets = []
    for epoch in range(200):
        chunks.set_epoch(epoch)
        offsets.append(chunks[0]['input_ids'][0].item())
        last = chunks[98]['input_ids']
        assert last.tolist() == list(range(980 + offsets[-1], 990 + offsets[-1]))
    assert set(offsets) == set(range(10))
    again = Chunks(ids, 10, random_offset=True, seed=3)
    again.set_epoch(7)
    assert again.offset == offsets[7], 'of the epoch, not of what came before'
    other = Chunks(ids, 10, random_offset=True, seed=4)
    drawn = []
    for epoch in range(200):
        other.set_epoch(epoch)
        drawn.append(other.offset)
    assert drawn != offsets


def test_a_text_that_is_too_short_is_refused():
    ids = np.arange(10, dtype='<u2')
    assert len(Chunks(ids, 10)) == 1
    with pytest.raises(ConfigError, match=r'length=11: a text of 10 tokens has no sequence'):
        Chunks(ids, 11)
    with pytest.raises(ConfigError, match=r'of that length at every offset'):
        Chunks(ids, 10, random_offset=True)
    with pytest.raises(ConfigError, match=r'length=0 must be a whole number, above 0'):
        Chunks(ids, 0)
