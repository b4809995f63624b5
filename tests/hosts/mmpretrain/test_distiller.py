import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from models import (
    all_losses,
    batch,
    build_distiller,
    distiller_config,
    mmpretrain_classifier,
    timm_classifier,
)
from torch.testing import assert_close

from shd_vit.errors import CheckpointError, ConfigError, NonFiniteLoss, UnsupportedAttention
from shd_vit.hosts.mmpretrain.checkpoint import fit_names

PAIRS = {
    'mmpretrain <- mmpretrain': (mmpretrain_classifier(3), mmpretrain_classifier(6)),
    'mmpretrain <- timm': (mmpretrain_classifier(3), timm_classifier(6)),
    'timm <- mmpretrain': (timm_classifier(3), mmpretrain_classifier(6, backbone='DeiT3')),
    'timm <- timm': (timm_classifier(3), timm_classifier(6, qk_norm=True)),
    'deeper teacher': (mmpretrain_classifier(3), mmpretrain_classifier(6, layers=5)),
}


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('mixed', [False, True])
def test_every_loss_reaches_the_student(pair, mixed):
    student, teacher = PAIRS[pair]
    distiller = build_distiller(student, teacher)
    distiller.train()
    losses = distiller(*batch(mixed=mixed), mode='loss')
    assert set(losses) == {'loss_cls', 'loss_vitkd', 'loss_nkd', 'loss_kd', 'loss_shd'}
    for name, loss in losses.items():
        distiller.zero_grad()
        loss.backward(retain_graph=True)
        grads = [p.grad.abs().sum() for p in distiller.student.parameters() if p.grad is not None]
        assert sum(grads) > 0, name
    assert all(p.grad is None for p in distiller.teacher.parameters())


def test_own_loss_is_the_students():
    distiller = build_distiller()
    images, samples = batch()
    expected = distiller.student(images, samples, mode='loss')['loss']
    assert_close(distiller(images, samples, mode='loss')['loss_cls'], expected)


def test_total_is_the_sum_of_all_losses():
    distiller = build_distiller()
    losses = distiller(*batch(), mode='loss')
    total, logged = distiller.parse_losses(losses)
    assert_close(total, sum(losses.values()))
    assert set(logged) == {'loss', *losses}


def test_teacher_is_frozen_in_eval_and_outside_the_tree():
    distiller = build_distiller(teacher=mmpretrain_classifier(6, backbone='DeiT3'))
    for mode in (True, False, True):
        distiller.train(mode)
        assert not any(m.training for m in distiller.teacher.modules())
    assert not any(p.requires_grad for p in distiller.teacher.parameters())
    inside = {id(p) for p in distiller.parameters()}
    assert not inside & {id(p) for p in distiller.teacher.parameters()}
    assert {name.split('.')[0] for name in distiller.state_dict()} == {'student', 'losses'}


def test_drop_path_of_the_teacher_is_off_while_training():
    teacher = mmpretrain_classifier(6)
    teacher['backbone']['drop_path_rate'] = 0.9
    distiller = build_distiller(teacher=teacher, losses=dict(kd=dict(type='KDLoss')))
    distiller.train()
    images, samples = batch()
    first, second = (distiller(images, samples, mode='loss')['loss_kd'] for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


def test_predict_and_tensor_are_the_student_alone(monkeypatch):
    distiller = build_distiller()
    distiller.eval()
    images, samples = batch()
    monkeypatch.setattr(distiller.teacher, 'forward', None)
    assert_close(distiller(images), distiller.student(images))
    predictions = distiller(images, samples, mode='predict')
    assert_close(predictions[0].pred_score, distiller.student(images)[0].softmax(-1))
    assert not distiller.distillation.student_bank._store.kept


def test_to_moves_and_casts_the_teacher_along():
    distiller = build_distiller()
    distiller.double()
    assert next(distiller.teacher.parameters()).dtype == torch.float64
    distiller.to('meta')
    assert next(distiller.teacher.parameters()).device.type == 'meta'


def test_teacher_sees_images_in_its_own_normalisation():
    preprocessor = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 8.0])
    own = dict(mean=[1.0, 2.0, 3.0], std=[5.0, 6.0, 7.0])
    teacher = mmpretrain_classifier(6, data_preprocessor=own)
    distiller = build_distiller(teacher=teacher, data_preprocessor=preprocessor)
    raw = 255 * torch.rand(2, 3, 32, 32)
    seen = []
    distiller.teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    data = distiller.data_preprocessor(dict(inputs=raw, data_samples=batch(2)[1]), training=True)
    distiller(**data, mode='loss')
    expected = (raw - torch.tensor(own['mean']).view(3, 1, 1)) / torch.tensor(own['std']).view(
        3, 1, 1
    )
    assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_equal_normalisation_leaves_images_alone():
    assert (
        build_distiller(data_preprocessor=dict(mean=[1.0], std=[2.0])).teacher_images.renormalise
        is None
    )


