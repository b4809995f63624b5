"""Configs of instruction tuning: what they say is taken, and the small ones train."""

import json
import re
from pathlib import Path

import pytest
import torch
from hosts.transformers.lm import gpt2, llama

pytest.importorskip('trl')

from hosts.transformers.test_trl import tokenizer
from tooling import run_tool

from shd_vit.errors import ConfigError, ShdVitError
from shd_vit.lab.language.settings import read_settings
from shd_vit.lab.language.train import train
from shd_vit.lab.language.trainers import kind_of, make_arguments

CONFIGS = Path(__file__).parents[3] / 'configs/lm/minillm'
STUDIES = ('study', 'tuning')
FILES = [p for p in CONFIGS.rglob('[!_]*.yaml') if p.stem not in STUDIES]
WHOLE = sorted(p.relative_to(CONFIGS).as_posix() for p in FILES)
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
    assert Path(name).stem == Path(args.output_dir).name


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
    few = [*(f'arguments.{name}' for name in FEW), 'responses=null']
    settings = read_settings(CONFIGS / 'small' / name, [*few, *overrides])
    return train(settings, resumes=False)


def test_a_trained_model_is_scored_as_by_the_tool(folder, monkeypatch, capsys):
    """As lm_eval.py scores what was saved, at every seed."""
    ours = ('responses.data=data/words/validation.jsonl', 'responses.seeds=[1, 2]')
    ours += ('responses.prompt_length=4', 'responses.new_tokens=5')
    metrics = run('teacher.yaml', 'arguments.max_length=24', *ours)
    printed = capsys.readouterr().out
    out = 'work_dirs/minillm/small/teacher'
    assert json.loads(Path(out, 'metrics.json').read_text())['rouge_l'] == metrics['rouge_l']
    given = ('--data', folder / 'data/words/validation.jsonl', '--seeds', 1, 2)
    given += ('--prompt-length', 4, '--new-tokens', 5, '--json', folder / 'scores.json')
    run_tool('lm_eval', monkeypatch, 'generate', folder / out, *given)
    found = json.loads((folder / 'scores.json').read_text())['generate']['words/validation.jsonl']
    for name in ('rouge_l', 'exact', 'words', 'empty', 'unfinished'):
        assert metrics[name] == found['teacher']['scores'][name]['mean']
    for name in ('teacher', 'constant answer', 'copy of the input'):
        mean = found[name]['scores']['rouge_l']['mean']
        assert re.search(rf'{name.split()[0]}[ \w]*│ +{mean:.3g} ', printed), printed


@pytest.mark.parametrize(
    'change, message',
    [
        ('responses.prompt_length=1', r'responses.prompt_length=1: raise it, or leave them out'),
        ('responses.new_tokens=99', r'responses.new_tokens=99 make 103 tokens: the model has 32'),
        ('responses.seeds=3', r'responses.seeds=3 must be whole numbers'),
        ('responses.seeds=[3, 3]', r'responses.seeds=\[3, 3\] has one twice'),
        ('responses.temperature=-1', r'responses.temperature=-1'),
        ('responses.length=3', r'responses.length is unknown'),
        ('responses.data=data/words/empty.jsonl', r'has no row'),
    ],
)
def test_responses_that_cannot_be_are_refused_before_training(folder, change, message):
    Path('data/words/empty.jsonl').write_text('')
    ours = ('responses.data=data/words/validation.jsonl', 'responses.prompt_length=4')
    ours += ('responses.new_tokens=4', change)
    with pytest.raises(ShdVitError, match=message):
        run('teacher.yaml', 'arguments.max_length=24', *ours)
    assert not list(Path('work_dirs/minillm/small').glob('teacher/*'))


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
    for name in ('teacher', 'start', 'sft', 'kd'):
        metrics = run(f'{name}.yaml', 'arguments.max_length=24')
        assert metrics['eval_loss'] > 0 and metrics['perplexity'] > 1
    assert 'last_kd' in metrics
    short = 'arguments.max_completion_length=4'
    with_text(folder)
    for name, more in (
        ('minillm', (short,)),
        ('minillm_shd', (short, 'text.folder=text', 'text.length=6', 'rows=completion')),
        ('gkd', ('arguments.max_length=24', 'arguments.max_new_tokens=4', 'losses.shd=true')),
    ):
        metrics = run(f'{name}.yaml', *more)
        assert metrics['eval_loss'] > 0 and 'perplexity' not in metrics
    assert 'last_shd' in metrics


def test_heads_are_matched_on_responses(folder):
    """By the tool, which shows the trainer's own loader: each prompt is answered once."""
    matched = '{shd: {strategy: head_matching, backend: torch}}'
    short = ('model=work_dirs/lm/small/student', 'teachers=[work_dirs/lm/small/gpt2_teacher]')
    short += ('arguments.max_completion_length=4', f'losses={matched}')
    assert run('minillm.yaml', *short)['last_shd'] > 0


def test_text_that_a_trainer_does_not_read(folder):
    with_text(folder)
    given = ('text.folder=text', 'text.length=6', 'arguments.output_dir=out')
    start = ('model=work_dirs/lm/small/student', 'teachers=[work_dirs/lm/small/gpt2_teacher]')
    with pytest.raises(ConfigError, match="trainer='SFTTrainer' reads no text"):
        run('teacher.yaml', *given)
    with pytest.raises(ConfigError, match=r'text\.random_offset has no effect beside'):
        run('minillm.yaml', *given, *start, 'text.random_offset=true')
    with pytest.raises(ConfigError, match=r'text\.length is missing'):
        run('minillm.yaml', 'text.folder=text')
    with pytest.raises(ConfigError, match='give text or instructions'):
        run('minillm.yaml', 'instructions=null')
