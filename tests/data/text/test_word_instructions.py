"""Instructions about words: each word in one set, each instruction seen or unseen."""

import json

import pytest

from shd_vit.data.text.instructions import load_rows
from shd_vit.data.text.word_instructions import SETS, TASKS, make_rows, plain, write_rows
from shd_vit.data.text.wordnet import Sense
from shd_vit.errors import ConfigError, DatasetError

SIZES = dict(train=30, validation=5, test=8)


def words(count=60):
    found = {}
    for n in range(count):
        word = f'word{"abcdefghij"[n // 10]}{"abcdefghij"[n % 10]}'
        first = Sense(
            'noun', (word, f'other {word}'), f'meaning {n}', (f'A {word} is here',), ('kin',), 'act'
        )
        rest = Sense('noun', (word,), f'second {n}', ('no such sentence here',))
        found[word] = [first, rest, Sense('verb', (word,), f'to do {n}', ())]
    return found


def test_sets_have_no_word_in_common_but_test_and_unseen():
    rows = make_rows(words(), SIZES, seed=0)
    assert tuple(rows) == SETS
    assert {name: len(own) for name, own in rows.items()} == {**SIZES, 'unseen': 8}
    sets = {name: {row['word'] for row in own} for name, own in rows.items()}
    assert sets['test'] == sets['unseen']
    for one, other in (('train', 'validation'), ('train', 'test'), ('validation', 'test')):
        assert not sets[one] & sets[other]
    assert {row['task'] for row in rows['train']} == set(TASKS)


def test_instructions_of_the_unseen_set_are_in_no_other():
    def fits(row, instructions):
        kinds = dict(kind='noun', word=row['word'])
        return any(f'{text.format(**kinds)}\n' in row['prompt'] for text in instructions)

    for name, own in make_rows(words(), SIZES, seed=1).items():
        for row in own:
            task = TASKS[row['task']]
            assert fits(row, task.unseen) == (name == 'unseen')
            assert fits(row, task.seen) == (name != 'unseen')


def test_answers_are_of_the_kind_of_word_that_is_asked():
    wanted = dict(
        define=lambda word, n: [f'meaning {n}', f'second {n}'],
        use=lambda word, n: f'A {word} is here',
        kind=lambda word, n: 'kin',
        topic=lambda word, n: 'act',
        word=lambda word, n: [word, f'other {word}'],
    )
    known = words()
    for row in make_rows(known, SIZES, seed=2)['train']:
        number = list(known).index(row['word'])
        assert row['output'] == wanted[row['task']](row['word'], number)
        has_input = '### Input:\n' in row['prompt']
        assert has_input == (row['task'] == 'word') == (row['word'] not in row['prompt'])
        if has_input:
            assert f'### Input:\nmeaning {number}\n' in row['prompt']


def test_tasks_that_are_asked():
    for own in make_rows(words(), SIZES, seed=0, tasks=('use', 'topic')).values():
        assert {row['task'] for row in own} == {'use', 'topic'}
    with pytest.raises(ConfigError, match="--tasks 'sort' must be one of define, use, kind, topic"):
        make_rows(words(), SIZES, seed=0, tasks=['sort'])


def test_a_seed_gives_the_same_rows_and_another_gives_others():
    first, again, other = (make_rows(words(), SIZES, seed) for seed in (3, 3, 4))
    assert first == again != other


def test_files_are_what_the_evaluation_reads(tmp_path):
    rows = make_rows(words(), SIZES, seed=0)
    write_rows(rows, tmp_path / 'new')
    for name, own in rows.items():
        read = load_rows(tmp_path / 'new' / f'{name}.jsonl')
        assert [row['prompt'] for row in read] == [row['prompt'] for row in own]
        outputs = [row['output'] for row in own]
        assert [row['references'] for row in read] == [
            [x] if isinstance(x, str) else x for x in outputs
        ]
    assert json.loads((tmp_path / 'new/train.jsonl').read_text().split('\n')[0]) == rows['train'][0]
    with pytest.raises(ConfigError, match=r"new/train.jsonl' exists"):
        write_rows(rows, tmp_path / 'new')


def test_bad_sizes():
    with pytest.raises(DatasetError, match='there are words for 60 rows alone, not for 90'):
        make_rows(words(), dict(train=70, validation=10, test=10), seed=0)
    with pytest.raises(ConfigError, match='--train=0 must be a whole number, above 0'):
        make_rows(words(), dict(train=0), seed=0)


def test_plain_prompts_are_the_same_without_the_template():
    whole, bare = (make_rows(words(), SIZES, 5, **kw)['train'] for kw in ({}, dict(prompt=plain)))
    for row, other in zip(whole, bare, strict=True):
        *lines, end = other['prompt'].split('\n')
        assert end == '' and 1 <= len(lines) <= 2
        assert all(f'{line}\n' in row['prompt'] for line in lines)
        assert {**row, 'prompt': ''} == {**other, 'prompt': ''}


def test_long_texts_are_left_out():
    """A meaning of 25 words, and an example of 25: neither is in a prompt or an answer."""
    long = ' '.join(f'x{n}' for n in range(25))
    known = {
        word: [
            Sense('noun', (word,), long, ()),
            Sense('noun', (word,), 'short', (f'{word} {long}',)),
        ]
        for word in words()
    }
    for own in make_rows(known, SIZES, seed=0).values():
        assert not any(' x5 ' in row['prompt'] or ' x5 ' in str(row['output']) for row in own)
