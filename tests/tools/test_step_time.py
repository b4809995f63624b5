"""Time of a step: what is measured, and how it is summed up."""

import json
from argparse import Namespace

import fashion
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from tooling import ROOT, run_tool

from shd_vit.errors import ConfigError
from shd_vit.lab import step_time
from shd_vit.lab.report import in_turns

BASELINE, SHD = (f'{fashion.CONFIGS}/{name}.py' for name in ('baseline', 'shd'))


@pytest.mark.slow
def test_steps_of_two_configs_are_timed(monkeypatch, tmp_path, capsys):
    files = tmp_path / 's.json', tmp_path / 's.md'
    run_tool(
        'analysis/step_time', monkeypatch, f'none={BASELINE}', f'ViTKD + NKD + SHD={SHD}',
        '--steps', 1, '--rounds', 1, '--batch', 2, '--json', files[0], '--markdown', files[1],
    )  # fmt: skip
    results = json.loads(files[0].read_text())
    assert results['environment']['torch'] == torch.__version__
    assert results['environment']['images_a_step'] == 2
    none, shd = results['step_time'].values()
    assert list(results['step_time']) == ['none', 'ViTKD + NKD + SHD']
    assert none['ratio'] == 1 and none['seconds'] > 0 and shd['seconds'] >= shd['fastest'] > 0
    assert (none['peak_mib'] is None) == (not torch.cuda.is_available())
    student = sum(p.numel() for p in MODELS.build(Config.fromfile(BASELINE).model).parameters())
    # ViTKD: three Linears 48 -> 96, a token, two 3x3 convolutions of 96; SHD and NKD: nothing.
    vitkd = 3 * (48 * 96 + 96) + 96 + 2 * (9 * 96 * 96 + 96)
    assert (none['trained_parameters'], none['loss_parameters']) == (student, 0)
    assert (shd['trained_parameters'], shd['loss_parameters']) == (student + vitkd, vitkd)
    assert f'{vitkd:,}' in files[1].read_text()
    assert 'Training step' in capsys.readouterr().out


def runner(tmp_path, config=SHD):
    cfg = Config.fromfile(config)
    cfg.launcher = 'none'
    return step_time.build(f'{tmp_path.name}', cfg, str(tmp_path))


def test_a_step_is_whole_but_changes_no_weight(tmp_path, monkeypatch):
    """Gradients and optimiser state are there; the teacher's checkpoint need not be."""
    monkeypatch.chdir(ROOT)
    built = runner(tmp_path)
    model = built.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = []
    model.student.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    step_time.step_of(built, 3, None)()
    assert seen == [(3, 1, 28, 28)]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    moments = [state['exp_avg'] for state in built.optim_wrapper.optimizer.state.values()]
    assert len(moments) == len(before)
    assert sum(moment.abs().sum() > 0 for moment in moments) > 0.9 * len(moments)
    assert model.training and not model.teacher.training


def test_ratios_are_of_rounds(monkeypatch):
    """Rounds of three: medians 1 and 2 against 2 and 6, ratios 2 and 3."""
    times = dict(a=[1.0, 1.0, 3.0, 2.0, 2.0, 2.0], b=[2.0, 2.0, 9.0, 6.0, 6.0, 6.0])
    monkeypatch.setattr(step_time, 'step_of', lambda *_: lambda: None)
    monkeypatch.setattr(step_time, 'in_turns', lambda *_: times)
    fake = Namespace(model=torch.nn.Linear(2, 3))
    results = step_time.measure(dict(a=fake, b=fake), 1, steps=3, rounds=2)
    assert (results['a']['ratio'], results['b']['ratio']) == (1.0, 2.5)
    assert (results['a']['seconds'], results['b']['seconds']) == (2.0, 6.0)
    assert (results['b']['fastest'], results['b']['trained_parameters']) == (2.0, 9)


def test_turns_are_taken_and_the_first_does_not_count(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr('shd_vit.lab.report.time.perf_counter', lambda: clock[0])

    def run(name, seconds):
        order.append(name)
        clock[0] += seconds * len(order)

    runs = dict(a=lambda: run('a', 1), b=lambda: run('b', 10))
    times = in_turns(runs, 2, steps=2)
    assert order == list('aabb' * 3)
    assert times == dict(a=[5, 6, 9, 10], b=[70, 80, 110, 120])


def test_a_model_that_does_not_say_its_size_needs_it_said():
    with pytest.raises(ConfigError, match=r'Sequential .* img_size: pass --image-size'):
        step_time.image_shape(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([BASELINE], "'.*baseline.py': expected NAME=CONFIG"),
        ([f'a={BASELINE}', f'a={SHD}'], 'each name once'),
        (['a=gone.py'], "config 'gone.py' does not exist"),
        ([f'a={BASELINE}', '--steps', 0], '--steps=0 must be at least 1'),
        ([f'a={BASELINE}', '--image-size', -1], '--image-size=-1 must be at least 1'),
    ],
)
def test_mistakes_are_named(arguments, message, monkeypatch):
    with pytest.raises(ConfigError, match=message):
        run_tool('analysis/step_time', monkeypatch, *arguments)
