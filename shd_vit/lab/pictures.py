"""Pictures for a benchmark of loaders, of photographs that packages bring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from shd_vit.shipped import shipped


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
