"""From files to tokens."""

import json
import re
import sys

import numpy as np
import pytest
from tooling import ROOT, load_tool, run_tool
from transformers import AutoTokenizer

from shd_vit.data.text import Chunks, TokenFile
from shd_vit.data.text.prepare import clean, split, write_text
from shd_vit.data.text.sources import Part, from_folder
from shd_vit.errors import ConfigError, DatasetError

PAGE = ROOT / 'docs/pretraining.md'
LINE = 'the whale and a ship sail over sea where captain waits for it again'
WORDS = LINE.split()


def sentences(seed, count):
    draw = np.random.default_rng(seed)
    return [' '.join(draw.choice(WORDS, 9)) + f' {seed} {i}.' for i in range(count)]


def part(*documents, **kwargs):
    return Part('a source', 'a licence', 'abc', list(documents), **kwargs)


def made(folder, parts, vocabulary=290, share=0.2, seed=0):
    return write_text(iter(parts.items()), folder, vocabulary, share, seed, lambda _: None)


def test_documents_are_found_again_in_the_tokens(tmp_path):
    texts = dict(novels=sentences(1, 20), speeches=sentences(2, 30))
    about = made(tmp_path / 'out', {name: part(*own) for name, own in texts.items()})
    assert about == json.loads((tmp_path / 'out/text.json').read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'out/tokenizer')
    assert tokenizer.convert_tokens_to_ids(['<pad>', '<s>', '</s>']) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == about['vocabulary'] == 290
    found = {}
    for name in ('train', 'validation'):
        tokens = TokenFile(tmp_path / 'out', name)
        assert tokens.tokens.max() < 290
        for genre, ids in tokens.parts.items():
            assert ids[-1] == 2
            ends = np.flatnonzero(ids == 2) + 1
            documents = np.split(ids, ends)[:-1]
            found[name, genre] = [tokenizer.decode(x[:-1]).strip() for x in documents]
    for genre, own in texts.items():
        both = found['train', genre], found['validation', genre]
        assert sorted(both[0] + both[1]) == sorted(own), 'each in one split'
        words = [sum(len(text.split()) for text in texts) for texts in both]
        assert words[1] / sum(words) == pytest.approx(0.2, abs=0.05)
        assert about['parts'][genre] == dict(
            source='a source', licence='a licence', sha256='abc', words=sum(words)
        )
    again = made(tmp_path / 'again', {name: part(*own) for name, own in texts.items()})
    assert again == about
    assert (tmp_path / 'again/train.bin').read_bytes() == (tmp_path / 'out/train.bin').read_bytes()
    Chunks(TokenFile(tmp_path / 'out', 'train').tokens, 16)[3]


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    made(tmp_path / 'data/text', dict(novels=part(*sentences(1, 60))))
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    assert names['chunks'][0]['input_ids'].shape == (128,)


def test_a_tokenizer_knows_every_byte_and_folds_what_unicode_calls_compatible(tmp_path):
    made(tmp_path / 'out', dict(a=part(*sentences(1, 20))))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'out/tokenizer')
    text = ' ΔΣ 中文 \x07 🐋'
    assert tokenizer.decode(tokenizer(text)['input_ids']) == text
    assert tokenizer('ﬁsh x²')['input_ids'] == tokenizer('fish x2')['input_ids']
    assert tokenizer('whale')['input_ids'] == tokenizer(' whale')['input_ids']


def test_a_document_that_comes_twice_counts_once():
    own = split('a', part('one two', ' one  two\n', 'three four', 'five six', '\n'), 0.2, 0)
    assert sorted(own['train'] + own['validation']) == ['five six', 'one two', 'three four']
    stated = part(train=['a', 'b', 'a'], validation=['b', 'c'])
    assert split('a', stated, 0.5, 0) == dict(train=['a', 'b'], validation=['c'])


def test_a_seed_chooses_other_documents():
    documents = [f'document {i}' for i in range(50)]
    drawn = [split('a', part(*documents), 0.1, seed)['validation'] for seed in (0, 0, 1)]
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1] != drawn[2]
    assert split('b', part(*documents), 0.1, 0)['validation'] != drawn[0]


def test_lines_are_cleaned():
    assert clean(' a \u00a0 b\x00\x1f\tc \r\n\n \n d') == 'a b c\nd'


def test_folders_of_babylm_and_of_plain_files(tmp_path):
    for name, text in {
        '10M/bnc.train': 'said the one', '10M/wiki.train': 'w', 'dev/bnc.dev': 'said another',
        'dev/wiki.dev': 'v', 'test/bnc.test': 'unseen',
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    parts = dict(from_folder(tmp_path))
    assert list(parts) == ['bnc', 'wiki']
    assert parts['bnc'].train == ['said the one'] and parts['bnc'].validation == ['said another']
    own = tmp_path / 'own'
    for name in ('letters/a.txt', 'letters/b.txt', 'c.txt'):
        (own / name).parent.mkdir(exist_ok=True, parents=True)
        (own / name).write_text(name)
    parts = dict(from_folder(own))
    assert {name: part.documents for name, part in parts.items()} == {
        'own': ['c.txt'], 'letters': ['letters/a.txt', 'letters/b.txt']
    }  # fmt: skip


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match=r'--folder .* neither files NAME.train and NAME.dev'):
        dict(from_folder(tmp_path))
    (tmp_path / 'a.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DatasetError, match=r'a.txt cannot be read as UTF-8: '):
        dict(from_folder(tmp_path))


@pytest.mark.parametrize(
    'options, error, reason',
    [
        (dict(vocabulary=258), ConfigError, r'--vocabulary 258 must be at least 259: all bytes'),
        (dict(vocabulary=65537), ConfigError, r'--vocabulary=65537 must be .* at most 65536'),
        (
            dict(vocabulary=5000),
            DatasetError,
            r'--vocabulary 5000: this text has words for \d+ tok',
        ),
        (dict(share=1.0), ConfigError, r'--share 1.0 must be between 0 and 1'),
        (dict(share=0), ConfigError, r'--share 0 must be between'),
        (dict(parts=dict(a=part('one'))), DatasetError, r'a has no documents for validation'),
        (dict(parts=dict(a=part())), DatasetError, r'a has no documents for training'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, options, error, reason):
    options = dict(parts=dict(a=part(*sentences(1, 20)))) | options
    with pytest.raises(error, match=reason) as raised:
        made(tmp_path / 'out', options.pop('parts'), **options)
    assert '\n' not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path):
    with pytest.raises(ConfigError, match=r'--out .* exists: remove it, or choose another'):
        made(tmp_path, dict(a=part(*sentences(1, 20))))


def test_the_tool_prints_words_and_licences(tmp_path, monkeypatch, capsys):
    own = tmp_path / 'mine'
    own.mkdir()
    for i, text in enumerate(sentences(1, 40)):
        (own / f'{i}.txt').write_text(text)
    out = tmp_path / 'out'
    monkeypatch.setenv('COLUMNS', '140')
    run_tool('data/prepare_text', monkeypatch, out, '--folder', own, '--vocabulary', '280')
    printed = capsys.readouterr().out
    assert 'mine' in printed and 'not known' in printed and '440' in printed
    assert TokenFile(out, 'validation').vocabulary == 280
    tool = load_tool('data/prepare_text')
    monkeypatch.setattr(sys, 'argv', ['prepare_text.py', str(out), '--folder', str(own)])
    with pytest.raises(SystemExit, match=r'^ConfigError: --out .* exists'):
        tool.run_tool(tool.main)
