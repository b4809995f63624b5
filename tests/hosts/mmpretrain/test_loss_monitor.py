import copy
import json
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import fashion
import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from models import all_losses, batch, build_distiller, mmpretrain_classifier, timm_classifier
from torch import nn
from torch._dynamo.utils import counters

from shd_vit.distillation.gradients import gradient_norms
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain import BFloat16OptimWrapper, LossMonitorHook

NAMES = ('cls', 'vitkd', 'nkd', 'shd')
WATCH = {'custom_hooks': [dict(type='LossMonitorHook', interval=1)]}


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


def measure(model, images, samples, wrapper=None, iteration=0, interval=1):
    """What the hook writes before one iteration, and the step that it writes it for."""
    written = []
    runner = SimpleNamespace(
        model=model,
        iter=iteration,
        optim_wrapper=wrapper or OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        visualizer=SimpleNamespace(
            add_scalars=lambda scalars, step: written.append((scalars, step))
        ),
    )
    data_batch = dict(inputs=list(images), data_samples=samples)
    LossMonitorHook(interval).before_train_iter(runner, 0, data_batch)
    return written


def total_norm(model, loss):
    """By backward() and a sum of squares in float64."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    return math.sqrt(sum(grad.double().square().sum().item() for grad in grads))


def weighted_losses():
    losses = all_losses()
    losses['shd'].update(beta=0.25, schedule=dict(warm_up=2))
    losses['kd'].update(weight=3.0)
    losses['nkd'].update(weight=0.0)
    return losses


def test_values_and_gradients_are_those_of_training():
    model = build_distiller(losses=weighted_losses()).train()
    model.schedules.set_epoch(1)
    images, samples = batch()
    state = torch.get_rng_state()  # ViTKD draws a mask
    ((scalars, step),) = measure(model, images, samples)
    assert step == 1
    torch.set_rng_state(state)
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), True)
    losses = model(**data, mode='loss')
    # The weight that each loss is written with, above; half of it in mid warm-up.
    for name, weight in dict(cls=1, vitkd=1, nkd=0, kd=3, shd=0.25 * 0.5).items():
        loss = losses[f'loss_{name}']
        assert scalars[f'monitor/{name}/weighted'] == pytest.approx(loss.item())
        expected = pytest.approx(total_norm(model, loss), rel=1e-5)
        assert scalars[f'monitor/{name}/gradient'] == expected
        if weight:
            assert scalars[f'monitor/{name}/raw'] == pytest.approx(loss.item() / weight)
            assert scalars[f'monitor/{name}/gradient'] > 0
    assert 'monitor/nkd/raw' not in scalars, 'a loss times 0 does not tell its value'
    assert not any('loss' in name for name in scalars)


@pytest.mark.parametrize('epoch', [0, 5])
def test_losses_at_zero_still_have_their_raw_value(epoch):
    losses = dict(shd=dict(type='SHDLoss', beta=2.0, schedule=dict(warm_up=1, stop=4)))
    model, (images, samples) = build_distiller(losses=losses).train(), batch()
    model.schedules.set_epoch(2)
    expected = model(images, samples, mode='loss')['loss_shd'].item() / 2
    model.schedules.set_epoch(epoch)
    ((scalars, _),) = measure(model, images, samples)
    assert scalars['monitor/shd/raw'] == pytest.approx(expected) and expected > 0
    assert scalars['monitor/shd/weighted'] == scalars['monitor/shd/gradient'] == 0
    assert model(images, samples, mode='loss')['loss_shd'] == 0


def test_nothing_is_left_behind():
    """With a batch norm and dropout, a batch that is mixed, and gradients of an earlier step."""
    student = mmpretrain_classifier()
    student['backbone']['drop_rate'] = 0.5
    model = build_distiller(
        student=student,
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
        data_preprocessor=dict(num_classes=10),
    ).train()
    norm = nn.BatchNorm2d(3)
    model.student.backbone.patch_embed.register_module('batch_norm', norm)

    def normalise_and_draw(module, args):
        random.random()
        return norm(args[0])

    model.student.backbone.patch_embed.register_forward_pre_hook(normalise_and_draw)
    images, samples = batch()
    model(images, copy.deepcopy(samples), mode='loss')['loss_cls'].backward()

    def state():
        grads = {n: p.grad for n, p in model.named_parameters()}
        tensors = dict(model.named_parameters()), dict(model.named_buffers()), grads
        return copy.deepcopy((tensors, images, [s.to_dict() for s in samples])), (
            torch.get_rng_state().tolist(),
            str(np.random.get_state(legacy=False)['state']),  # with the position
            random.getstate(),
        )

    (tensors, *before), randomness = state()
    ((scalars, _),) = measure(model, images, samples)
    assert scalars['monitor/vitkd/gradient'] > 0
    (tensors_after, *after), randomness_after = state()
    torch.testing.assert_close(tensors_after, tensors, rtol=0, atol=0)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert randomness_after == randomness
    assert norm.num_batches_tracked == 1
    # What was guarded against does happen: the same batch, trained on, changes all of these.
    model.train_step(
        dict(inputs=list(images), data_samples=samples),
        OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
    )
    (_, *after), randomness_after = state()
    assert norm.num_batches_tracked == 2 and 'gt_score' in samples[0]
    assert all(a != b for a, b in zip(randomness_after, randomness, strict=True))


MODES = {
    'plain': {},
    'bfloat16, accumulation, EMA': {
        'optim_wrapper.type': 'BFloat16OptimWrapper',
        'optim_wrapper.accumulative_counts': 2,
        'auto_scale_lr.base_batch_size': 32,
        'custom_hooks': [dict(type='EMAHook')],
    },
    'Mixup, dropout': {
        'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)]),
        'model.student.backbone.drop_path_rate': 0.3,
        'model.student.backbone.drop_rate': 0.2,
    },
    'a schedule': {'model.losses.vitkd.schedule': dict(stop=0.5)},
}


def final_weights(folder):
    return torch.load(folder / 'epoch_1.pth', weights_only=True)['state_dict']


@pytest.mark.parametrize('mode', MODES)
def test_a_watched_run_ends_with_the_same_bits(mode, data, tmp_path):
    for name, hooks in (('plain', []), ('watched', WATCH['custom_hooks'])):
        options = {**MODES[mode], 'custom_hooks': [*MODES[mode].get('custom_hooks', []), *hooks]}
        runner = fashion.runner('shd', tmp_path / name, data, options, epochs=1)
        runner.train()
    expected, ours = (final_weights(tmp_path / name) for name in ('plain', 'watched'))
    assert all(torch.equal(ours[name], weight) for name, weight in expected.items())
    assert len(curves(tmp_path / 'watched')['monitor/shd/raw']) == 4


def curves(work_dir):
    """{name: {step: value}} of what the backends wrote to scalars.json."""
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    found = {}
    for record in map(json.loads, file.read_text().splitlines()):
        step = record.pop('step')
        for name, value in record.items():
            found.setdefault(name, {})[step] = value
    return found


def test_the_hook_sees_what_is_trained_and_every_backend_gets_it(data, tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    options = {
        'custom_hooks': [dict(type='LossMonitorHook', interval=3)],
        'visualizer.vis_backends': backends,
    }
    runner = fashion.runner('shd', tmp_path, data, options)
    runner.train()
    written = curves(tmp_path)
    assert {n for n in written if n.startswith('monitor/')} == {
        f'monitor/{name}/{what}' for name in NAMES for what in ('raw', 'weighted', 'gradient')
    }
    for name in NAMES:
        logged = runner.message_hub.get_scalar(f'train/loss_{name}').data[0]
        values = written[f'monitor/{name}/weighted']
        assert list(values) == [3, 6]
        assert [np.float32(v) for v in values.values()] == [np.float32(logged[i]) for i in (2, 5)]

    (folder,) = tmp_path.glob('*/vis_data')
    events = accumulator.EventAccumulator(str(folder)).Reload()
    for name in (f'monitor/{name}/gradient' for name in NAMES):
        read = {event.step: event.value for event in events.Scalars(name)}
        assert read == pytest.approx(written[name], rel=1e-6)


@pytest.mark.slow
def test_a_compiled_step_is_watched_without_a_change(monkeypatch):
    """The losses on logits alone: little to trace."""
    monkeypatch.delenv('TORCHDYNAMO_DISABLE')
    torch._dynamo.reset()
    counters.clear()
    losses = dict(nkd=dict(type='NKDLoss', schedule=dict(warm_up=4)))
    results = []
    with torch._dynamo.config.patch(disable=False):
        for watch in (False, True):
            torch.manual_seed(0)
            model = build_distiller(losses=losses).train()
            wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
            # As mmengine's `compile` setting does it.
            model.train_step = torch.compile(model.train_step, backend='eager')
            for epoch in range(3):
                model.schedules.set_epoch(epoch)
                images, samples = batch()
                if watch:
                    ((scalars, _),) = measure(model, images, samples, wrapper)
                    assert scalars['monitor/nkd/raw'] > 0
                model.train_step(dict(inputs=list(images), data_samples=samples), wrapper)
            results.append([p.detach() for p in model.parameters()])
    assert counters['stats']['unique_graphs'] > 0
    torch._dynamo.reset()
    torch.testing.assert_close(*results, rtol=0, atol=0)


DDP = """
import sys, torch, torch.distributed as dist
sys.path[:0] = ['tests', 'tests/hosts/mmpretrain', '.']
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from models import batch, build_distiller
from test_loss_monitor import measure
from shd_vit.command import leave_group
torch.set_num_threads(1)
dist.init_process_group('gloo')
rank, results = dist.get_rank(), []
for watch in (False, True):
    torch.manual_seed(0)
    model = build_distiller().train()
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(wrapped, 0, 4)
    torch.manual_seed(rank)
    for _ in range(4):
        images, samples = batch()
        if watch:
            ((scalars, _),) = measure(wrapped, images, samples, wrapper)
            assert scalars['monitor/shd/gradient'] > 0
        wrapped.train_step(dict(inputs=list(images), data_samples=samples), wrapper)
    results.append([p.detach().clone() for p in model.parameters()])
