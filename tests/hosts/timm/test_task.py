"""The timm training task: used as timm's train script does, and beside mmpretrain's distiller."""

import copy
import re
import subprocess
import sys

import pytest
import timm
import torch
from mmpretrain.structures import DataSample
from models import build_distiller
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.task import (
    ClassificationEvaluator,
    DistillationTeacher,
    LogitDistillationTask,
    load_task_ema_checkpoint,
    resume_task_checkpoint,
)
from timm.utils import CheckpointSaver
from tooling import ROOT
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.testing import assert_close

from shd_vit import KDLoss, UnsupportedAttention
from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.hosts.timm.pretrained import refuse_head_without_weights
from shd_vit.hosts.timm.task import SHDDistillationTask

ALL = dict(shd=dict(beta=2.0, compile=False), vitkd=True, nkd=dict(gamma=1.0))


def model(heads=3, name='vit_tiny_patch16_224', seed=0, **kwargs):
    torch.manual_seed(seed)
    sizes = dict(img_size=32, patch_size=8, depth=2, num_classes=10)
    return create_model(name, **{**sizes, 'embed_dim': 8 * heads, 'num_heads': heads, **kwargs})


def build(heads=3, **kwargs):
    torch.manual_seed(1)
    settings = {**ALL, 'teacher_model': model(6, seed=7), **kwargs}
    settings.setdefault('criterion', nn.CrossEntropyLoss())
    return SHDDistillationTask(model(heads), **settings).train()


def batch(size=4, seed=3):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 32, 32, generator=rng)
    return images, torch.randint(10, (size,), generator=rng)


def test_losses_are_those_of_the_mmpretrain_distiller():
    timm_model = dict(type='TimmClassifier', model_name='vit_tiny_patch16_224')
    sizes = dict(img_size=32, patch_size=8, depth=2, num_classes=10)
    losses = dict(
        shd=dict(type='SHDLoss', beta=2.0, compile=False),
        vitkd=dict(type='ViTKDLoss', student_dims=24, teacher_dims=48),
        nkd=dict(type='NKDLoss', gamma=1.0),
    )
    distiller = build_distiller(
        student={**timm_model, **sizes, 'embed_dim': 24, 'num_heads': 3},
        teacher={**timm_model, **sizes, 'embed_dim': 48, 'num_heads': 6},
        losses=losses,
    ).train()
    task = build()
    distiller.student.model.load_state_dict(task.trainable_module.student.state_dict())
    distiller.teacher.model.load_state_dict(task.teacher.model.state_dict())
    distiller.losses.load_state_dict(task.trainable_module.losses.state_dict())

    images, labels = batch()
    samples = [DataSample().set_gt_label(label) for label in labels]
    torch.manual_seed(5)  # ViTKD masks tokens at random
    theirs = distiller(images, samples, mode='loss')
    torch.manual_seed(5)
    ours = task(images, labels)
    assert list(ours) == ['loss', 'output', 'task_loss', 'shd_loss', 'vitkd_loss', 'nkd_loss']
    for name in ('shd', 'vitkd', 'nkd'):
        assert_close(ours[f'{name}_loss'], theirs[f'loss_{name}'])
    assert_close(ours['loss'], sum(theirs.values()))
    assert_close(ours['output'], distiller.student.model(images))


@pytest.mark.parametrize(
    ('given', 'weights'),
    [
        ({}, (1.0, 1.0)),
        (dict(task_loss_weight=0.3), (0.3, 0.7)),
        (dict(distill_loss_weight=5.0), (1.0, 5.0)),
        (dict(distill_loss_weight=5.0, task_loss_weight=0.5), (0.5, 5.0)),
    ],
)
def test_weights_mean_what_they_mean_in_timm(given, weights):
    timms = LogitDistillationTask(model(), model(6), nn.CrossEntropyLoss(), **given)
    ours = build(shd=False, vitkd=False, nkd=False, losses=dict(kd=KDLoss(2.0, 1.5)), **given)
    assert (timms.task_loss_weight, timms.distill_loss_weight) == pytest.approx(weights)
    assert (ours.task_loss_weight, ours.distill_loss_weight) == pytest.approx(weights)
    result = ours(*batch())
    task, kd = weights
    assert_close(result['loss'], task * result['task_loss'] + kd * result['kd_loss'])


