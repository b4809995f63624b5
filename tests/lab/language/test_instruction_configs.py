"""Configs of instruction tuning: what they say is taken, and the small ones train."""

import json
from pathlib import Path

import pytest
import torch
from hosts.transformers.lm import gpt2, llama

pytest.importorskip('trl')

from hosts.transformers.test_trl import tokenizer

from shd_vit.errors import ConfigError
from shd_vit.lab.language.settings import read_settings
from shd_vit.lab.language.train import train
from shd_vit.lab.language.trainers import kind_of, make_arguments

CONFIGS = Path(__file__).parents[3] / 'configs/lm/minillm'
WHOLE = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob('[!_]*.yaml'))
FEW = ('max_steps=1', 'per_device_train_batch_size=4', 'logging_steps=1')
PAPER = ('gpt2_base', 'gpt2_medium', 'gpt2_large', 'llama_7b')


def read(name, *overrides):
    settings = read_settings(CONFIGS / name, overrides)
    kind = kind_of(settings.trainer)
    # The test may have no GPU, on which most of them are to run.
    values = {**settings.arguments, 'use_cpu': True, 'bf16': False}
    return settings, kind, make_arguments(kind, values)


@pytest.mark.parametrize('name', WHOLE)
def test_a_config_opens_with_its_command_and_is_taken(name):
    settings, kind, args = read(name)
    assert (CONFIGS / name).read_text().startswith('# ')
    assert bool(settings.teachers) == (kind.has_teacher or bool(settings.losses))
    assert Path(name).stem.lstrip('123_') == Path(args.output_dir).name


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_batches(name):
    """256 responses of 16 GPUs at a time, four times; 16 to 256 prompts a step."""
    settings, _, args = read(f'{name}.yaml')
    assert args.per_device_train_batch_size * args.generation_steps * 16 == 256
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * 16
    assert step == dict(gpt2_base=256, gpt2_medium=64, gpt2_large=64, llama_7b=16)[name]
    assert args.num_iterations == 4 and args.learning_rate == 5e-6
    assert settings.losses == {'shd': {'beta': 1.0}}
    assert read(f'{name}.yaml', 'losses.shd=null')[0].losses == {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With models, rows and a text, where the small configs look for them."""
    monkeypatch.chdir(tmp_path)
    words = tokenizer()
    words.chat_template = None
    for name, model in (('gpt2_teacher', gpt2()), ('student', llama())):
        model.save_pretrained(f'work_dirs/lm/small/{name}')
        words.save_pretrained(f'work_dirs/lm/small/{name}')
    Path('data/words').mkdir(parents=True)
    rows = [dict(prompt=f'w{n} w{n + 1}\n', output=[f'w{n + 2} w3', 'w1']) for n in range(64)]
    for name in ('train', 'validation'):
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        Path(f'data/words/{name}.jsonl').write_text(text)
    return tmp_path


def run(name, *overrides):
    few = [f'arguments.{name}' for name in FEW]
    settings = read_settings(CONFIGS / 'small' / name, [*few, *overrides])
    return train(settings, resumes=False)


def with_text(folder):
    """A text of the same tokenizer, for the language-modelling term."""
    text = folder / 'text'
    tokenizer().save_pretrained(text / 'tokenizer')
    (torch.arange(200) % 50).numpy().astype('<u2').tofile(text / 'train.bin')
    (torch.arange(40) % 50).numpy().astype('<u2').tofile(text / 'validation.bin')
    splits = dict(train=dict(tokens=200, parts=dict(a=[0, 200])))
    splits['validation'] = dict(tokens=40, parts=dict(a=[0, 40]))
    about = dict(vocabulary=50, parts={}, splits=splits)
    (text / 'text.json').write_text(json.dumps(about))


@pytest.mark.slow
def test_the_small_configs_train_one_after_the_other(folder):
    for name in ('1_teacher', '2_start', '3_sft', '3_kd'):
        metrics = run(f'{name}.yaml', 'arguments.max_length=24')
        assert metrics['eval_loss'] > 0 and metrics['perplexity'] > 1
    assert 'last_kd' in metrics
    short = 'arguments.max_completion_length=4'
    with_text(folder)
    for name, more in (
        ('3_minillm', (short,)),
        ('3_minillm_shd', (short, 'text.folder=text', 'text.length=6', 'rows=completion')),
        ('3_gkd', ('arguments.max_length=24', 'arguments.max_new_tokens=4', 'losses.shd=true')),
    ):
        metrics = run(f'{name}.yaml', *more)
        assert metrics['eval_loss'] > 0 and 'perplexity' not in metrics
    assert 'last_shd' in metrics


def test_heads_are_matched_on_responses(folder):
    """By the tool, which shows the trainer's own loader: each prompt is answered once."""
    matched = '{shd: {strategy: head_matching, backend: torch}}'
    short = ('model=work_dirs/lm/small/student', 'teachers=[work_dirs/lm/small/gpt2_teacher]')
    short += ('arguments.max_completion_length=4', f'losses={matched}')
    assert run('3_minillm.yaml', *short)['last_shd'] > 0


def test_text_that_a_trainer_does_not_read(folder):
    with_text(folder)
    given = ('text.folder=text', 'text.length=6', 'arguments.output_dir=out')
    start = ('model=work_dirs/lm/small/student', 'teachers=[work_dirs/lm/small/gpt2_teacher]')
    with pytest.raises(ConfigError, match="trainer='SFTTrainer' reads no text"):
        run('1_teacher.yaml', *given)
    with pytest.raises(ConfigError, match=r'text\.random_offset has no effect beside'):
        run('3_minillm.yaml', *given, *start, 'text.random_offset=true')
    with pytest.raises(ConfigError, match=r'text\.length is missing'):
        run('3_minillm.yaml', 'text.folder=text')
    with pytest.raises(ConfigError, match='give text or instructions'):
        run('3_minillm.yaml', 'instructions=null')