assert all(torch.equal(a, b) for a, b in zip(*results))
leave_group()
"""


@pytest.mark.slow
def test_two_processes_are_watched_without_a_change(tmp_path):
    script = tmp_path / 'ddp.py'
    script.write_text(DDP)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run([*command, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_half_precision_is_measured_as_it_is_trained():
    model, (images, samples) = build_distiller().train(), batch()
    ((exact, _),) = measure(model, images, samples)
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    ((half, _),) = measure(model, images, samples, wrapper)
    assert half != exact
    assert half == pytest.approx(exact, rel=0.1)


def test_scaled_losses_have_norms_without_the_scale():
    """In float16 a gradient of 1e-8 is 0."""
    model = nn.Linear(2, 1, bias=False).half()
    loss = (model.weight.float() * torch.tensor([[3e-9, 4e-9]])).sum()
    assert gradient_norms(dict(a=loss), model)['a'] == 0
    assert gradient_norms(dict(a=loss), model, scale=2.0**16)['a'] == pytest.approx(5e-9, rel=1e-2)


def test_a_loss_that_does_not_reach_the_student_has_gradient_zero():
    model = nn.Linear(2, 1)
    constant, apart = torch.ones(()), torch.ones((), requires_grad=True) * 2
    assert gradient_norms(dict(a=constant, b=apart), model) == dict(a=0, b=0)


def test_activation_checkpointing_is_watched():
    model, (images, samples) = build_distiller(timm_classifier()).train(), batch()
    ((exact, _),) = measure(model, images, samples)
    model.student.model.set_grad_checkpointing(True)
    ((checkpointed, _),) = measure(model, images, samples)
    assert checkpointed == pytest.approx(exact, rel=1e-5)


def test_a_classifier_that_is_not_distilled_has_one_loss():
    torch.manual_seed(0)
    model, (images, samples) = MODELS.build(mmpretrain_classifier()).train(), batch()
    ((scalars, _),) = measure(model, images, samples)
    assert set(scalars) == {f'monitor/cls/{what}' for what in ('raw', 'weighted', 'gradient')}
    loss = model(images, samples, mode='loss')['loss'].item()
    assert scalars['monitor/cls/raw'] == scalars['monitor/cls/weighted'] == pytest.approx(loss)


def test_iterations_between_are_left_alone():
    model, (images, samples) = build_distiller(losses={}).train(), batch()
    written = [measure(model, images, samples, iteration=i, interval=3) for i in range(7)]
    assert [step for rows in written for _, step in rows] == [3, 6]


@pytest.mark.parametrize('interval', [0, -1, 1.5, True, 'often'])
def test_intervals_are_whole_numbers(interval):
    with pytest.raises(ConfigError, match=r'LossMonitorHook\.interval=.* must be a whole number'):
        LossMonitorHook(interval=interval)