def test_batches_are_mixed_once_for_both_models():
    distiller = build_distiller(
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]),
        data_preprocessor=dict(num_classes=10),
    )
    seen = []
    for model in (distiller.student, distiller.teacher):
        model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    raw = torch.rand(4, 3, 32, 32)
    data = distiller.data_preprocessor(dict(inputs=raw, data_samples=batch()[1]), training=True)
    distiller(**data, mode='loss')
    assert_close(seen[0], seen[1], rtol=0, atol=0)
    assert (seen[0] - raw).abs().max() > 0.01
    assert (data['data_samples'][0].gt_score > 0).sum() >= 1


@pytest.mark.parametrize('pair', PAIRS)
def test_state_dict_round_trip_and_students_own_names(pair):
    first, second = (build_distiller(*PAIRS[pair]) for _ in range(2))
    state = first.state_dict()
    second.load_state_dict(state)
    for name, weight in second.state_dict().items():
        assert_close(weight, state[name])
    alone = MODELS.build(PAIRS[pair][0])
    exported = fit_names(state, alone.state_dict())
    assert exported.keys() == first.student.state_dict().keys()
    alone.load_state_dict(exported)
    first.eval(), alone.eval()
    images, _ = batch()
    assert_close(alone(images), first(images), rtol=0, atol=0)


def test_ema_copy_shares_the_teacher_and_leaves_the_taps_alone():
    distiller = build_distiller(timm_classifier(3), timm_classifier(6))
    ema = ExponentialMovingAverage(distiller)
    assert ema.module.teacher is distiller.teacher
    assert ema.module.student is not distiller.student
    assert set(ema.module.state_dict()) == set(distiller.state_dict())
    images, samples = batch()
    with distiller.distillation.student_bank.record():
        distiller(images)
        ema.module(images)
    distiller.distillation.student_bank.collect()
    distiller(images, samples, mode='loss')
    ema.update_parameters(distiller)


def test_a_model_without_attention_teaches_logits():
    cnn = dict(type='TimmClassifier', model_name='resnet10t', num_classes=10)
    losses = dict(kd=dict(type='KDLoss'), nkd=dict(type='NKDLoss'))
    build_distiller(teacher=cnn, losses=losses)(*batch(), mode='loss')
    with pytest.raises(UnsupportedAttention, match='the teacher has no attention layer'):
        build_distiller(teacher=cnn, losses=dict(shd=dict(type='SHDLoss')))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_is_named_before_the_step(value):
    distiller = build_distiller()
    losses = distiller(*batch(), mode='loss')
    losses['loss_shd'] = losses['loss_shd'] * value
    with pytest.raises(NonFiniteLoss, match=f'loss_shd={value} is not finite'):
        distiller.parse_losses(losses)


def test_a_label_outside_the_classes_is_named():
    images, samples = batch()
    samples[1].set_gt_label(12)
    with pytest.raises(ConfigError, match=r'label 12 of sample 1 is none of the 10 classes'):
        build_distiller(losses=dict(shd=dict(type='SHDLoss')))(images, samples, mode='loss')


