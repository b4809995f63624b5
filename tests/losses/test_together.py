"""The losses of the paper's Table 5 through ViTDistiller, all at once."""

import copy
import math

import fashion
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from models import batch, build_distiller, mmpretrain_classifier, timm_classifier
from torch._dynamo.utils import counters
from torch.testing import assert_close

import shd_vit
from shd_vit.errors import ConfigError
from shd_vit.taps import Anatomy

NAMES = ('FeatureProjectorLoss', 'SelfCorrelationLoss', 'VkDLoss', 'AttentionTransferLoss')
PROJECTED = ('FeatureProjectorLoss', 'VkDLoss')


def configs(student_dims=24, teacher_dims=48, **kwargs):
    dims = dict(student_dims=student_dims, teacher_dims=teacher_dims)
    return {
        name: dict(type=name, **kwargs, **(dims if name in PROJECTED else {})) for name in NAMES
    }


def distiller(*args, **kwargs):
    return build_distiller(*args, losses=configs(**kwargs)).train()


@pytest.mark.parametrize('pair', ['mmpretrain', 'timm'])
@pytest.mark.parametrize('layers', ['uniform', 'last', [(1, 4), (3, 2)]])
def test_every_loss_reaches_the_student(pair, layers):
    if pair == 'timm':
        models = timm_classifier(3, depth=3), timm_classifier(6, depth=4)
    else:
        models = mmpretrain_classifier(3, 3), mmpretrain_classifier(6, 4, backbone='DeiT3')
    model = distiller(*models, layers=layers)
    losses = model(*batch(), mode='loss')
    assert set(losses) == {'loss_cls', *(f'loss_{name}' for name in NAMES)}
    for name, loss in losses.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        grads = [p.grad.abs().sum() for p in model.student.parameters() if p.grad is not None]
        assert loss > 0 and sum(grads) > 0, name
        learned = [p for p in model.losses.parameters() if p.grad is not None]
        own = model.losses[name.removeprefix('loss_')] if name != 'loss_cls' else None
        assert len(learned) == (len(list(own.parameters())) if own else 0)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_default_weights_are_of_one_order():
    losses = distiller()(*batch(), mode='loss')
    assert all(0.02 < losses[f'loss_{name}'] < 2 for name in NAMES)


def test_the_weight_is_a_factor_of_the_loss():
    model = distiller()
    images, samples = batch()
    before = model(images, samples, mode='loss')
    for loss in model.losses.values():
        loss.weight = 3 * loss.weight
    after = model(images, samples, mode='loss')
    for name in NAMES:
        assert_close(after[f'loss_{name}'], 3 * before[f'loss_{name}'])


@pytest.mark.parametrize('name', NAMES)
def test_training_in_bfloat16_brings_each_loss_down(name):
    model = distiller()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    images, samples = batch()
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        with torch.autocast('cpu', torch.bfloat16):
            values.append(model(images, samples, mode='loss')[f'loss_{name}'])
        values[-1].backward()
        optimizer.step()
    assert values[0].dtype == torch.float32
    assert all(value.isfinite() for value in values) and values[-1] < 0.95 * values[0]


@pytest.mark.slow
def test_through_torch_compile(monkeypatch):
    model = distiller()
    images, _ = batch()
    student = model.distillation.record_student(model.student, images)
    teacher = model.teacher_output(images)
    monkeypatch.delenv('TORCHDYNAMO_DISABLE')  # as the suite sets it
    torch._dynamo.reset()
    counters.clear()
    for name, loss in model.losses.items():
        with torch._dynamo.config.patch(disable=False):
            value = torch.compile(loss, backend='eager')(student, teacher, None)
        assert_close(value, loss(student, teacher, None), msg=name)
    assert counters['stats']['unique_graphs'] >= len(NAMES)


def test_state_dict_round_trip_and_deepcopy():
    model = distiller()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    images, samples = batch()
    model.train_step(dict(inputs=list(images), data_samples=samples), wrapper)
    loaded = distiller()
    loaded.load_state_dict(model.state_dict())
    loaded.distillation.teacher = model.distillation.teacher
    copied = copy.deepcopy(model)
    expected = model(images, samples, mode='loss')
    for other in (loaded, copied):
        assert_close(other(images, samples, mode='loss'), expected, rtol=0, atol=0)
    copied(images, samples, mode='loss')['loss_VkDLoss'].backward()
    assert copied.losses['VkDLoss'].projectors[0].parametrizations.weight.original.grad is not None


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


@pytest.mark.slow
def test_interrupted_and_resumed_is_bit_identical(data, tmp_path):
    """Projectors made by bind() are in the optimiser and in checkpoints."""
    options = {f'model.losses.{name}': cfg for name, cfg in configs(48, 96).items()}
    options['randomness.seed'] = 0
    stopped = fashion.runner('shd_only', tmp_path / 'b', data, options)
    stopped.register_hook(fashion.StopAt(iteration=6))  # 4 steps an epoch: in the second
    with pytest.raises(fashion.Interrupted):
        stopped.train()
    resumed = fashion.runner('shd_only', tmp_path / 'b', data, {**options, 'resume': True})
    resumed.train()
    whole = fashion.runner('shd_only', tmp_path / 'a', data, options)
    whole.train()
    expected, weights = (
        torch.load(tmp_path / folder / 'epoch_2.pth', weights_only=True)['state_dict']
        for folder in 'ab'
    )
    assert {name.split('.')[1] for name in weights if name.startswith('losses.')} == set(PROJECTED)
    assert expected.keys() == weights.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name
    projection = resumed.model.losses['VkDLoss'].projectors[0].weight
    assert_close(projection.mT @ projection, torch.eye(48), rtol=0, atol=1e-5)
    history = whole.message_hub.get_scalar('train/loss_VkDLoss').data[0]
    assert len(history) == 8 and history[-1] < history[0]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(weight=-1), r'weight=-1 must be a finite number, not negative'),
        (dict(weight=math.nan), r'weight=nan must be'),
        (dict(weight=math.inf), r'weight=inf must be'),
        (dict(weight='1'), r"weight='1' must be"),
        (dict(layers='first'), r"layers='first' must be 'uniform', 'last' or a list"),
        (dict(layers=[]), r'layers=\[\] must be'),
        (dict(layers=[1, 2]), r'layers=\[1, 2\] must be'),
    ],
)
def test_bad_hyper_parameters_are_named(name, kwargs, message):
    with pytest.raises(ConfigError, match=rf'^{name}\.{message}') as caught:
        MODELS.build({**configs()[name], **kwargs})
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', NAMES)
def test_layers_outside_a_model_are_named_at_the_start(name):
    loss = MODELS.build({**configs()[name], 'layers': [(1, 9)]})
    models = (MODELS.build(mmpretrain_classifier(heads)) for heads in (3, 6))
    anatomies = [Anatomy(m, r) for m, r in zip(models, ('student', 'teacher'), strict=True)]
    with pytest.raises(ConfigError, match=rf'{name}\.layers names layer 9 of the teacher'):
        loss.bind(*anatomies)


@pytest.mark.parametrize('name', NAMES)
def test_exported_and_described(name):
    assert name in shd_vit.__all__ and getattr(shd_vit, name) is MODELS.get(name)
    loss = MODELS.build({**configs()[name], 'weight': 0.25})
    assert 'weight=0.25' in loss.extra_repr() and loss.weight == 0.25
    model = build_distiller(losses={'x': {**configs()[name], 'layers': [(1, 2)]}})
    assert '1<-2' in model.losses['x'].extra_repr()
