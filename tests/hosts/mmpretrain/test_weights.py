"""First weights and normalisations of classifiers, as their own libraries have them."""

import json

import fashion
import pytest
import timm
import torch
from mmengine.registry import RUNNERS
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from models import (
    TIMM_ARCH,
    batch,
    build_distiller,
    distiller_config,
    mmpretrain_classifier,
    timm_classifier,
)
from torch.testing import assert_close

from shd_vit.errors import ConfigError

SHD = dict(shd=dict(type='SHDLoss', compile=False))
KD = dict(kd=dict(type='KDLoss'))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file of weights, and the model that has them: 6 heads, 10 classes."""
    torch.manual_seed(42)
    model = timm.create_model('vit_tiny_patch16_224', **TIMM_ARCH, embed_dim=48, num_heads=6)
    file = tmp_path_factory.mktemp('weights') / 'teacher.pth'
    torch.save(model.state_dict(), file)
    return str(file), model


def pretrained(file, **kwargs):
    overlay = dict(file=file, num_classes=10)
    return timm_classifier(6, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)


def same_weights(ours, theirs):
    ours = ours.state_dict()
    return all(ours[name].equal(weight) for name, weight in theirs.state_dict().items())


def test_pretrained_weights_of_timm_are_kept(weights, caplog):
    file, model = weights
    distiller = build_distiller(pretrained(file), pretrained(file), losses=SHD)
    assert same_weights(distiller.teacher.model, model)
    assert same_weights(distiller.student.model, model)
    by_path = timm_classifier(6, checkpoint_path=file)
    assert same_weights(build_distiller(teacher=by_path, losses=SHD).teacher.model, model)


def test_the_log_says_where_weights_and_normalisation_come_from(weights, monkeypatch):
    file, _ = weights
    lines = []
    monkeypatch.setattr(
        'shd_vit.hosts.mmpretrain.distiller.print_log', lambda text, **kwargs: lines.append(text)
    )
    preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
    build_distiller(teacher=pretrained(file), losses=SHD, data_preprocessor=preprocessor)
    build_distiller(teacher=timm_classifier(6, checkpoint_path=file), losses=SHD)
    build_distiller(teacher=dict(timm_classifier(6), checkpoint=file), losses=SHD)
    assert 'student weights: random' in lines[0]
    assert 'teacher weights: pretrained, by timm' in lines[0]
    assert 'renormalised to mean 127.5 127.5 127.5, std 127.5 127.5 127.5' in lines[0]
    assert f'teacher weights: {file}, by timm' in lines[1]
    assert f'teacher weights: {file}\n' in lines[2]


def test_a_teacher_is_the_average_where_its_file_was_chosen_by_it(weights, tmp_path):
    """As timm reads a checkpoint that has both."""
    _, model = weights
    average = {name: weight + 1 for name, weight in model.state_dict().items()}
    both = dict(state_dict=model.state_dict(), state_dict_ema=average)
    torch.save(both, tmp_path / 'best.pth.tar')
    teacher = dict(timm_classifier(6), checkpoint=str(tmp_path / 'best.pth.tar'))
    ours = build_distiller(teacher=teacher, losses=SHD).teacher.model
    theirs = timm.create_model(
        'vit_tiny_patch16_224', **TIMM_ARCH, embed_dim=48, num_heads=6,
        checkpoint_path=str(tmp_path / 'best.pth.tar'),
    )  # fmt: skip
    assert same_weights(ours, theirs) and not same_weights(ours, model)


def test_a_plain_classifier_of_timm_is_trained_from_its_weights(weights, tmp_path):
    file, model = weights
    data = fashion.write_images(tmp_path / 'data')
    cfg = fashion.config('baseline', tmp_path / 'run', data)
    cfg.model = dict(pretrained(file), data_preprocessor=cfg.model.get('data_preprocessor'))
    runner = RUNNERS.build(cfg)
    runner._init_model_weights()
    assert same_weights(runner.model.model, model)


def test_a_random_classifier_of_a_pretrained_teacher_is_refused(weights):
    file, _ = weights
    teacher = dict(pretrained(file), num_classes=4)
    student = mmpretrain_classifier(3)
    student['head']['num_classes'] = 4
    message = r'have 10 classes, the model 4: its classifier is random, and model.losses.kd'
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(student, teacher, KD))
    build_distiller(student, teacher, SHD)
    trained = dict(timm_classifier(6), num_classes=4, checkpoint='anywhere.pth')
    MODELS.build(distiller_config(student, trained, KD))


def test_the_mean_and_std_that_timm_states_are_taken_where_the_config_states_none(weights):
    file, model = weights
    student = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 8.0], to_rgb=True)
    distiller = build_distiller(teacher=pretrained(file), losses=SHD, data_preprocessor=student)
    raw = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)  # BGR, as mmpretrain reads files
    samples = [DataSample().set_gt_label(0) for _ in raw]
    data = distiller.data_preprocessor(dict(inputs=raw, data_samples=samples), training=True)
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ('mean', 'std'))
    expected = model.eval()((raw.flip(1) / 255 - mean) / std)
    assert_close(distiller.teacher_output(data['inputs']).logits, expected, rtol=1e-4, atol=1e-5)
    stated = dict(pretrained(file), data_preprocessor=student)
    told = build_distiller(teacher=stated, losses=SHD, data_preprocessor=student)
    assert told.teacher_images.renormalise is None


def test_the_mean_and_std_of_a_processor_of_transformers(tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=6, intermediate_size=48,
        image_size=32, patch_size=8, num_labels=10,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    teacher = dict(type='HuggingFaceClassifier', model_name=str(tmp_path), pretrained=True)
    student = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 8.0], to_rgb=True)
    unknown = build_distiller(teacher=teacher, losses=SHD, data_preprocessor=student)
    assert unknown.teacher_images.renormalise is None  # and a line in the log
    assert same_weights(unknown.teacher.model, model)

    processor = dict(
        image_processor_type='ViTImageProcessor', do_resize=False, do_rescale=True,
        do_normalize=True, rescale_factor=1 / 255, image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.4],
    )  # fmt: skip
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(processor))
    distiller = build_distiller(teacher=teacher, losses=SHD, data_preprocessor=student)
    raw = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(0) for _ in raw]
    data = distiller.data_preprocessor(dict(inputs=raw, data_samples=samples), training=True)
    wanted = transformers.AutoImageProcessor.from_pretrained(tmp_path)(
        list(raw.flip(1)), return_tensors='pt'
    )
    expected = model(**wanted).logits
    assert_close(distiller.teacher_output(data['inputs']).logits, expected, rtol=1e-3, atol=1e-4)


def test_a_teacher_of_another_order_of_channels():
    student = dict(mean=[1.0, 2.0, 3.0], std=[2.0, 4.0, 8.0], to_rgb=False)
    own = dict(mean=[4.0, 5.0, 6.0], std=[3.0, 5.0, 7.0], to_rgb=True)
    teacher = mmpretrain_classifier(6, data_preprocessor=own)
    distiller = build_distiller(teacher=teacher, losses=SHD, data_preprocessor=student)
    raw = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(0) for _ in raw]
    pair = dict(inputs=raw, data_samples=samples)
    given = distiller.data_preprocessor(pair, training=True)['inputs']
    wanted = MODELS.build(dict(own, type='ClsDataPreprocessor'))(pair, training=True)['inputs']
    assert_close(distiller.teacher_output(given).logits, distiller.teacher(wanted))


def test_a_teacher_of_other_patches_at_its_own_image_size():
    """4 x 4 tokens of both: 8-pixel patches at 32, 7-pixel patches at 28."""
    teacher = timm_classifier(6, img_size=28, patch_size=7)
    student = timm_classifier(3)
    with pytest.raises(ConfigError, match=r'28 x 28 alone.*32 x 32: resize.*image_size=28'):
        MODELS.build(distiller_config(student, teacher, SHD))
    distiller = build_distiller(student, dict(teacher, image_size=28), SHD)
    images, samples = batch()
    losses = distiller(images, samples, mode='loss')
    assert losses['loss_shd'] > 0
    # A student of mmpretrain takes any size: known at the first batch alone.
    distiller = build_distiller(teacher=teacher, losses=SHD)
    with pytest.raises(ConfigError, match=r'the images are 32 x 32'):
        distiller(images, samples, mode='loss')


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_teacher_in_half_precision(dtype):
    losses = SHD | KD
    teacher = mmpretrain_classifier(6)
    half = build_distiller(teacher=dict(teacher, dtype=dtype), losses=losses)
    assert next(half.teacher.parameters()).dtype == getattr(torch, dtype)
    full = build_distiller(teacher=teacher, losses=losses)
    full.student.load_state_dict(half.student.state_dict())
    full.teacher.load_state_dict(half.teacher.state_dict())
    images, samples = batch()
    given, expected = (d(images, samples, mode='loss') for d in (half, full))
    for name in ('loss_shd', 'loss_kd'):
        assert_close(given[name], expected[name], rtol=0.05, atol=1e-3)
    sum(given.values()).backward()
    with pytest.raises(ConfigError, match=r"model.teacher.dtype='half' must be"):
        MODELS.build(distiller_config(teacher=dict(teacher, dtype='half')))


def test_a_head_with_a_loss_of_its_own_is_refused():
    student = mmpretrain_classifier(3)
    student['head'] = dict(type='ArcFaceClsHead', num_classes=10, in_channels=24)
    with pytest.raises(ConfigError, match=r'model.student.head ArcFaceClsHead computes its loss'):
        MODELS.build(distiller_config(student, losses=SHD))


def test_sigmoids_are_not_distilled_as_softmaxes():
    student = mmpretrain_classifier(3)
    student['head'] = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=24)
    for name in ('KDLoss', 'NKDLoss'):
        with pytest.raises(ConfigError, match=r'compares softmaxes over classes, but MultiLabel'):
            MODELS.build(distiller_config(student, losses=SHD | dict(kd=dict(type=name))))
    distiller = build_distiller(student, losses=SHD)
    images, _ = batch(2)
    samples = [DataSample().set_gt_label([1, 3]), DataSample().set_gt_label([])]
    losses = distiller(images, samples, mode='loss')
    expected = distiller.student(images, samples, mode='loss')['loss']
    assert_close(losses['loss_cls'], expected)
    assert losses['loss_shd'] > 0