@pytest.mark.parametrize(('labels', 'shown'), [(None, 'no'), ([], 'no'), ([1, 2], '2')])
def test_a_sample_without_its_one_label_is_named(labels, shown):
    images, samples = batch()
    samples[2] = DataSample() if labels is None else DataSample().set_gt_label(labels)
    with pytest.raises(ConfigError, match=f'sample 2 of the batch has {shown} labels'):
        build_distiller(losses=dict(shd=dict(type='SHDLoss')))(images, samples, mode='loss')


def test_training_with_a_teacher_that_was_never_loaded_is_refused():
    distiller = MODELS.build(distiller_config())
    with pytest.raises(RuntimeError, match='init_weights'):
        distiller(*batch(), mode='loss')


def broken(**kwargs):
    return {**distiller_config(), **kwargs}


def without_checkpoint():
    cfg = distiller_config()
    del cfg['teacher']['checkpoint']
    return cfg


AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8)])
REFUSED = {
    'no teacher.checkpoint': (without_checkpoint(), 'model.teacher.checkpoint is missing'),
    'augments that would be dropped': (
        broken(student=mmpretrain_classifier(3, train_cfg=AUGMENTS)),
        r'model.student.train_cfg.augments.*Move it to model.train_cfg',
    ),
    'an unknown loss': (
        broken(losses=dict(shd=dict(type='SDHLoss'))),
        r"model.losses.shd: type='SDHLoss'; allowed types are "
        r'AttentionTransferLoss, FeatureProjectorLoss, KDLoss, NKDLoss, OutputLoss, SHDLoss, '
        r'SelfCorrelationLoss, ViTKDLoss, VkDLoss',
    ),
    'a loss that does not distil': (
        broken(losses=dict(x=dict(type='CrossEntropyLoss'))),
        "model.losses.x: type='CrossEntropyLoss'",
    ),
    'a reserved name': (broken(losses=dict(cls=dict(type='KDLoss'))), 'model.losses.cls'),
    'an unknown layer': (
        broken(losses=dict(shd=dict(type='SHDLoss', layers=[(1, 9)]))),
        'layer 9 of the teacher, which has layers 1 to 2',
    ),
    'more heads than the teacher': (
        broken(student=mmpretrain_classifier(12), losses=dict(shd=dict(type='SHDLoss'))),
        'has 12 heads, teacher layer 1 has 6',
    ),
    'wrong widths': (
        broken(losses=dict(v=dict(type='ViTKDLoss', student_dims=24, teacher_dims=99))),
        'ViTKDLoss.teacher_dims=99, but the teacher is 48 wide',
    ),
    'a config that does not exist': (
        broken(teacher=dict(config='no/such.py', checkpoint=None)),
        "model.teacher.config='no/such.py' does not exist",
    ),
    'a model without type': (broken(student=dict(backbone=1)), "model.student has neither 'type'"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_work_is_refused_at_the_start_in_one_line(case):
    cfg, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        MODELS.build(copy.deepcopy(cfg))
    assert '\n' not in str(caught.value)


def test_a_missing_or_foreign_teacher_checkpoint_is_refused(tmp_path):
    distiller = MODELS.build(
        distiller_config(
            teacher=dict(mmpretrain_classifier(6), checkpoint=str(tmp_path / 'gone.pth'))
        )
    )
    with pytest.raises(CheckpointError, match=r"gone.pth' does not exist"):
        distiller.init_weights()
    foreign = MODELS.build(mmpretrain_classifier(6, layers=1))
    torch.save(foreign.state_dict(), tmp_path / 'gone.pth')
    with pytest.raises(CheckpointError, match=r'does not fit ImageClassifier: \d+ weights missing'):
        distiller.init_weights()


def test_checkpoints_of_teacher_and_student_are_loaded(tmp_path):
    teacher, student = (MODELS.build(mmpretrain_classifier(h)) for h in (6, 3))
    for name, model in (('teacher', teacher), ('student', student)):
        torch.save(dict(state_dict=model.state_dict()), tmp_path / f'{name}.pth')
    distiller = build_distiller(
        dict(mmpretrain_classifier(3), checkpoint=str(tmp_path / 'student.pth')),
        dict(mmpretrain_classifier(6), checkpoint=str(tmp_path / 'teacher.pth')),
    )
    for ours, theirs in ((distiller.teacher, teacher), (distiller.student, student)):
        for name, weight in theirs.state_dict().items():
            assert_close(ours.state_dict()[name], weight)


def test_a_distilled_student_can_teach(tmp_path):
    first = build_distiller(student=mmpretrain_classifier(6), losses={})
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'first.pth')
    second = build_distiller(
        teacher=dict(mmpretrain_classifier(6), checkpoint=str(tmp_path / 'first.pth'))
    )
    images, _ = batch()
    first.eval()
    assert_close(second.teacher(images), first(images))


def test_the_mmpretrain_config_path_form():
    """The real pair's configs, as in configs/deit_tiny_shd.py, with random weights."""
    cfg = dict(
        type='ViTDistiller',
        student=dict(config='mmpretrain::deit/deit-tiny_4xb256_in1k.py', train_cfg=None),
        teacher=dict(config='mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py', checkpoint=None),
        losses=dict(shd=dict(type='SHDLoss')),
    )
    distiller = MODELS.build(cfg)
    assert distiller.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )
    assert len(distiller.losses.shd.pairs) == 12
    cfg['student'] = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
    with pytest.raises(ConfigError, match=r'student\.train_cfg\.augments'):
        MODELS.build(cfg)


