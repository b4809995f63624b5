"""Images of a training by timm's loaders, as a script's options name them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from timm.data import FastCollateMixup, create_dataset, create_loader
from torch.utils.data import DataLoader

from shd_vit.data.folders import check_same_classes, listed
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.hosts.timm.folders import image_folders, split_folder


def datasets(args: Namespace) -> tuple[Any, Any]:
    """Training and validation images; ``args.num_classes`` is filled in.

    Raises:
        ConfigError: If there is no such folder, or if the number of classes is not known or not
            that of the images.
        DatasetError: If a split is missing, or if the splits have different classes.
    """
    if '/' not in args.dataset and not Path(args.data_dir).is_dir():
        raise ConfigError(f'data_dir {args.data_dir!r} does not exist: expected train/ and val/')
    if '/' not in args.dataset:  # timm, too, reads a folder then
        train, val = image_folders(args.data_dir)
    else:
        train, val = (named_dataset(args, split) for split in ('train', 'validation'))
    classes, of_validation = (class_names(dataset) for dataset in (train, val))
    if classes and of_validation:
        check_same_classes(classes, of_validation, 'the training images', 'the validation images')
    if args.num_classes is None:
        if classes is None:
            raise ConfigError(f'--num-classes is needed for --dataset {args.dataset}')
        args.num_classes = len(classes)
    elif classes and args.num_classes != len(classes):
        raise ConfigError(
            f'--num-classes={args.num_classes}, but the training images have {len(classes)} '
            f'classes: {listed(classes)}'
        )
    return train, val


def named_dataset(args: Namespace, split: str) -> Any:
    """A split of what ``--dataset`` names."""
    if args.dataset.lower() in ('torch/folder', 'torch/image_folder'):
        split_folder(args.data_dir, split)  # timm would read all of the root
    try:
        return create_dataset(
            args.dataset,
            root=args.data_dir,
            split=split,
            is_training=split == 'train',
            batch_size=args.batch_size,
            seed=args.seed,
        )
    except (AssertionError, OSError, RuntimeError) as error:
        raise DatasetError(f'--dataset {args.dataset} in {args.data_dir!r}: {error}') from error


def class_names(dataset: Any) -> list[str] | None:
    """Names in the order of the labels, where a data set knows them."""
    for owner in (dataset, getattr(dataset, 'reader', None)):
        if labels := getattr(owner, 'class_to_idx', None):
            return sorted(labels, key=labels.get)
    return None


def loaders(
    args: Namespace, config: dict, train_set: Any, val_set: Any, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """timm's loaders, which normalise images for the student."""
    common: dict[str, Any] = dict(
        input_size=config['input_size'],
        interpolation=config['interpolation'],
        mean=config['mean'],
        std=config['std'],
        num_workers=args.workers,
        distributed=args.distributed,
        pin_memory=device.type == 'cuda',
        device=device,
    )
    mixup = None
    if args.mixup or args.cutmix:
        mixup = FastCollateMixup(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            label_smoothing=args.smoothing,
            num_classes=args.num_classes,
        )
    train = create_loader(
        train_set,
        batch_size=args.batch_size,
        is_training=True,
        no_aug=args.no_aug,
        re_prob=0.0 if args.no_aug else args.reprob,
        re_mode='pixel',
        color_jitter=args.color_jitter,
        auto_augment=args.aa,
        collate_fn=mixup,
        **common,
    )
    val = create_loader(
        val_set,
        batch_size=args.validation_batch_size or args.batch_size,
        crop_pct=config['crop_pct'],
        crop_mode=config['crop_mode'],
        **common,
    )
    if not len(train):
        raise ConfigError(f'--batch-size={args.batch_size} is more than the images in train/')
    return train, val