def test_logits_are_distilled_as_by_timms_own_task():
    timms = LogitDistillationTask(
        model(), model(6, seed=7), nn.CrossEntropyLoss(), temperature=3.0
    ).train()
    ours = build(shd=False, vitkd=False, nkd=False, losses=dict(kd=KDLoss(temperature=3.0)))
    a, b = timms(*batch()), ours(*batch())
    assert_close(b['loss'], a['loss'])
    assert_close(b['kd_loss'], a['kd_loss'])


def test_teacher_sees_images_in_its_own_normalisation():
    teacher = model(6, seed=7)
    teacher.pretrained_cfg = {**teacher.pretrained_cfg, 'mean': (0.1, 0.2, 0.3), 'std': (2, 3, 4)}
    task = build(teacher_model=teacher)
    images, _ = batch()
    student = task.trainable_module.student.pretrained_cfg
    mean, std = (torch.tensor(student[key]).view(3, 1, 1) for key in ('mean', 'std'))
    raw = images * std + mean
    own = (raw - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([2, 3, 4]).view(
        3, 1, 1
    )
    assert (mean != 0.1).any()
    assert_close(task.teacher_output(images).logits, teacher(own))


def test_only_student_and_losses_learn():
    task = build()
    optimizer = create_optimizer_v2(task.get_trainable_module(), 'adamw', lr=1e-2, weight_decay=0.1)
    before = copy.deepcopy(task.state_dict())
    first = task(*batch())['loss']
    for _ in range(8):
        optimizer.zero_grad()
        torch.manual_seed(0)
        task(*batch())['loss'].backward()
        optimizer.step()
    torch.manual_seed(0)
    assert task(*batch())['loss'] < 0.9 * first
    changed = {name for name, value in task.state_dict().items() if not value.equal(before[name])}
    assert not any(name.startswith('teacher') for name in changed)
    assert {name.split('.')[1] for name in changed} == {'student', 'losses'}
    assert not task.teacher.training
    assert not task.train(True).teacher.model.training


def test_optimiser_groups_are_the_students_own():
    task, alone = build(vitkd=False), model()
    shapes = [
        sorted(tuple(p.shape) for p in group['params'])
        for m in (task.get_trainable_module(), alone)
        for group in create_optimizer_v2(m, 'adamw', lr=1.0, weight_decay=0.1).param_groups
    ]
    assert shapes[:2] == shapes[2:]
    scales = []
    for m in (task.get_trainable_module(), alone):
        groups = create_optimizer_v2(m, 'adamw', lr=1.0, layer_decay=0.5).param_groups
        scales.append({tuple(p.shape): g['lr_scale'] for g in groups for p in g['params']})
    assert scales[0] == scales[1]
    assert len(set(scales[0].values())) > 2


def test_parameters_to_clip_leave_the_head_out():
    task = build()
    student, losses = task.trainable_module.student, task.trainable_module.losses
    every = {id(p) for p in [*student.parameters(), *losses.parameters()]}
    head = {id(p) for p in student.head.parameters()}
    assert {id(p) for p in task.get_clip_parameters()} == every
    assert {id(p) for p in task.get_clip_parameters(exclude_head=True)} == every - head


def test_a_checkpoint_is_the_plain_student_and_goes_on(tmp_path):
    task = build(shd=dict(strategy='hard', compile=False), vitkd=True)
    task.setup_ema(decay=0.5)
    optimizer = create_optimizer_v2(task.get_trainable_module(), 'adamw', lr=1e-2)
    steps = [batch(seed=seed) for seed in range(3)]

    def step(task, optimizer, images, labels):
        torch.manual_seed(int(labels.sum()))
        optimizer.zero_grad()
        task(images, labels)['loss'].backward()
        optimizer.step()
        task.update_ema()

    step(task, optimizer, *steps[0])
    saver = CheckpointSaver(
        task.get_eval_model(), optimizer, task=task, checkpoint_dir=str(tmp_path), args=None
    )
    saver.save_checkpoint(0, metric=1.0)
    saved = torch.load(tmp_path / 'last.pth.tar', weights_only=True)
    model().load_state_dict(saved['state_dict'])
    model().load_state_dict(saved['state_dict_ema'])
    assert saved['task_state']['losses'].keys() == task.trainable_module.losses.state_dict().keys()

    torch.manual_seed(99)
    other = build(shd=dict(strategy='hard', compile=False), vitkd=True)
    for p in other.trainable_module.parameters():
        nn.init.zeros_(p)
    other.setup_ema(decay=0.5)
    resumed = create_optimizer_v2(other.get_trainable_module(), 'adamw', lr=1e-2)
    assert resume_task_checkpoint(other, str(tmp_path / 'last.pth.tar'), resumed) == 1
    load_task_ema_checkpoint(other, str(tmp_path / 'last.pth.tar'))
    for images, labels in steps[1:]:
        step(task, optimizer, images, labels)
        step(other, resumed, images, labels)
    ours, theirs = task.trainable_module.state_dict(), other.trainable_module.state_dict()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    for a, b in zip(
        task.get_eval_model(ema=True).parameters(),
        other.get_eval_model(ema=True).parameters(),
        strict=True,
    ):
        assert a.equal(b)


def test_ema_is_a_model_of_its_own():
    task = build()
    assert task.get_eval_model(ema=True) is None
    task.setup_ema(decay=0.9)
    average = task.get_eval_model(ema=True)
    assert average is not task.get_eval_model()
    assert type(average) is type(task.get_eval_model())
    with task.distillation.student_bank.record():
        average(batch()[0])  # writes into no tap of the student
        task.get_eval_model()(batch()[0])
    assert len(task.distillation.student_bank.collect().attention) == 2
    with pytest.raises(RuntimeError, match=r'setup_ema'):
        build().load_task_state(dict(losses={}), ema=True)


def test_compiled_gives_the_same(dynamo):
    task = build(nkd=False, vitkd=False)
    expected = task(*batch())
    expected['loss'].backward()
    gradients = [p.grad.clone() for p in task.trainable_module.parameters()]
    task.zero_grad()
    task.setup_ema()
    evaluated = task.compile(backend='eager')
    result = task(*batch())
    result['loss'].backward()
    assert_close(result, expected)
    assert_close([p.grad for p in task.trainable_module.parameters()], gradients)
    assert_close(evaluated(batch()[0]), expected['output'])
    assert evaluated is task.get_eval_model()
    assert set(task.get_checkpoint_state()['state_dict']) == set(model().state_dict())
    assert task.get_checkpoint_state().keys() == {'state_dict'}


def test_evaluation_is_the_students():
    task = build().eval()
    images, labels = batch(10)
    evaluator = task.create_evaluator()
    assert isinstance(evaluator, ClassificationEvaluator)
    evaluator.update(task.get_eval_model()(images), labels)
    top1 = (model().eval()(images).argmax(1) == labels).float().mean()
    assert evaluator.compute()['top1'] == pytest.approx(100 * top1.item())


def test_mixed_labels_go_to_criterion_and_losses():
    def soft(logits, target):
        return -(target * logits.log_softmax(1)).sum(1).mean()

    task = build(criterion=soft, vitkd=False)
    images, _ = batch()
    scores = torch.rand(4, 10).softmax(1)
    result = task(images, scores)
    assert_close(result['task_loss'], cross_entropy(result['output'], scores))
    hard = task(images, one_hot(scores.argmax(1), 10).float())  # NKD takes the largest class
    assert_close(result['nkd_loss'], hard['nkd_loss'])


def test_losses_that_look_first_are_shown_images():
    task = build(shd=dict(strategy='head_matching', compile=False), vitkd=False)
    with pytest.raises(ConfigError, match=r'see training images'):
        task(*batch())
    task.settle([batch(seed=seed)[0] for seed in range(2)])
    assert task(*batch())['shd_loss'] > 0
    task.settle(iter([None]))  # settled: not touched


def test_teacher_by_name_and_path(tmp_path):
    teacher = create_model('vit_tiny_patch16_224', num_classes=10, depth=2)
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    # The file does not fit the full model that the name makes: timm says so, having read it.
    with pytest.raises(RuntimeError, match=r'Missing key'):
        SHDDistillationTask(
            model(), 'vit_tiny_patch16_224', teacher_pretrained_path=str(tmp_path / 'teacher.pth')
        )


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match=r'nothing to distil'):
        build(shd=False, vitkd=False, nkd=False)
    with pytest.raises(ConfigError, match=r'losses names nkd'):
        build(losses=dict(nkd=KDLoss()))
    with pytest.raises(ConfigError, match=r'3 heads'):
        build(teacher_model=model(2))
    with pytest.raises(UnsupportedAttention, match=r'no attention'):
        build(teacher_model=create_model('resnet10t', num_classes=10))
    distilled = model(name='deit_tiny_distilled_patch16_224')
    distilled.set_distilled_training(True)
    with pytest.raises(ConfigError, match=r'set_distilled_training'):
        SHDDistillationTask(distilled, model(6))


