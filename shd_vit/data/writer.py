"""Writing of `.beton` files that are either whole or not there.

FFCV encodes in processes: it waits for ever for one that has failed, and which image lies where in
the file depends on their timing. Decoding, scaling, JPEG encoding and hashing all leave the GIL, so
threads do: nothing of theirs can die unseen, and the file is the same for any number of them.
"""

from __future__ import annotations

import fcntl
import os
import sys
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from shd_vit.data.beton import Index, open_beton
from shd_vit.data.encode import Encoder, UndecodableImage, library_settings
from shd_vit.data.ffcv_library import require_ffcv
from shd_vit.data.manifest import digest, manifest_path, write_manifest
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.files import write_whole

MIN_PAGE_SIZE = 1 << 21  # FFCV's


def write_beton(
    path: str | os.PathLike,
    samples: Sequence[tuple[str | os.PathLike | np.ndarray, int]],
    *,
    classes: Sequence[str] | None = None,
    source: dict | None = None,
    max_resolution: int | None = 500,
    quality: int = 90,
    proportion: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    page_size: int = 4 * MIN_PAGE_SIZE,
    backend: str = 'cv2',
) -> dict:
    """Write a `.beton` file and its manifest. Stock FFCV reads it, too.

    Images are stored as mmpretrain's LoadImageFromFile gives them: turned as their EXIF data say,
    grey and palette ones as RGB, transparency dropped.

    The same samples and options give the same bytes. A file that is there stays as it was until the
    new one is whole and on the disk.

    Args:
        path: File to write.
        samples: Pairs of image and label, indexed from several threads. An image is the path of a
            file, or an array, uint8, (H, W) grey or (H, W, 3) RGB.
        classes: Names of the classes, for the manifest.
        source: Where the samples come from, for the manifest.
        max_resolution: Images with a longer side, in pixels, are scaled down to it, by averaging
            areas (cv2's INTER_AREA) as FFCV does: nothing rings, nothing aliases. None keeps all
            sizes.
        quality: Of JPEGs, 1 to 100.
        proportion: Of images stored as JPEGs; the others are stored as pixels. Which are, depends
            on ``seed`` and the sample's index alone.
        seed: See ``proportion``.
        workers: Threads. Default: one a core that this process may use.
        skip_bad: Leave out images that cannot be decoded, and list them in the manifest. Later
            samples move up. A file that is missing or cannot be read stays an error.
        overwrite: Whether the file may be there already.
        page_size: Bytes, a power of two. No image may take more.
        backend: ``imdecode_backend`` of the LoadImageFromFile whose pixels are stored: 'cv2', which
            drops the transparency of grey images, or 'pillow', which puts a colour behind them.

    Returns:
        The manifest.

    Raises:
        ConfigError: If an option has a value that cannot work.
        DatasetError: If a sample cannot be read, decoded or stored, naming it, or if the file
            cannot be written. Nothing is left behind.
    """
    path = os.fspath(path)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    options: dict[str, Any] = dict(
        max_resolution=max_resolution, quality=quality, proportion=proportion, seed=seed,
        backend=backend,
    )  # fmt: skip
    _check_options(len(samples), workers=workers, page_size=page_size, **options)
    if os.path.exists(path) and not overwrite:
        raise DatasetError(f'{path!r} exists already, and was not to be overwritten (--force)')
    encoder = Encoder(
        samples, None if classes is None else len(classes), page_size=page_size, **options
    )
    with _one_writer(path), library_settings(), write_whole(path) as part:
        writer = _beton_writer(str(part), page_size)
        skipped = writer.write(encoder, workers, skip_bad)
        with open_beton(str(part)) as file:
            index = Index(file, str(part))
        if index.pages != len(writer.page_digests):
            raise DatasetError(f'{path!r} holds {index.pages} of {len(writer.page_digests)} pages')
        manifest = index.manifest(
            writer.page_digests,
            source=source,
            options=options,
            classes=None if classes is None else list(classes),
            skipped=skipped,
        )
        # A manifest is never beside a file that is not its own, wherever a crash comes.
        with suppress(FileNotFoundError):
            os.remove(manifest_path(path))
    write_manifest(path, manifest)
    return manifest


