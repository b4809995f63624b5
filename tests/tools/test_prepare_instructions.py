"""tools/data/prepare_instructions.py, on words made up here and a tiny teacher."""

import json

import pytest
from data.text.test_word_instructions import words
from hosts.transformers.lm import llama
from tooling import load_tool, run_tool

pytest.importorskip('trl')

from hosts.transformers.test_trl import tokenizer

from shd_vit.data.text.instructions import load_rows
from shd_vit.errors import CheckpointError, ConfigError, DatasetError

SIZES = ('--train', 12, '--validation', 4, '--test', 4)


@pytest.fixture
def tool(monkeypatch):
    made = load_tool('data/prepare_instructions')
    monkeypatch.setattr(type(made.WORDNET), 'fetch', lambda package, cache: f'{cache}/archive')
    monkeypatch.setattr(made, 'senses_by_word', lambda archive: words())
    return made


def test_files_and_a_table(tool, monkeypatch, tmp_path, capsys):
    run_tool(tool, monkeypatch, '--out', tmp_path, *SIZES)
    assert {path.name: len(load_rows(path)) for path in tmp_path.iterdir()} == {
        'train.jsonl': 12, 'validation.jsonl': 4, 'test.jsonl': 4, 'unseen.jsonl': 4
    }  # fmt: skip
    assert '### Instruction:' in load_rows(tmp_path / 'train.jsonl')[0]['prompt']
    assert 'wordnet-base' in capsys.readouterr().out
    with pytest.raises(ConfigError, match='exists'):
        run_tool(tool, monkeypatch, '--out', tmp_path, *SIZES)


def test_a_teacher_answers_the_prompts_to_train_on(tool, monkeypatch, tmp_path, capsys):
    teacher = tmp_path / 'teacher'
    model = llama()
    model.generation_config.suppress_tokens = [0, 1]  # padding, and the end
    model.save_pretrained(teacher)
    plain = tokenizer()
    plain.chat_template = None
    plain.save_pretrained(teacher)
    out = ('--out', tmp_path / 'rows', '--plain', *SIZES)
    answers = ('--answers', f'tiny={teacher}', '--limit', 5, '--max-tokens', 3, '--batch', 2)
    run_tool(tool, monkeypatch, *out, *answers)  # makes the files first
    lines = (tmp_path / 'rows/train-tiny.jsonl').read_text().splitlines()
    prompts = [row['prompt'] for row in load_rows(tmp_path / 'rows/train.jsonl')][:5]
    rows = [json.loads(line) for line in lines]
    assert [row['prompt'] for row in rows] == prompts
    assert all(1 <= len(row['output'].split()) <= 3 for row in rows)
    assert '5 answers, 0 were empty' in capsys.readouterr().out
    model.generation_config.suppress_tokens = list(range(1, 50))
    model.save_pretrained(teacher)
    with pytest.raises(DatasetError, match=r'every answer of .*teacher. is empty'):
        run_tool(tool, monkeypatch, *out, *answers)
    with pytest.raises(CheckpointError, match='no such model'):
        run_tool(tool, monkeypatch, *out, '--answers', str(tmp_path / 'none'))
    with pytest.raises(ConfigError, match='--limit=0'):
        run_tool(tool, monkeypatch, *out, '--limit', 0)