def test_summary_names_models_pairs_and_weights():
    from shd_vit.distillation import summary

    losses = all_losses() | dict(shd=dict(type='SHDLoss', beta=0.25))
    text = summary(build_distiller(losses=losses).distillation)
    for part in (
        'ImageClassifier(DeiT3)',
        'ImageClassifier(VisionTransformer)',
        'vitkd: ViTKDLoss',
        'weight=0.25',
        '2<-2',
        'gamma=1.5',
    ):
        assert part in text


def hugging_face_classifier(folder, name, heads):
    """mmpretrain's HuggingFaceClassifier, from a configuration on disk."""
    import transformers

    config = getattr(transformers, f'{name}Config')(
        hidden_size=8 * heads,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=16 * heads,
        image_size=32,
        patch_size=8,
        num_labels=10,
    )
    config.save_pretrained(folder / name)
    return dict(type='HuggingFaceClassifier', model_name=str(folder / name))


@pytest.mark.parametrize('teacher_name', ['Dinov2', 'ViT'])
def test_hugging_face_models_teach_and_learn(teacher_name, tmp_path):
    losses = all_losses()
    distiller = build_distiller(
        student=hugging_face_classifier(tmp_path / 'student', 'ViT', 3),
        teacher=hugging_face_classifier(tmp_path / 'teacher', teacher_name, 6),
        losses=losses,
    )
    distiller.train()
    before = distiller(*batch(), mode='loss')
    assert before['loss_shd'] > 0 < before['loss_vitkd']
    before['loss_shd'].backward()
    projections = [p for n, p in distiller.student.named_parameters() if 'q_proj.weight' in n]
    assert len(projections) == 2 and all(p.grad.abs().sum() > 0 for p in projections)
    # Saved under the names of the classifier alone, and loaded again.
    state = distiller.state_dict()
    distiller.student.load_state_dict(
        {n.removeprefix('student.'): t for n, t in state.items() if n.startswith('student.')}
    )
    again = build_distiller(
        student=hugging_face_classifier(tmp_path / 'again', 'ViT', 3), losses=losses
    )
    again.load_state_dict(state)
    images, _ = batch()
    for model in (distiller, again):
        model.eval()
    torch.testing.assert_close(again(images), distiller(images))
