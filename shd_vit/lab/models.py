"""From a distiller's config to its models with their weights."""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor

from shd_vit.distillation import FrozenTeacher
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.checkpoint import load_weights
from shd_vit.hosts.mmpretrain.cli import read_config
from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.pairing import ModelOutput
from shd_vit.taps import Anatomy, AttentionTap, TapBank


def analysis_parser(description: str) -> argparse.ArgumentParser:
    """A parser with what every analysis of a distiller's config takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="a distiller's config (model.type='ViTDistiller')")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings to override, such as model.teacher.checkpoint=FILE',
    )
    return parser


def teacher_parser(description: str, images: int, batch: int) -> argparse.ArgumentParser:
    """A parser with what analyses of a teacher over many images take besides.

    Args:
        description: What the tool does.
        images: Default of ``--images``.
        batch: Default of ``--batch``.
    """
    parser = analysis_parser(description)
    parser.add_argument(
        'checkpoint', nargs='?', help="the teacher's checkpoint (default: the config's)"
    )
    parser.add_argument('--images', type=int, default=images, help=f'how many (default: {images})')
    parser.add_argument(
        '--batch', type=int, default=batch, help=f'images at a time (default: {batch})'
    )
    parser.add_argument(
        '--split',
        choices=['train', 'test'],
        default='train',
        help='whose images, without augmentation (default: train)',
    )
    parser.add_argument(
        '--heads', type=int, metavar='N', help="heads to leave (default: the student's)"
    )
    parser.add_argument('--json', metavar='FILE', help='write the numbers')
    return parser


def student_heads(distiller: ViTDistiller) -> int:
    """Heads of every layer of the student.

    Raises:
        ConfigError: If its layers have different numbers.
    """
    heads = set(Anatomy(distiller.student, 'student').heads)
    if len(heads) > 1:
        raise ConfigError(
            f'the student has layers of {", ".join(map(str, sorted(heads)))} heads: say with '
            '--heads how many to leave'
        )
    return heads.pop()


def distiller_config(args: argparse.Namespace) -> Config:
    """The config named on the command line.

    Raises:
        ConfigError: If it has no student and teacher.
    """
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    # Warnings of what a checkpoint has in excess are wanted, tables of what is built are not.
    MMLogger.get_instance('analysis', log_level='WARNING')
    init_default_scope('mmpretrain')
    cfg = read_config(args.config, args.cfg_options)
    kind = cfg.get('model', {}).get('type')
    if kind != 'ViTDistiller':
        raise ConfigError(
            f"config {args.config!r}: model.type={kind!r} has no teacher; expected 'ViTDistiller'"
        )
    return cfg


def load_distiller(cfg: Config, teacher_checkpoint: str | None = None) -> ViTDistiller:
    """The config's student and teacher in eval mode, on the GPU if there is one.

    Of the losses it has one, 'shd': SHDLoss as it comes, with ``layers``, ``temperature`` and
    ``tokens`` of the config's, if that has one.

    Args:
        cfg: A distiller's.
        teacher_checkpoint: Instead of the config's.

    Raises:
        ConfigError: If the two cannot be distilled.
        CheckpointError: If a checkpoint is missing or does not fit.
    """
    model = cfg.copy().model
    model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    losses = (model.get('losses') or {}).values()
    given: dict = next((loss for loss in losses if loss.get('type') == 'SHDLoss'), {})
    settings = ('layers', 'temperature', 'tokens')
    model.losses = dict(
        shd=dict(type='SHDLoss', **{key: given[key] for key in settings if key in given})
    )
    if teacher_checkpoint:
        if isinstance(model.teacher, str):
            model.teacher = dict(config=model.teacher)
        model.teacher['checkpoint'] = teacher_checkpoint
    torch.manual_seed(0)  # initial weights of a student are the same whenever one looks
    distiller = MODELS.build(model)
    distiller.init_weights()
    return distiller.to(get_device()).eval()


def record(distiller: ViTDistiller, images: Tensor) -> tuple[ModelOutput, ModelOutput]:
    """What student and teacher make of images (B, C, h, w) that are normalised for the student."""
    student = distiller.distillation.record_student(distiller.student, images)
    return student, distiller.teacher_output(images)


@torch.no_grad()
def student_taps(distiller: ViTDistiller, file: str, inputs: Tensor) -> dict[int, AttentionTap]:
    """Taps by layer of the student with the weights of a file, or with its own."""
    student = distiller.student
    initial = copy.deepcopy(student.state_dict())
    if file != 'init':
        load_weights(student, file)
    taps = record(distiller, inputs)[0].attention
    student.load_state_dict(initial)
    return taps


@contextmanager
def teacher_taps(
    distiller: ViTDistiller,
) -> Iterator[tuple[TapBank, Callable[[Tensor], dict[int, AttentionTap]]]]:
    """All layers of the teacher: its bank, and taps by layer of images as in :func:`record`."""
    bank = TapBank(distiller.teacher, role='teacher')
    teacher = FrozenTeacher(distiller.teacher, bank)
    try:
        yield bank, lambda images: teacher(distiller.call_teacher, images).attention
    finally:
        bank.close()
