"""The configs of pre-training are what they say they are."""

import json
import re
from pathlib import Path

import pytest
import torch
from tooling import run_tool

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.trainer import build_loss
from shd_vit.lab.language.settings import read_settings
from shd_vit.lab.language.students import make_student
from shd_vit.lab.language.tables import comparison_table, text_table
from shd_vit.lab.language.trainers import kind_of, make_arguments
from shd_vit.lab.report import read_json
from shd_vit.taps import Anatomy

CONFIGS = Path(__file__).parents[3] / 'configs/lm'
FILES = [p for p in sorted([*CONFIGS.glob('*.yaml'), *CONFIGS.glob('small/*.yaml')])
         if p.stem not in ('_base', 'study')]  # fmt: skip


class Words:
    """As much of a tokenizer as a config takes from it."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def built(path, overrides):
    """Settings, and the model without memory for its weights."""
    settings = read_settings(path, overrides)
    words = Words(2048 if path.parent.name == 'small' else 16000)
    with torch.device('meta'):
        return settings, make_student(settings.model, words, [])


def teacher_of(path, settings, number):
    return built(path.parent / f'{Path(settings.teachers[number]).name}.yaml', [])[1]


@pytest.mark.parametrize('path', FILES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_parameters_batches_and_places_are_as_the_first_lines_say(path, tmp_path):
    text = path.read_text()
    settings, model = built(path, [])
    relative = path.relative_to(CONFIGS.parents[1])
    assert f'python tools/lm_train.py {relative}\n' in text, 'the command'
    assert settings.arguments['output_dir'] == str(Path('work_dirs') / relative.with_suffix('')
                                                   .relative_to('configs'))  # fmt: skip
    for count in re.findall(r'([\d.]+) M parameters', text):
        assert float(count) == round(sum(p.numel() for p in model.parameters()) / 1e6, 1)
    for layers, heads in re.findall(r'(\d+) layers of (\d+) heads', text):
        config = model.config
        assert (config.num_hidden_layers, config.num_attention_heads) == (int(layers), int(heads))
    known = {**settings.arguments, 'fp16': False, 'output_dir': str(tmp_path)}
    args = make_arguments(kind_of(settings.trainer), known)
    for a, b, total in re.findall(r'(\d+) sequences x (\d+) accumulated = (\d+) a step', text):
        assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (
            int(a),
            int(b),
        )
        assert int(a) * int(b) == int(total)
    for teacher in settings.teachers:
        assert (path.parent / f'{Path(teacher).name}.yaml').exists(), 'which makes it'


@pytest.mark.parametrize(
    'name, heads, layers',
    [
        ('babyllama_shd', (8, 16), [2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24]),
        ('small/kd_shd', (4, 8), [2, 4, 6]),
    ],
)
def test_shd_squeezes_the_heads_of_gpt2_and_takes_those_of_the_llama(name, heads, layers):
    path = CONFIGS / f'{name}.yaml'
    settings, student = built(path, [])
    assert settings.attention_teacher == 0 and settings.task_loss_weight == 0.5
    loss = build_loss('shd', settings.losses['shd'])
    kd = build_loss('kd', settings.losses['kd'])
    assert (kd.weight, kd.temperature, kd.reduction) == (0.5, 2.0, 'sequences')
    teacher = teacher_of(path, settings, 0)
    anatomies = Anatomy(student, 'student'), Anatomy(teacher, 'teacher')
    loss.bind(*anatomies)
    assert tuple(anatomy.heads[0] for anatomy in anatomies) == heads
    assert loss.pairs == list(enumerate(layers, 1)) and loss.weight == 1.0
    assert teacher_of(path, settings, 1).config.num_attention_heads == heads[0]


def test_one_table_of_two_evaluations(tmp_path, monkeypatch, capsys):
    results = dict(
        perplexity=dict(text=dict(a=dict(parts=dict(all=dict(loss=1.5, perplexity=4.4817))))),
        tune=dict(
            sentiment={
                name: dict(sets=dict(test=dict(accuracy=dict(mean=value))))
                for name, value in {'constant answer': 51.2, 'a': 60.04}.items()
            }
        ),
    )
    _, rows = comparison_table(results, 'text', 'sentiment', 'test')
    assert rows[1:] == [['a', '1.500', '4.5', '60.0'], ['(constant answer)', '', '', '51.2']]
    (tmp_path / 'results.json').write_text(json.dumps(results))
    run_tool('lm_compare', monkeypatch, tmp_path / 'results.json')
    printed = capsys.readouterr().out
    assert '60.0' in printed and '1.500' in printed and '51.2' in printed
    with pytest.raises(
        ConfigError, match=r"the results have no 'spam' of text 'text' or task 'spam'"
    ):
        comparison_table(results, 'text', 'spam', 'test')


def test_a_table_of_words_and_licences(tmp_path):
    (tmp_path / 'text.json').write_text(
        '{"vocabulary": 300, "parts": {"a": {"source": "s", "licence": "l", "words": 1200}},'
        '"splits": {"train": {"tokens": 1500, "parts": {"a": [0, 1500]}},'
        '"validation": {"tokens": 90, "parts": {"a": [0, 90]}}}}'
    )
    _, rows = text_table(read_json(tmp_path / 'text.json'))
    assert rows[1] == ['a', 's', 'l', '1,200', '1,500', '90']
    assert rows[2] == ['all', '', '', '1,200', '1,500', '90']
