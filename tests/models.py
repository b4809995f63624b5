"""Tiny models, losses and batches that tests share."""

import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import shd_vit.hosts.mmpretrain  # noqa: F401  (registers)

TIMM_ARCH = dict(img_size=32, patch_size=8, depth=2, num_classes=10)


def mmpretrain_classifier(heads=3, layers=2, backbone='VisionTransformer', **kwargs):
    arch = dict(
        embed_dims=8 * heads, num_layers=layers, num_heads=heads, feedforward_channels=16 * heads
    )
    return dict(
        type='ImageClassifier',
        backbone=dict(type=backbone, arch=arch, img_size=32, patch_size=8),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=10,
            in_channels=8 * heads,
            init_cfg=dict(type='TruncNormal', layer='Linear', std=0.2),
        ),
        **kwargs,
    )


def timm_classifier(heads=3, **kwargs):
    arch = {**TIMM_ARCH, **kwargs, 'embed_dim': 8 * heads, 'num_heads': heads}
    return dict({'type': 'TimmClassifier', 'model_name': 'vit_tiny_patch16_224', **arch})


def all_losses(student_heads=3, teacher_heads=6):
    return dict(
        vitkd=dict(
            type='ViTKDLoss', student_dims=8 * student_heads, teacher_dims=8 * teacher_heads
        ),
        nkd=dict(type='NKDLoss'),
        kd=dict(type='KDLoss', temperature=4.0),
        shd=dict(type='SHDLoss'),
    )


def distiller_config(student=None, teacher=None, losses=None, **kwargs):
    teacher = teacher or mmpretrain_classifier(6, backbone='DeiT3')
    return dict(
        type='ViTDistiller',
        student=student or mmpretrain_classifier(3),
        teacher={'checkpoint': None, **teacher},
        losses=all_losses() if losses is None else losses,
        **kwargs,
    )


def build_distiller(*args, **kwargs):
    distiller = MODELS.build(distiller_config(*args, **kwargs))
    distiller.init_weights()
    return distiller


def batch(size=4, channels=3, mixed=False):
    """Images (size, channels, 32, 32) and data samples with labels, or with mixed scores."""
    images = torch.randn(size, channels, 32, 32)
    samples = [DataSample().set_gt_label(i % 10) for i in range(size)]
    if mixed:
        for sample in samples:
            sample.set_gt_score(torch.rand(10).softmax(0))
    return images, samples