@pytest.mark.parametrize('off', [None, False])
def test_none_and_false_are_off(off):
    task = build(shd=off, vitkd=off, nkd=True)
    assert list(task.distillation.losses) == ['nkd']
    with pytest.raises(ConfigError, match=r'nothing to distil'):
        build(shd=off, vitkd=off, nkd=off)


@pytest.mark.parametrize('flag', ['yes', 1, 0, 2.0, []])
def test_a_flag_that_is_none_is_refused(flag):
    for name in ('shd', 'vitkd', 'nkd'):
        with pytest.raises(ConfigError, match=rf'{name}=.* must be True, False or a dict'):
            build(**{name: flag})


def test_a_random_classifier_of_a_pretrained_teacher_is_refused(tmp_path):
    arguments = dict(num_classes=1000, img_size=32, patch_size=8, depth=2)
    teacher = create_model('vit_tiny_patch16_224', **arguments)
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    overlay = dict(file=str(tmp_path / 'teacher.pth'))
    made = create_model(
        'vit_tiny_patch16_224', pretrained=True, pretrained_cfg_overlay=overlay,
        **{**arguments, 'num_classes': 10},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r'have 1000 classes, the model 10.*nkd would distil'):
        refuse_head_without_weights(made, 'nkd')
    refuse_head_without_weights(teacher, 'nkd')


