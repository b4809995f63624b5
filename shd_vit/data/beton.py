"""FFCV's `.beton` files, read with checks that FFCV leaves out.

A file that no manifest vouches for is refused: FFCV itself opens half-written files and shows wrong
images. The layout is written down here, so reading needs neither FFCV nor its seconds of import:
header, a descriptor per field, a row of metadata per sample, pages of image bytes, and at the end
the allocation table that says which sample owns which bytes.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from shd_vit.data.manifest import MANIFEST_FORMAT, digest, manifest_path, read_manifest
from shd_vit.errors import DatasetError
from shd_vit.version import __version__

# FFCV's format, version 2. The tests compare these with the installed FFCV's.
VERSION = 2
HEADER = np.dtype(
    dict(
        names=['version', 'fields', 'page_size', 'samples', 'table'],
        formats=['<u2', '<u2', '<u4', '<u8', '<u8'],
    ),
    align=True,
)
FIELD = np.dtype([('type', 'u1'), ('name', 'S16'), ('arguments', 'u1', 1024)], align=True)
ALLOCATION = np.dtype([('sample', '<u8'), ('pointer', '<u8'), ('size', '<u8')])
IMAGE = np.dtype([('mode', 'u1'), ('width', '<u2'), ('height', '<u2'), ('pointer', '<u8')])
FIELD_TYPES = {0: np.dtype('<f8'), 1: np.dtype('<i8'), 2: IMAGE}
JPEG, RAW = 0, 1
JPEG_PIXELS = 1024  # a byte: more than a JPEG can hold, at a bit a block (ITU-T T.81, F.1.2)

ROW = np.dtype(  # a sample as `Beton.read` wants it: 1.28 million of these are 27 MB
    dict(
        names=['pointer', 'size', 'height', 'width', 'mode', 'crc32'],
        formats=['u8', 'u4', 'u2', 'u2', 'u1', 'u4'],
    )
)


def open_beton(path: str) -> Any:
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait
            raise OSError(errno.EINVAL, 'it is not a file')
        return open(path, 'rb', buffering=0)
    except OSError as error:
        raise DatasetError(
            f'{path!r} cannot be opened ({error.strerror}); to write it: '
            f'python tools/data/write_ffcv.py {path} --imagenet-folder FOLDER'
        ) from None


class Index:
    """Everything in a file but its pages, found to be consistent.

    Attributes:
        rows: (N,) one record per sample: pointer and size of its bytes, height and width in pixels,
            mode (``JPEG`` or ``RAW``), crc32.
        labels: (N,) int64.
        has_crc: Whether ``rows['crc32']`` was stored; else zeros.
        page_size: Bytes per page.
        pages: Number of pages. The first begins at byte ``start``, the table follows the last.
        file_size: Bytes.
        digest: Hash of header, descriptors, metadata and allocation table.

    Args:
        file: Opened for reading in binary mode.
        path: How errors name it.

    Raises:
        DatasetError: If anything in the index contradicts another part of it, or the file's size.
    """

    def __init__(self, file: Any, path: str) -> None:
        self.path = path
        self.file_size = os.fstat(file.fileno()).st_size
        header = self._read(file, HEADER, 1, 0)[0]
        self._check(header['version'] == VERSION, f'is not a .beton file of version {VERSION}')
        self.page_size, samples, table = (int(header[k]) for k in ('page_size', 'samples', 'table'))
        self._check(table, 'was not written to its end')
        self._check(self.page_size > 0 and samples > 0, 'has no samples')

        fields = self._read(file, FIELD, int(header['fields']), HEADER.itemsize)
        names = [field['name'].decode('ascii', 'replace') for field in fields]
        metadata_type = self._metadata_type(names, fields['type'].tolist())
        offset = HEADER.itemsize + fields.nbytes
        metadata_end = offset + samples * metadata_type.itemsize
        self._check(
            metadata_end <= table < self.file_size, 'is cut short, or its header is damaged'
        )
        metadata = self._read(file, metadata_type, samples, offset)
        count, rest = divmod(self.file_size - table, ALLOCATION.itemsize)
        self._check(rest == 0 and count >= samples, 'has an allocation table of the wrong size')
        allocations = self._read(file, ALLOCATION, count, table)

        digest_of = self._read(file, np.dtype('u1'), offset, 0), metadata, allocations
        # FFCV's table is in order of writing.
        allocations = allocations[np.argsort(allocations['pointer'], kind='stable')]
        self.start = int(allocations['pointer'][0]) // self.page_size * self.page_size
        self.pages, rest = divmod(table - self.start, self.page_size)
        self._check(rest == 0 and self.start >= metadata_end, 'has pages in the wrong place')
        self._check_allocations(allocations, table)

        column = {name: metadata[f'f{i}'] for i, name in enumerate(names)}
        self.has_crc = 'crc32' in names
        self.labels = column['label'].astype(np.int64)
        self._check(self.labels.min() >= 0, 'has negative labels')
        self.rows = np.empty(samples, ROW)
        for name in ('pointer', 'height', 'width', 'mode'):
            self.rows[name] = column['image'][name]
        self.rows['size'] = self._sizes(allocations)
        self.rows['crc32'] = column.get('crc32', 0)
        self._check_images()
        self.digest = digest(*digest_of)

    def manifest(self, page_digests: Sequence[str | None], **about: Any) -> dict:
        """The manifest of this file, as :func:`read_manifest` gives it back.

        Args:
            page_digests: Hash per page.
            about: ``source``, ``options``, ``classes``, ``skipped``; None where unknown.
        """
        return dict(
            format=MANIFEST_FORMAT,
            shd_vit=__version__,
            **{key: about.get(key) for key in ('source', 'options', 'classes', 'skipped')},
            entries=len(self.labels),
            file_size=self.file_size,
            page_size=self.page_size,
            index_digest=self.digest,
            page_digests=list(page_digests),
        )

    def _check(self, good: Any, problem: str) -> None:
        if not good:
            raise DatasetError(
                f'{self.path!r} {problem}: write it again with tools/data/write_ffcv.py --force'
            )

    def _read(self, file: Any, dtype: np.dtype, count: int, offset: int) -> np.ndarray:
        file.seek(offset)
        self._check(offset + count * dtype.itemsize <= self.file_size, 'is cut short')
        try:
            array = np.fromfile(file, dtype, count)
        except MemoryError:  # a file with holes may claim any size
            array = np.empty(0, dtype)
        self._check(len(array) == count, 'is cut short')
        return array

    def _metadata_type(self, names: list[str], types: list[int]) -> np.dtype:
        """Of a sample's row, from the fields' names and FFCV's types."""
        kinds = dict(zip(names, types, strict=True))
        wanted = dict(image=2, label=1, crc32=1)
        self._check(
            {'image', 'label'} <= kinds.keys()
            and all(kinds[name] == kind for name, kind in wanted.items() if name in kinds)
            and all(kind in FIELD_TYPES for kind in types)
            and len(kinds) == len(names),
            f"has the fields (name: FFCV's type) {kinds}, expected {wanted}, crc32 being optional",
        )
        return np.dtype([('', FIELD_TYPES[kind]) for kind in kinds.values()], align=True)

    def _check_allocations(self, allocations: np.ndarray, table: int) -> None:
        """Inside the page region, within one page each, none over another."""
        begin, size = allocations['pointer'], allocations['size']
        end = begin + size
        self._check(
            ((size > 0) & (size <= self.page_size) & (end <= table)).all()
            and (begin // self.page_size == (end - 1) // self.page_size).all()
            and (end[:-1] <= begin[1:]).all(),
            'has images that overlap or leave their page',
        )

    def _sizes(self, allocations: np.ndarray) -> np.ndarray:
        """(N,) bytes of each sample's image."""
        pointers = self.rows['pointer']
        found = np.searchsorted(allocations['pointer'], pointers)
        own = allocations[np.minimum(found, len(allocations) - 1)]
        good = (own['pointer'] == pointers) & (own['sample'] == np.arange(len(pointers)))
        self._check(
            good.all(),
            f'says nowhere how long the images of {(~good).sum()} samples are '
            f'(first: {np.argmin(good)})',
        )
        return own['size']

    def _check_images(self) -> None:
        area = self.rows['height'].astype(np.int64) * self.rows['width']
        size = self.rows['size'].astype(np.int64)
        raw = self.rows['mode'] == RAW
        self._check(
            ((self.rows['mode'] == JPEG) | raw).all()
            and (area > 0).all()
            and (size[raw] == 3 * area[raw]).all()
            and (area <= JPEG_PIXELS * size).all(),
            'has images whose size does not fit their height and width',
        )


class Beton:
    """A `.beton` file opened for reading.

    No page is read on opening: the file's size and the hash of its index are compared with the
    manifest's. Damage inside a page is found when a sample is read (by its CRC) or by
    tools/data/verify_ffcv.py.

    Attributes:
        labels: (N,) int64.
        classes: Names of the classes, or None.
        index: See :class:`Index`.
        manifest: As :func:`read_manifest` gives it.

    Args:
        path: The file. Its manifest is beside it.

    Raises:
        DatasetError: If file or manifest is missing, damaged, or not of the other.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.fspath(path)
        self._file = open_beton(self.path)
        try:
            self.manifest = read_manifest(self.path)
            self._check_manifest('file_size', os.fstat(self._file.fileno()).st_size)
            self.index = Index(self._file, self.path)
            self._check_manifest('index_digest', self.index.digest)
        except BaseException:
            self._file.close()
            raise
        self.labels = self.index.labels
        self.classes = self.manifest['classes']
        self._fd = self._file.fileno()
        self._row = self.index.rows.item
        self._has_crc = self.index.has_crc

    def _check_manifest(self, key: str, found: Any) -> None:
        if self.manifest[key] != found:
            raise DatasetError(
                f'{self.path!r} is damaged, or {manifest_path(self.path)!r} is of another file: '
                f'{key} is {found}, the manifest says {self.manifest[key]}; write both again with '
                'tools/data/write_ffcv.py --force'
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[bytes, int, int, bool]:
        """A sample's stored image. Any number of threads may read at once.

        Returns:
            The bytes (JPEG, or RGB pixels row by row), height and width in pixels, is it a JPEG.

        Raises:
            DatasetError: If the bytes cannot be read, or are not those that were written.
        """
        pointer, size, height, width, mode, crc = self._row(index)
        try:
            # Not mmap: a page that cannot be read would kill the process with SIGBUS.
            data = os.pread(self._fd, size, pointer)
        except OSError as error:
            raise DatasetError(f'{self.path!r}: sample {index} cannot be read: {error}') from error
        if len(data) != size or (self._has_crc and zlib.crc32(data) != crc):
            raise DatasetError(
                f'{self.path!r}: sample {index} is damaged; list all damage with '
                f'python tools/data/verify_ffcv.py {self.path}'
            )
        return data, height, width, mode == JPEG

    @property
    def metainfo(self) -> dict:
        """What mmengine's evaluators read of a data set."""
        return {} if self.classes is None else dict(classes=self.classes)

    def close(self) -> None:
        self._file.close()
        self._fd = -1  # the number may soon be another file's

    def __enter__(self) -> Beton:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, '_file'):
            self._file.close()
