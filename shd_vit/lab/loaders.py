"""How fast images come: FFCVLoader against other loaders, all on the same stored JPEG bytes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from rich.progress import track
from torch.utils.data import DataLoader

from shd_vit.hosts.mmpretrain.ffcv_loader import FFCVLoader
from shd_vit.hosts.mmpretrain.runner import DistillRunner
from shd_vit.lab.figures import pyplot
from shd_vit.lab.report import Table, environment_table
from shd_vit.shipped import shipped

RECIPE = shipped('configs') / '_base_/datasets/imagenet_folder.py'
CROP_AND_FLIP = ('RandomResizedCrop', 'RandomFlip')
CEILING = 'turbojpeg decoding alone'
YARDSTICK = 'mmpretrain DataLoader, DeiT recipe'


# --- Data ---------------------------------------------------------------------------------


def make_data(folder: Path, count: int) -> dict[str, str]:
    """``folder``/images.beton, and its JPEGs as ``folder``/jpeg/<class>/<index>.jpg."""
    from shd_vit.data.beton import Beton

    rng = np.random.default_rng(0)
    photographs = _photographs()
    for index in track(range(count), description='pictures'):
        file = folder / f'source/{index % 10:02}/{index:05}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        _picture(photographs[index % len(photographs)], rng).save(file, compress_level=1)
    tool = str(shipped('tools') / 'data/write_ffcv.py')
    write = [sys.executable, tool, str(folder / 'images.beton')]
    subprocess.run([*write, '--imagenet-folder', str(folder / 'source')], check=True)

    sizes = []
    with Beton(str(folder / 'images.beton')) as beton:
        for index in range(count):
            data, _, _, _ = beton.read(index)
            file = folder / f'jpeg/{beton.labels[index]:02}/{index:05}.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            sizes.append(len(data))
    return dict(
        images=f'{count}, most 500x375 or 375x500; JPEG quality 90, {np.mean(sizes) / 1024:.0f} KiB'
    )


def _photographs() -> list[np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    names = ('astronaut', 'chelsea', 'coffee', 'hubble_deep_field', 'retina', 'rocket')
    return [getattr(data, name)() for name in names] + load_sample_images().images


def _picture(photograph: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A random part of a photograph, mirrored or not, at about the size of ImageNet's."""
    height, width = photograph.shape[:2]
    shape = np.array([375, 500] if rng.random() < 0.75 else [500, 375])
    shape = np.minimum(shape * rng.uniform(0.7, 1.0), [height, width]).astype(int)
    top, left = rng.integers(0, [height + 1, width + 1] - shape)
    part = photograph[top : top + shape[0], left : left + shape[1], :]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    scale = 500 / max(shape)
    size = (int(shape[1] * scale), int(shape[0] * scale))
    return Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BICUBIC)


# --- Loaders ------------------------------------------------------------------------------


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


# --- Parts --------------------------------------------------------------------------------


def speed(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    loaders = {}
    for name, build in LOADERS.items():
        loaders[name] = build(folder, args)
        _epoch(loaders[name])  # forks, compiles, fills the page cache
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in track(range(args.rounds), description='epochs'):
        for name, loader in loaders.items():
            times[name].append(_epoch(loader))
    images = args.images // args.batch * args.batch

    def ratio(name: str, base: str) -> float:
        return median(b / t for t, b in zip(times[name], times[base], strict=True))

    return {
        name: dict(
            images_per_second=images / median(times[name]),
            over_mmpretrain=ratio(name, YARDSTICK),
            of_ceiling=ratio(name, CEILING),
        )
        for name in loaders
    }


def _epoch(loader: Iterable) -> float:
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def start(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds from building a loader to its first batch, in new processes."""
    times = {}
    names = {
        'FFCV as it is, crop + flip': 'every time',
        'shd_vit, DeiT recipe': "the first time, and from numba's cache",
    }
    tool = shipped('tools') / 'benchmark_loader.py'
    with tempfile.TemporaryDirectory() as cache:
        for name, when in names.items():
            command = [sys.executable, str(tool), '--first-batch-of', name, str(folder)]
            sizes = ['--batch', str(args.batch), '--workers', str(args.workers)]
            for turn in range(2 if name.startswith('shd_vit') else 1):
                label = when.split(', and ')[turn]
                output = subprocess.run(
                    [*command, *sizes],
                    env={**os.environ, 'NUMBA_CACHE_DIR': cache},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                times[f'{name}: {label}'] = float(output.split()[-1])
    return times


def first_batch(name: str, folder: str, args: argparse.Namespace) -> float:
    started = time.perf_counter()
    next(iter(LOADERS[name](Path(folder), args)))
    return time.perf_counter() - started


# --- Tables and plot ----------------------------------------------------------------------


def _speed_table(results: dict) -> list[Table]:
    rows = [['', 'images/s', '/ mmpretrain', 'of the ceiling']]
    for name, r in results.items():
        rows.append(
            [
                name,
                f'{r["images_per_second"]:,.0f}',
                f'{r["over_mmpretrain"]:.2f}',
                f'{r["of_ceiling"]:.0%}',
            ]
        )
    return [('Images a second', rows)]


TABLES: dict[str, Callable[[dict], list[Table]]] = dict(
    environment=lambda r: [environment_table(r)],
    speed=_speed_table,
    start=lambda r: [
        ('Seconds to the first batch', [['', 's'], *([k, f'{v:.1f}'] for k, v in r.items())])
    ],
)


def plot(results: dict, path: Path) -> None:
    names = list(results['speed'])
    values = [results['speed'][name]['images_per_second'] for name in names]
    colours = ['tab:green' if name.startswith('shd_vit') else 'tab:gray' for name in names]
    figure, axis = pyplot().subplots(figsize=(8, 3))
    bars = axis.barh(names, values, color=colours)
    axis.bar_label(bars, fmt='{:,.0f}', padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(f'images/s, {results["environment"]["workers"]} workers')
    axis.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
