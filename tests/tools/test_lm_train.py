"""tools/lm_train.py as a user starts it: alone, on two processes, in a study."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from lab.language.text import write_models, write_text
from safetensors.torch import load_file
from tooling import ROOT, load_tool, run_tool
from torch.testing import assert_close

MODEL = dict(
    type='LlamaConfig',
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
)


@pytest.fixture
def config(tmp_path):
    """A file of settings: 24 sequences and three epochs of them, each at its own offset."""
    write_text(tmp_path / 'text', speeches=120, novels=83)
    write_models(tmp_path)
    values = dict(
        model=MODEL,
        teachers=[str(tmp_path / 'gpt2')],
        text=dict(folder=str(tmp_path / 'text'), length=8, random_offset=True),
        losses=dict(kd=dict(reduction='sequences'), shd=dict(backend='torch')),
        task_loss_weight=0.5,
        arguments=dict(
            output_dir=str(tmp_path / 'out'),
            per_device_train_batch_size=4,
            num_train_epochs=3,
            optim='sgd',
            learning_rate=0.1,
            logging_steps=1,
            save_strategy='no',
            use_cpu=True,
        ),
    )
    (tmp_path / 'a.yaml').write_text(yaml.safe_dump(values))
    return tmp_path / 'a.yaml'


def test_the_tool_trains_and_prints_a_table(config, tmp_path, monkeypatch, capsys):
    change = 'arguments.num_train_epochs=1', 'losses.shd.beta=2'
    run_tool('lm_train', monkeypatch, config, change[0], '--resume', change[1])
    out = tmp_path / 'out'
    metrics = json.loads((out / 'metrics.json').read_text())
    printed = capsys.readouterr().out
    assert f'{metrics["eval_loss"]:.4g}' in printed, printed
    assert 'SHDLoss(weight=2,' in printed
    run = yaml.safe_load((out / 'lm_train.yaml').read_text())
    assert run['losses']['shd'] == dict(backend='torch', beta=2)
    tool = load_tool('lm_train')
    monkeypatch.setattr(sys, 'argv', ['lm_train.py', str(config), 'text.lenght=3'])
    with pytest.raises(SystemExit, match=r'^ConfigError: text.lenght is unknown'):
        tool.run_tool(tool.main)


def start(*command):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    'launcher',
    [
        ('torch.distributed.run', '--standalone', '--nproc_per_node', 2),
        ('accelerate.commands.launch', '--multi_gpu', '--num_processes', 2, '--num_machines', 1,
         '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', 0),
    ],
)  # fmt: skip
def test_two_processes_learn_what_one_does(config, tmp_path, launcher):
    """Of the same joint batches, at the same offsets."""
    start('tools/lm_train.py', config)
    change = ('out_of_two', 'per_device_train_batch_size=2', 'ddp_backend=gloo')
    start(
        *('-m', *launcher, 'tools/lm_train.py', config),
        f'arguments.output_dir={tmp_path / change[0]}',
        *(f'arguments.{option}' for option in change[1:]),
    )
    one, two = (load_file(tmp_path / name / 'model.safetensors') for name in ('out', change[0]))
    assert_close(two, one, rtol=1e-4, atol=1e-5)
    found = [json.loads((tmp_path / n / 'metrics.json').read_text()) for n in ('out', change[0])]
    for name in ('eval_loss', 'train_loss', 'last_kd', 'last_shd', 'tokens', 'steps'):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-4), name


@pytest.mark.slow
def test_a_study_reads_what_trainings_write(config, tmp_path):
    study = dict(
        seeds=[0],
        metric='eval_loss',
        metrics='metrics.json',
        command=f'{sys.executable} tools/lm_train.py {config} arguments.num_train_epochs=1 '
        'arguments.output_dir={out} arguments.seed={seed} {more}',
        resume='--resume',
        rows=dict(
            both=dict(options=dict(more=['losses.shd.beta=2'])),
            alone=dict(options=dict(more=['losses=null', 'task_loss_weight=null', 'teachers=[]'])),
        ),
    )
    (tmp_path / 'study.yaml').write_text(yaml.safe_dump(study))
    out = tmp_path / 'study'
    start('tools/study.py', tmp_path / 'study.yaml', '--out', out)
    results = json.loads((out / 'results.json').read_text())
    for name in ('both', 'alone'):
        metrics = json.loads((out / f'cells/{name}/seed0/metrics.json').read_text())
        assert results['rows'][name]['values'] == {'0': metrics['eval_loss']}
    assert results['rows']['both']['values'] != results['rows']['alone']['values']