def test_a_label_outside_the_classes_is_named():
    images, labels = batch()
    labels[2] = 10
    for losses in (dict(), dict(vitkd=False, nkd=False)):
        with pytest.raises(ConfigError, match=r'label 10 of sample 2 is none of the 10 classes'):
            build(**losses)(images, labels)


def test_schedules_are_followed():
    task = build(shd=dict(compile=False), vitkd=False, schedules=dict(shd=dict(stop=2)))
    images, labels = batch()
    with pytest.raises(ConfigError, match=r'call set_epoch'):
        task(images, labels)
    task.set_epoch(0)
    assert task(images, labels)['shd_loss'] > 0
    task.set_epoch(2)
    result = task(images, labels)
    assert result['shd_loss'] == 0 < result['nkd_loss']
    with pytest.raises(ConfigError, match=r'schedules.vkd: there is no such loss'):
        build(schedules=dict(vkd=dict(stop=2)))
    with pytest.raises(ConfigError, match=r'schedules.shd.stop=-1'):
        build(schedules=dict(shd=dict(stop=-1)))


def test_what_is_not_finite_is_named_before_the_step():
    task = build(vitkd=False)
    with torch.no_grad():
        task.teacher.model.head.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteLoss, match=r'^nkd_loss=nan is not finite'):
        task(*batch())


