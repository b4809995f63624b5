"""Images of a config as its test pipeline gives them, with nothing random in them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.runner import DistillRunner


def image_batches(
    cfg: Config, split: str, count: int, batch: int, preprocessor: nn.Module
) -> Iterator[Tensor]:
    """Batches (B, C, h, w), normalised for the student: ``count`` images drawn with a fixed seed.

    Drawn, because folders are in the order of classes.

    Args:
        cfg: Has ``{split}_dataloader``; its images go through the pipeline of ``test_dataloader``.
        split: 'train' or 'test'.
        count: Images in all; fewer if there are no more.
        batch: Images in a batch.
        preprocessor: The distiller's ``data_preprocessor``.

    Raises:
        ConfigError: If the config has no such images, or none are asked for.
    """
    for name, number in (('images', count), ('batch', batch)):
        if number < 1:
            raise ConfigError(f'--{name} {number} must be at least 1')
    loader = _loader(cfg, split)
    owner = loader.get('dataset', loader)  # FFCVLoader has its pipeline itself
    if 'pipeline' not in owner:
        raise ConfigError(
            f'{split}_dataloader.dataset.pipeline is missing: its images cannot be had without '
            'augmentation; use another --split'
        )
    owner.pipeline = _loader(cfg, 'test').dataset.pipeline
    loader.update(
        batch_size=batch, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=True)
    )
    for data in DistillRunner.build_dataloader(loader, seed=0):
        images = preprocessor(data)['inputs'][:count]
        yield images
        count -= len(images)
        if count <= 0:
            return


def one_image(cfg: Config, which: str) -> Tensor:
    """An image (C, h, w) in uint8, as the config's reader orders its channels.

    Args:
        cfg: Has the ``test_dataloader``.
        which: An index into its images, from 0; or a file, which takes the same pipeline.

    Raises:
        ConfigError: If there is no such image.
    """
    is_index = which.lstrip('-').isdigit()
    if not is_index and not os.path.isfile(which):
        raise ConfigError(f'--image {which!r} is neither an index nor a file')
    loader = _loader(cfg, 'test')
    if not is_index:
        return _read_file(which, loader)
    dataset: Any = DistillRunner.build_dataloader(loader).dataset
    if not 0 <= int(which) < len(dataset):
        raise ConfigError(f'--image {which}: the test data has images 0 to {len(dataset) - 1}')
    return dataset[int(which)]['inputs']


def shown_image(image: Tensor, preprocessor: nn.Module) -> Tensor:
    """An image for the eye, (h, w, 3 or 1) in 0..1, from one as :func:`one_image` gives it."""
    if preprocessor.to_rgb and len(image) == 3:
        image = image.flip(0)
    return image.permute(1, 2, 0).float() / 255


def _loader(cfg: Config, split: str) -> Config:
    loader = copy.deepcopy(cfg.get(f'{split}_dataloader'))
    if not loader:
        raise ConfigError(f'{split}_dataloader is missing: there are no images to look at')
    return loader


def _read_file(path: str, loader: Config) -> Tensor:
    pipeline = list(loader.dataset.pipeline)
    if not any(step['type'] == 'LoadImageFromFile' for step in pipeline):
        # Data sets that hold pixels instead of files: made as large and as grey as those.
        channels, height, width = DistillRunner.build_dataloader(loader).dataset[0]['inputs'].shape
        kind = 'grayscale' if channels == 1 else 'color'
        pipeline[:0] = [
            dict(type='LoadImageFromFile', color_type=kind),
            dict(type='Resize', scale=(width, height)),
        ]
    steps = Compose([TRANSFORMS.build(step) for step in pipeline])
    try:
        image = steps(dict(img_path=path))['inputs']
    except (AssertionError, OSError) as error:
        raise ConfigError(f'--image {path!r} cannot be read: {error}') from None
    return image if isinstance(image, Tensor) else torch.as_tensor(image)