def _check_options(
    samples: int,
    workers: int,
    page_size: int,
    max_resolution: int | None,
    quality: int,
    proportion: float,
    seed: int,
    backend: str,
) -> None:
    for name, value, good, allowed in (
        ('samples', samples, samples > 0, 'at least one'),
        ('workers', workers, workers > 0, 'at least 1'),
        ('quality', quality, 1 <= quality <= 100, '1 to 100'),
        ('proportion', proportion, 0 <= proportion <= 1, '0 to 1'),
        ('seed', seed, seed >= 0, 'at least 0'),
        ('backend', backend, backend in ('cv2', 'pillow'), "'cv2' or 'pillow'"),
        (
            'max_resolution',
            max_resolution,
            max_resolution is None or 0 < max_resolution < 1 << 16,
            '1 to 65535, or None',
        ),
        (
            'page_size',
            page_size,
            MIN_PAGE_SIZE <= page_size < 1 << 32 and page_size & (page_size - 1) == 0,
            f'a power of two from {MIN_PAGE_SIZE} to {1 << 31}',
        ),
    ):
        if not good:
            raise ConfigError(f'{name} of a .beton file is {value!r}: expected {allowed}')


def _beton_writer(path: str, page_size: int) -> Any:
    """FFCV's writer, fed by threads. Defined in here because importing FFCV takes seconds."""
    require_ffcv()
    from ffcv.fields import IntField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter

    class Pages(MemoryAllocator):
        """Hashes pages before they are written: a disk that alters them does not go unnoticed."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.digests: list[str] = []

        def flush_page(self) -> None:
            if self.my_page >= 0:
                self.digests.append(digest(self.page_data))
            super().flush_page()

    class BetonWriter(DatasetWriter):
        metadata_sm: Any

        def write(self, encoder: Encoder, workers: int, skip_bad: bool) -> list[str]:
            """Write all samples. Returns what was skipped."""
            self.num_samples = len(encoder)
            self.prepare()
            # Threads need none of the shared memory, and containers have little.
            self.metadata_sm.close()
            self.metadata_sm.unlink()
            rows = np.zeros(len(encoder), self.metadata_type)
            self.metadata_sm = SimpleNamespace(buf=rows.view('u1'))

            pages = Pages(self.fname, self.data_region_start, self.page_size)
            with pages, closing(_in_order(encoder, workers)) as encoded:
                count, skipped = self._fill(rows, pages, encoded, skip_bad)
            if count == 0:
                raise DatasetError(f'none of {len(encoder)} images could be decoded')
            # The rows of skipped samples stay, as zeros, between the last row and page 0.
            self.header['num_samples'] = count
            self.finalize([pages.allocations])
            self.page_digests = pages.digests
            return skipped

        def _fill(
            self, rows: np.ndarray, pages: Pages, encoded: Iterator, skip_bad: bool
        ) -> tuple[int, list[str]]:
            count, skipped = 0, []
            for sample in encoded:
                if isinstance(sample, UndecodableImage):
                    if not skip_bad:
                        raise DatasetError(f'{sample}; --skip-bad leaves such images out')
                    skipped.append(str(sample))
                    tqdm.write(f'skipped {sample}', file=sys.stderr)
                    continue
                metadata, data, label = sample
                pages.set_current_sample(count)
                metadata['pointer'], place = pages.malloc(data.size)
                place[:] = data
                rows[count] = metadata[0], label, zlib.crc32(data)
                count += 1
            return count, skipped

    fields = dict(image=RGBImageField(), label=IntField(), crc32=IntField())
    return BetonWriter(path, fields, page_size=page_size, num_workers=1)


def _in_order(encoder: Encoder, workers: int) -> Generator[Any, None, None]:
    """Encoded samples in their order, a few ahead of the one that is asked for.

    An image that cannot be decoded is given as its UndecodableImage; other errors are raised.
    """

    def encode(index: int) -> Any:
        try:
            return encoder(index)
        except UndecodableImage as error:
            return error

    pool = ThreadPoolExecutor(workers, thread_name_prefix='write_beton')
    ahead: deque[Future] = deque()
    try:
        with tqdm(total=len(encoder), unit=' images', disable=None) as progress:
            for index in range(len(encoder)):
                ahead.append(pool.submit(encode, index))
                if len(ahead) > 4 * workers:
                    yield ahead.popleft().result()
                    progress.update()
            while ahead:
                yield ahead.popleft().result()
                progress.update()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_writer(path: str) -> Iterator[None]:
    """Own the unfinished file, by a lock on the name that `write_whole` gives it.

    What a killed writer left is taken over; what a living one is writing is not.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'.{name}.part')
    try:
        os.makedirs(folder or '.', exist_ok=True)
        file = open(part, 'ab')  # noqa: SIM115
    except OSError as error:
        raise DatasetError(f'{part!r} cannot be written: {error.strerror}') from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(f'{part!r} is being written by another process') from None
        try:
            yield
        except OSError as error:
            raise DatasetError(f'{part!r} cannot be written: {error.strerror}') from error