def test_a_teacher_of_other_patches_at_its_own_image_size():
    teacher = model(6, seed=7, img_size=28, patch_size=7)
    with pytest.raises(ConfigError, match=r'image_size=28'):
        build(teacher_model=teacher)
    task = build(teacher_model=teacher, teacher_image_size=28, vitkd=False)
    images, labels = batch()
    resized = torch.nn.functional.interpolate(images, (28, 28), mode='bicubic', antialias=True)
    assert_close(task.teacher_output(images).logits, teacher(resized))
    assert task(images, labels)['shd_loss'] > 0


def test_a_teacher_in_half_precision():
    task = build(teacher_model=model(6, seed=7).bfloat16())
    full = build(teacher_model=model(6, seed=7))
    torch.manual_seed(5)
    given = task(*batch())
    torch.manual_seed(5)
    expected = full(*batch())
    for name in ('shd_loss', 'vitkd_loss', 'nkd_loss'):
        assert_close(given[name], expected[name], rtol=0.05, atol=1e-3)
    given['loss'].backward()


def test_models_that_timm_does_not_know_are_refused():
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=12,
        image_size=32, patch_size=8, num_labels=10,
    )  # fmt: skip
    other = transformers.ViTForImageClassification(config)
    with pytest.raises(ConfigError, match=r'teacher_model ViTForImage.* a model of transformers'):
        build(teacher_model=other)
    with pytest.raises(ConfigError, match=r'student_model ViTForImage.* must be a model of timm'):
        SHDDistillationTask(other, model(6))
    with pytest.raises(ConfigError, match=r'student reads images of 3 channels, the teacher of 1'):
        build(teacher_model=model(6, in_chans=1))


def test_a_teacher_without_attention_can_teach_logits():
    teacher = DistillationTeacher(create_model('resnet10t', num_classes=10))
    result = build(teacher_model=teacher, shd=False, vitkd=False, nkd=True)(*batch())
    assert result['nkd_loss'] > 0


DDP = """
import sys
import torch
import torch.distributed as dist
sys.path[:0] = ['tests', '.']
from shd_vit.command import leave_group
from hosts.timm.test_task import batch, build
torch.set_num_threads(1)
dist.init_process_group('gloo')
task = build(vitkd=False).prepare_distributed()
images, labels = batch(4)
mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
with task.no_sync():
    task(images[mine], labels[mine])['loss'].backward()
task.zero_grad()
task(images[mine], labels[mine])['loss'].backward()
if dist.get_rank() == 0:
    state = task.get_checkpoint_state()['state_dict']
    torch.save([[p.grad for p in task.trainable_module.parameters()], state], sys.argv[1])
leave_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_the_joint_batch(tmp_path):
    script, out = tmp_path / 'ddp.py', tmp_path / 'out.pth'
    script.write_text(DDP)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run([*command, script, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    gradients, state = torch.load(out)
    task = build(vitkd=False)
    task(*batch(4))['loss'].backward()
    expected = [p.grad for p in task.trainable_module.parameters()]
    assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
    assert state.keys() == model().state_dict().keys()


def test_the_docs_example(monkeypatch):
    text = (ROOT / 'docs/timm.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    made = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained=False: made(name))
    names = dict(images=torch.randn(1, 3, 224, 224), labels=torch.tensor([3]))
    exec(code, names)
    assert all(f'`{name}`' in text for name in names['result'])
    assert names['student'].patch_embed.proj.weight.grad.any()


BLOCKED = """
import sys
sys.modules.update(mmengine=None, mmpretrain=None, mmcv=None)
import timm, torch
from shd_vit.hosts.timm.task import SHDDistillationTask
sizes = dict(img_size=32, patch_size=16, depth=2, num_classes=3)
student = timm.create_model('vit_tiny_patch16_224', embed_dim=12, num_heads=3, **sizes)
teacher = timm.create_model('vit_tiny_patch16_224', embed_dim=24, num_heads=6, **sizes)
task = SHDDistillationTask(student, teacher, vitkd=True, nkd=True)
task(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))['loss'].backward()
for name in ('mmengine', 'mmpretrain', 'mmcv'):
    assert sys.modules[name] is None
"""


@pytest.mark.slow
def test_neither_mmengine_nor_mmpretrain_is_needed():
    done = subprocess.run([sys.executable, '-c', BLOCKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
