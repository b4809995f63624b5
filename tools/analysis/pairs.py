"""Which models can be paired: SHD between teachers and students of many families and libraries.

Models have the published shapes and random weights, those of attention large enough for maps that
are far from uniform. A row is ok if the loss is finite, if its gradient reaches the queries and
keys of each student layer that learns and nothing of the teacher, and if a small step along it
lowers the loss.

python tools/analysis/pairs.py --out pairs.md
python tools/analysis/pairs.py Swin distilled --tiny
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from rich.progress import track
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.cli import run_tool
from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.losses import ModelOutput
from shd_vit.taps import Anatomy

sys.path.append(str(Path(__file__).resolve().parents[1]))
from report import show

HEADINGS = (
    'teacher -> student',
    'classes',
    'layers, student<-teacher',
    'heads',
    'prefix tokens compared',
    'SHD loss',
    'after a step',
    'ok',
)


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


def main() -> None:
    args = _parse()
    chosen = [name for name in PAIRS if not args.names or any(n in name for n in args.names)]
    if not chosen:
        raise ConfigError(f'{args.names} name no pair: parts of {", ".join(PAIRS)} are allowed')
    if args.images < 1:
        raise ConfigError(f'--images={args.images} must be at least 1')
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    size = TINY if args.tiny else PUBLISHED
    rows = [row(name, size, args.images) for name in track(chosen, transient=True)]
    show([('Pairs', [list(HEADINGS), *rows])], args.out)


def row(name: str, size: Size, num_images: int) -> list[str]:
    """The table's row of a pair, measured at seed 0."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        distiller = build(PAIRS[name], size, Path(folder))
    images = torch.randn(num_images, 3, size.image, size.image)
    before, reached = descend(distiller, images)
    after = shd_loss(distiller, images)[0].item()
    loss = distiller.losses['shd']
    prefix = loss.alignment.prefix
    return [
        name,
        f'{class_of(distiller.teacher)} -> {class_of(distiller.student)}',
        layers_of(loss.pairs),
        heads_of(distiller),
        '-' if prefix is None else ', '.join(prefix) or 'none',
        f'{before:.4f}',
        f'{after:.4f}',
        'yes' if reached and 0 < after < before else 'no',
    ]


def build(pair: Pair, size: Size, folder: Path) -> ViTDistiller:
    """The pair as a distiller with SHD alone, in eval mode: neither drop-path nor dropout.

    Args:
        pair: Who learns from whom.
        size: How large both are.
        folder: For configurations of Hugging Face models.
    """
    distiller = MODELS.build(
        dict(
            type='ViTDistiller',
            teacher=dict(pair.teacher(size, folder), checkpoint=None),
            student=pair.student(size, folder),
            losses=dict(shd=dict(type='SHDLoss', tokens=pair.tokens, compile=False)),
        )
    )
    distiller.init_weights()
    for model in (distiller.teacher, distiller.student):
        sharpen(model)
    return distiller.eval()


@torch.no_grad()
def sharpen(model: nn.Module) -> None:
    """Draw the attention weights anew, so that logits and position biases have a spread near 1."""
    for layer in Anatomy(model).layers:
        for name, parameter in layer.attn.named_parameters():
            if 'bias' in name:
                parameter.normal_()
            elif parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)


def shd_loss(distiller: ViTDistiller, images: Tensor) -> tuple[Tensor, ModelOutput]:
    """The loss, and what was recorded of the student."""
    student = distiller.distillation.record_student(distiller.student, images)
    return distiller.losses['shd'](student, distiller.teacher_output(images), None), student


def descend(distiller: ViTDistiller, images: Tensor) -> tuple[float, bool]:
    """Take one step along the loss's gradient.

    Returns:
        The loss before, and whether its gradient reached queries and keys of all layers that learn
        and nothing of the teacher.
    """
    loss, student = shd_loss(distiller, images)
    learning = [x for tap in student.attention.values() for x in (tap.q, tap.k)]
    for x in learning:
        x.retain_grad()
    loss.backward()
    reached = all(x.grad is not None and x.grad.abs().sum() > 0 for x in learning)
    untouched = all(parameter.grad is None for parameter in distiller.teacher.parameters())
    moved = [p for p in distiller.student.parameters() if p.grad is not None]
    with torch.no_grad():
        # A first-order prediction of 1 % less.
        rate = 0.01 * loss / sum(p.grad.square().sum() for p in moved)
        for parameter in moved:
            parameter -= rate * parameter.grad
    return loss.item(), reached and untouched


def class_of(classifier: nn.Module) -> str:
    """The classifier's and the model's inside."""
    inner = getattr(classifier, 'backbone', getattr(classifier, 'model', None))
    return f'{type(classifier).__name__}({type(inner).__name__})'


def layers_of(pairs: list[tuple[int, int]]) -> str:
    """As '1<-1, 2<-3', or '1-12' where all numbers are equal."""
    if all(s == t for s, t in pairs):
        return f'{pairs[0][0]}-{pairs[-1][0]}'
    return ', '.join(f'{s}<-{t}' for s, t in pairs)


def heads_of(distiller: ViTDistiller) -> str:
    """Of the teacher and of the student, by stage where stages differ."""
    heads = [dict.fromkeys(Anatomy(m).heads) for m in (distiller.teacher, distiller.student)]
    return ' -> '.join(', '.join(map(str, each)) for each in heads)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('names', nargs='*', metavar='NAME', help='parts of pairs (default: all)')
    parser.add_argument('--images', type=int, default=1, help='in the batch (default: 1)')
    parser.add_argument('--tiny', action='store_true', help='small models of the same heads')
    parser.add_argument('--out', metavar='FILE', help='write the table as Markdown')
    return parser.parse_args()


if __name__ == '__main__':
    run_tool(main)
