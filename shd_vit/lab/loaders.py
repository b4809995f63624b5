"""Loaders of the same stored JPEG bytes: ours, those of other libraries, and their ceiling."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader

from shd_vit.hosts.mmpretrain.ffcv_loader import FFCVLoader
from shd_vit.hosts.mmpretrain.runner import DistillRunner
from shd_vit.shipped import shipped

RECIPE = shipped('configs') / '_base_/datasets/imagenet_folder.py'
CROP_AND_FLIP = ('RandomResizedCrop', 'RandomFlip')
CEILING = 'turbojpeg decoding alone'
YARDSTICK = 'mmpretrain DataLoader, DeiT recipe'


def mmpretrain_loader(folder: Path, args: argparse.Namespace) -> Iterable:
    """The recipe of configs/_base_/datasets/imagenet_folder.py, as DistillRunner builds it."""
    dataset = dict(
        type='CustomDataset',
        data_prefix=str(folder / 'jpeg'),
        pipeline=_recipe(),
        _scope_='mmpretrain',
    )
    return DistillRunner.build_dataloader(
        dict(
            batch_size=args.batch,
            num_workers=args.workers,
            persistent_workers=True,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dataset,
        ),
        seed=0,
    )


class _TorchvisionImages(torch.utils.data.Dataset):
    def __init__(self, folder: Path) -> None:
        from torchvision.transforms import v2

        self.files = sorted((folder / 'jpeg').rglob('*.jpg'))
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from torchvision.io import decode_jpeg, read_file

        image = decode_jpeg(read_file(str(self.files[index])))
        return self.transform(image), int(self.files[index].parent.name)


def torchvision_loader(folder: Path, args: argparse.Namespace) -> Iterable:
    return DataLoader(
        _TorchvisionImages(folder),
        args.batch,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=True,
        drop_last=True,
    )


def stock_ffcv_loader(folder: Path, args: argparse.Namespace) -> Iterable:
    """FFCV as its ImageNet example has it, on the CPU."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    image = [RandomResizedCropRGBImageDecoder((224, 224)), RandomHorizontalFlip()]
    return Loader(
        str(folder / 'images.beton'),
        args.batch,
        args.workers,
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines=dict(
            image=[*image, ToTensor(), ToTorchImage()],
            label=[IntDecoder(), ToTensor()],
            crc32=None,
        ),
    )


def our_loader(folder: Path, args: argparse.Namespace, only: tuple[str, ...] = ()) -> Any:
    return FFCVLoader(
        str(folder / 'images.beton'),
        args.batch,
        [t for t in _recipe() if not only or t['type'] in only],
        sampler=dict(type='DefaultSampler', shuffle=True),
        num_workers=args.workers,
        drop_last=True,
        seed=0,
    )


def our_loader_without_tiles(folder: Path, args: argparse.Namespace) -> Iterable:
    """As of a file that FFCV itself wrote: every image is decoded as a whole."""
    loader = our_loader(folder, args)
    loader._pipeline[0].box = lambda *params: None
    return loader


def our_crop_and_flip(folder: Path, args: argparse.Namespace) -> Iterable:
    return our_loader(folder, args, CROP_AND_FLIP)


class Ceiling:
    """Whole images decoded into one buffer a thread; bytes in memory, nothing handed out."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        from shd_vit.data.beton import Beton

        with Beton(str(folder / 'images.beton')) as beton:
            self.samples = [beton.read(i) for i in range(len(beton))]
        self.pool = ThreadPoolExecutor(args.workers)
        self.workers, self.batch = args.workers, args.batch

    def __iter__(self):
        from shd_vit.data.jpeg import decode

        todo = iter(self.samples[: len(self.samples) // self.batch * self.batch])

        def work() -> None:
            buffer = np.empty(max(h * w * 3 for _, h, w, _ in self.samples), np.uint8)
            for data, height, width, _ in todo:
                out = buffer[: height * width * 3].reshape(height, width, 3)
                decode(data, height, width, out, 'rgb')

        for task in [self.pool.submit(work) for _ in range(self.workers)]:
            task.result()
        return iter(())


def _recipe() -> list[dict]:
    return Config.fromfile(RECIPE).train_pipeline


# In this order, so that torch's workers are forked before FFCV has threads.
LOADERS: dict[str, Callable[[Path, argparse.Namespace], Iterable]] = {
    YARDSTICK: mmpretrain_loader,
    'torchvision, crop + flip': torchvision_loader,
    'FFCV as it is, crop + flip': stock_ffcv_loader,
    'shd_vit, crop + flip': our_crop_and_flip,
    'shd_vit, DeiT recipe': our_loader,
    'shd_vit, DeiT recipe, whole images decoded': our_loader_without_tiles,
    CEILING: Ceiling,
}
