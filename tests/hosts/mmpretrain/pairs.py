"""Teachers and students of many families and libraries, with random weights.

As a script it makes the table of docs/pairs.md, with models of the published shapes:

    PYTHONPATH=. python tests/hosts/mmpretrain/pairs.py pairs.md
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import MMLogger

from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.lab.pairs import HEADINGS, pair_of, row
from shd_vit.lab.report import show


class Size(NamedTuple):
    """How large models are.

    Attributes:
        image: Side of the images.
        patch: Side of a ViT's patches; a Swin's are a quarter.
        head: Width of a ViT's heads; a Swin's are half as wide.
        window: Side of a Swin's windows, in patches.
        fewer: What the published number of layers is divided by, down to 2.
        classes: Number of classes.
    """

    image: int
    patch: int
    head: int
    window: int
    fewer: int
    classes: int

    def depth(self, published: int) -> int:
        return max(2, published // self.fewer)


PUBLISHED = Size(image=224, patch=16, head=64, window=7, fewer=1, classes=1000)
TINY = Size(image=32, patch=8, head=8, window=2, fewer=3, classes=10)

# A classifier's config for ViTDistiller, of a size; what is needed on disk goes into the folder.
Model = Callable[[Size, Path], dict]


class Pair(NamedTuple):
    """Who learns from whom, and from which tokens (``tokens`` of SHDLoss)."""

    teacher: Model
    student: Model
    tokens: str = 'all'


def mmpretrain_vit(backbone: str, heads: int, head: str = 'VisionTransformerClsHead', **kwargs):
    """A ViT of 12 layers."""

    def config(size: Size, folder: Path) -> dict:
        width = size.head * heads
        arch = dict(
            embed_dims=width,
            num_layers=size.depth(12),
            num_heads=heads,
            feedforward_channels=4 * width,
        )
        return dict(
            type='ImageClassifier',
            backbone=dict(
                type=backbone, arch=arch, img_size=size.image, patch_size=size.patch, **kwargs
            ),
            head=dict(type=head, num_classes=size.classes, in_channels=width),
        )

    return config


def mmpretrain_swin(depth: int, heads: int) -> Model:
    """A Swin with ``depth`` layers in the third stage, and ``heads`` in the first."""

    def config(size: Size, folder: Path) -> dict:
        width = size.head // 2 * heads
        arch = dict(
            embed_dims=width,
            depths=[2, 2, size.depth(depth), 2],
            num_heads=[heads * 2**stage for stage in range(4)],
        )
        return dict(
            type='ImageClassifier',
            backbone=dict(
                type='SwinTransformer',
                arch=arch,
                img_size=size.image,
                patch_size=size.patch // 4,
                window_size=size.window,
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=size.classes, in_channels=8 * width),
        )

    return config


def timm_vit(name: str, heads: int) -> Model:
    """A ViT of 12 layers, of whatever class ``name`` has."""

    def config(size: Size, folder: Path) -> dict:
        return dict(
            type='TimmClassifier',
            model_name=name,
            img_size=size.image,
            patch_size=size.patch,
            embed_dim=size.head * heads,
            depth=size.depth(12),
            num_heads=heads,
            num_classes=size.classes,
        )

    return config


def timm_swin(depth: int, heads: int) -> Model:
    """As :func:`mmpretrain_swin`."""

    def config(size: Size, folder: Path) -> dict:
        return dict(
            type='TimmClassifier',
            model_name='swin_tiny_patch4_window7_224',
            img_size=size.image,
            patch_size=size.patch // 4,
            window_size=size.window,
            embed_dim=size.head // 2 * heads,
            depths=(2, 2, size.depth(depth), 2),
            num_heads=tuple(heads * 2**stage for stage in range(4)),
            num_classes=size.classes,
        )

    return config


def hugging_face(name: str, heads: int) -> Model:
    """A ViT of 12 layers, by the name of its configuration class."""

    def config(size: Size, folder: Path) -> dict:
        import transformers

        transformers.logging.set_verbosity_error()
        path = folder / f'{name}-{heads}'
        getattr(transformers, f'{name}Config')(
            architectures=[f'{name}ForImageClassification'],  # DeiT has two
            hidden_size=size.head * heads,
            num_hidden_layers=size.depth(12),
            num_attention_heads=heads,
            intermediate_size=4 * size.head * heads,
            image_size=size.image,
            patch_size=size.patch,
            num_labels=size.classes,
        ).save_pretrained(path)
        return dict(type='HuggingFaceClassifier', model_name=str(path))

    return config


DEIT_TI = mmpretrain_vit('VisionTransformer', 3)
DEIT3_S = mmpretrain_vit('DeiT3', 6)
TIMM_DEIT_TI = timm_vit('deit_tiny_patch16_224', 3)
TIMM_DISTILLED_DEIT_TI = timm_vit('deit_tiny_distilled_patch16_224', 3)
DINOV2_S_REG = hugging_face('Dinov2WithRegisters', 6)

PAIRS = {
    'DeiT3-S -> DeiT-Ti': Pair(DEIT3_S, DEIT_TI),
    'DeiT3-S -> DeiT-Ti, both timm': Pair(timm_vit('deit3_small_patch16_224', 6), TIMM_DEIT_TI),
    'ViT-B -> DeiT-Ti': Pair(mmpretrain_vit('VisionTransformer', 12), TIMM_DEIT_TI),
    'BEiT-B -> BEiT, 3 heads': Pair(
        timm_vit('beit_base_patch16_224', 12),
        mmpretrain_vit('BEiTViT', 3, 'LinearClsHead', use_abs_pos_emb=False),
    ),
    'BEiT-B -> DeiT-Ti': Pair(
        mmpretrain_vit('BEiTViT', 12, 'LinearClsHead', use_abs_pos_emb=False), DEIT_TI
    ),
    'Swin-S -> Swin-T': Pair(mmpretrain_swin(18, 3), mmpretrain_swin(6, 3)),
    'Swin-S -> Swin-T, both timm': Pair(timm_swin(18, 3), timm_swin(6, 3)),
    'Swin-B -> Swin-T': Pair(timm_swin(18, 4), mmpretrain_swin(6, 3)),
    'ViT-B, Hugging Face -> DeiT-Ti': Pair(hugging_face('ViT', 12), TIMM_DEIT_TI),
    'DeiT3-S -> ViT-Ti, Hugging Face': Pair(DEIT3_S, hugging_face('ViT', 3)),
    'DeiT3-S -> distilled DeiT-Ti': Pair(DEIT3_S, TIMM_DISTILLED_DEIT_TI, 'shared'),
    'distilled DeiT-S -> distilled DeiT-Ti': Pair(
        mmpretrain_vit('DistilledVisionTransformer', 6, 'DeiTClsHead'), TIMM_DISTILLED_DEIT_TI
    ),
    'DINOv2-S with registers -> DeiT-Ti': Pair(DINOV2_S_REG, DEIT_TI, 'shared'),
    'DINOv2-S with registers -> distilled DeiT-Ti': Pair(
        DINOV2_S_REG, TIMM_DISTILLED_DEIT_TI, 'patches'
    ),
}


def build(name: str, size: Size, folder: Path) -> ViTDistiller:
    """A pair as a distiller with SHD alone; Hugging Face's configurations go into the folder."""
    pair = PAIRS[name]
    return pair_of(pair.teacher(size, folder), pair.student(size, folder), pair.tokens)


if __name__ == '__main__':
    MMLogger.get_current_instance().setLevel(logging.ERROR)  # every weight's first value
    with tempfile.TemporaryDirectory() as folder:
        made = (row(name, build(name, PUBLISHED, Path(folder)), 224) for name in PAIRS)
        show([('Pairs', [list(HEADINGS), *made])], *sys.argv[1:])
