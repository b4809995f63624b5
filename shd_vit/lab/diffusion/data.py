"""What is learned to draw: pictures in pixels, or latents that were encoded once."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shd_vit.errors import ConfigError, DatasetError
from shd_vit.lab.diffusion.samples import load_samples

DEBIAN = '/usr/share/datasets/fashion-mnist'  # of the package dataset-fashion-mnist
CLASSES = (
    'T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot',
)  # fmt: skip


class Data(NamedTuple):
    """Samples in memory.

    Attributes:
        samples: (n, C, h, w): uint8 pixels, or latents as they are diffused.
        labels: (n,).
        classes: Names of the labels; empty where they have none.
    """

    samples: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()

    def batch(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Float samples, pixels in [-1, 1], and labels of some rows."""
        samples = self.samples[rows].to(device)
        if samples.dtype == torch.uint8:
            samples = samples.float() / 127.5 - 1
        return samples.float(), self.labels[rows].to(device)


def read_data(cfg: dict[str, Any], is_training: bool = True) -> Data:
    """Data by ``type``: 'fashion_mnist' with ``root``, 'pictures' or 'latents' with ``path``.

    Raises:
        ConfigError: If the type, or a field, is unknown.
        DatasetError: If a file is missing or damaged.
    """
    options = dict(cfg)
    kind = options.pop('type')
    readers: dict[str, Any] = dict(fashion_mnist=fashion_mnist, pictures=pictures, latents=latents)
    if kind not in readers:
        raise ConfigError(f'data.type={kind!r} must be one of {", ".join(readers)}')
    try:
        return readers[kind](**options, is_training=is_training)
    except TypeError as error:
        raise ConfigError(f'data of type {kind}: {error}') from None


def fashion_mnist(root: str = 'data/fashion_mnist', is_training: bool = True) -> Data:
    """Fashion-MNIST, (n, 1, 28, 28) uint8: 60,000 for training, 10,000 else.

    Args:
        root: Folder of the four files, packed or not; Debian's package is looked into as well.
        is_training: Which part.
    """
    part = 'train' if is_training else 't10k'
    images, labels = (
        _idx(_find(f'{part}-{kind}-ubyte', root), rank)
        for kind, rank in (('images-idx3', 3), ('labels-idx1', 1))
    )
    if len(images) != len(labels):
        raise DatasetError(f'{root}: {len(images)} images, {len(labels)} labels')
    return Data(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long(), CLASSES)


def pictures(path: str, is_training: bool = True) -> Data:
    """Pictures with labels of an .npz, as :func:`load_samples` reads it; names, if it has some."""
    images, labels = load_samples(path)
    if labels is None:
        raise DatasetError(f'{path} has no classes (arr_1)')
    with np.load(path) as arrays:
        classes = tuple(map(str, arrays['classes'])) if 'classes' in arrays else ()
    return Data(images.permute(0, 3, 1, 2).contiguous(), labels.long(), classes)


def latents(path: str, is_training: bool = True) -> Data:
    """Latents that ``tools/dit_latents.py`` wrote: latents.npy (n, C, h, w) and labels.npy (n,).

    Of latents encoded with their mirror images, n rows are followed by theirs.
    """
    try:
        # Copied where it is written to: torch warns of arrays that cannot be.
        paths = (Path(path, f'{name}.npy') for name in ('latents', 'labels'))
        arrays = [np.load(file, mmap_mode='c') for file in paths]
    except (OSError, ValueError) as error:
        raise DatasetError(f'{path}: {error}; tools/dit_latents.py writes latents') from None
    if len(arrays[0]) != len(arrays[1]):
        raise DatasetError(f'{path}: {len(arrays[0])} latents, {len(arrays[1])} labels')
    samples, labels = map(torch.from_numpy, arrays)
    return Data(samples, labels)


def _find(name: str, root: str) -> Path:
    for folder in (root, DEBIAN):
        for suffix in ('', '.gz'):
            path = Path(folder, name + suffix)
            if path.is_file():
                return path
    raise DatasetError(
        f'{root}/{name} is missing: run tools/data/prepare_fashion_mnist.sh {root}, or install '
        'the Debian package dataset-fashion-mnist'
    )


def _idx(path: Path, rank: int) -> np.ndarray:
    """An array of bytes in IDX format: two zeros, 8, the rank, and sizes as big-endian int32."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DatasetError(f'{path} cannot be read: {error}') from None
    header = 4 + 4 * rank
    if raw[:4] != bytes([0, 0, 8, rank]) or len(raw) < header:
        raise DatasetError(f'{path} is no IDX file of {rank} dimensions of bytes')
    shape = np.frombuffer(raw, '>i4', rank, 4)
    if len(raw) != header + shape.prod():
        raise DatasetError(f'{path} has {len(raw)} bytes, expected {header + shape.prod()}')
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()
