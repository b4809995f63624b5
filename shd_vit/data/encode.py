"""What of a source image goes into a `.beton` file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from shd_vit.data.beton import IMAGE, JPEG, RAW
from shd_vit.data.tiles import encode
from shd_vit.errors import DatasetError


class UndecodableImage(DatasetError):
    """A file that was read, but is no image, or not all of one."""


# What mmpretrain's Pillow reader puts behind grey images with transparency (mmcv's choice).
CANVAS = (124, 117, 104)


def load_rgb(image: str | os.PathLike | np.ndarray, backend: str = 'cv2') -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a file, as mmpretrain's reader gives them, or of an array.

    Args:
        image: The file or the array.
        backend: The reader's ``imdecode_backend``, 'cv2' or 'pillow'. Pillow decodes for either;
            this says what becomes of transparency.

    Raises:
        OSError: If the file cannot be read.
        UndecodableImage: If it was read and is not a whole image, or one that the reader shows in
            another way than Pillow.
        ValueError: If an array is not (H, W) or (H, W, 3) uint8.
    """
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'expected uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}')
        return image
    with open(image, 'rb') as file:
        data = file.read()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode[0] in 'IF':
                raise ValueError(f'its pixels have more than 8 bits (mode {picture.mode})')
            if backend == 'cv2' and picture.format == 'TIFF':
                _check_tiff(picture)
            ImageOps.exif_transpose(picture, in_place=True)
            if backend == 'pillow' and picture.mode == 'LA':
                canvas = Image.new('RGB', picture.size, CANVAS)
                canvas.paste(picture.convert('RGBA'), mask=picture.getchannel('A'))
                return np.array(canvas)
            return np.array(picture.convert('RGB'))
    except UnidentifiedImageError:
        raise UndecodableImage('cannot be decoded: it is no image that Pillow knows') from None
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise UndecodableImage(f'cannot be decoded: {error}') from error


def _check_tiff(picture: Image.Image) -> None:
    """Refuse what OpenCV reads in another way than Pillow."""
    if picture.mode == 'LAB':
        raise ValueError('OpenCV reads the colours of a LAB TIFF in another way: save it as RGB')
    if picture.mode == 'RGBA' and picture.getchannel('A').getextrema() != (255, 255):
        raise ValueError('OpenCV blends a transparent TIFF with black: save it as RGB')


class Encoder:
    """Makes of a sample what is stored. Called from threads.

    Args:
        samples: As in :func:`~shd_vit.data.writer.write_beton`, like all of the following.
        classes: How many there are, if that is known.
    """

    def __init__(
        self,
        samples: Sequence,
        classes: int | None,
        max_resolution: int | None,
        quality: int,
        proportion: float,
        seed: int,
        page_size: int,
        backend: str,
    ) -> None:
        self._samples = samples
        self._classes = classes
        self._max_resolution = max_resolution
        self._proportion = proportion
        self._seed = seed
        self._page_size = page_size
        self._quality = quality
        self._backend = backend

    def __len__(self) -> int:
        return len(self._samples)

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        """FFCV's metadata of the image (1,), its bytes (uint8, 1-d), the label.

        Raises:
            DatasetError: Naming the sample, with whatever went wrong.
        """
        name = f'sample {index}'
        try:
            image, label = self._samples[index]
            if not isinstance(image, np.ndarray):
                name = f'{name} ({os.fspath(image)})'
            if label < 0 or (self._classes is not None and label >= self._classes):
                raise ValueError(f'label {label} of {self._classes} classes')
            pixels = self._scale(load_rgb(image, self._backend))
            jpeg = np.random.default_rng([self._seed, index]).random() < self._proportion
            stored = encode(pixels, self._quality) if jpeg else pixels.reshape(-1)
            if stored.size > self._page_size:
                raise ValueError(f'{stored.size:,} bytes do not fit page_size={self._page_size}')
            height, width = pixels.shape[:2]
            if max(height, width) >= 1 << 16:
                raise ValueError(f'{width}x{height} pixels: FFCV has 16 bits for each')
            metadata = np.zeros(1, IMAGE)
            metadata['mode'] = JPEG if jpeg else RAW
            metadata['height'], metadata['width'] = height, width
            return metadata, stored, int(label)
        except UndecodableImage as error:
            raise UndecodableImage(f'{name} {error}') from error
        except Exception as error:
            raise DatasetError(f'{name}: {type(error).__name__}: {error}') from error

    def _scale(self, pixels: np.ndarray) -> np.ndarray:
        size = np.array(pixels.shape[1::-1])
        if self._max_resolution is None or size.max() <= self._max_resolution:
            return pixels
        size = np.maximum(1, np.rint(size * (self._max_resolution / size.max()))).astype(int)
        return cv2.resize(pixels, size.tolist(), interpolation=cv2.INTER_AREA)


@contextmanager
def library_settings() -> Iterator[None]:
    """Pillow does not fill what is missing of an image with grey, as some libraries have it do.

    OpenCV starts no threads: it would a core, in each of ours.
    """
    lenient, threads = ImageFile.LOAD_TRUNCATED_IMAGES, cv2.getNumThreads()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        cv2.setNumThreads(threads)
