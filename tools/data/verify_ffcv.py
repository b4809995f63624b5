"""Check all of .beton files: every page, every CRC, every image. Exit code 1 if anything is wrong.

  python tools/data/verify_ffcv.py data/imagenet/train.beton data/imagenet/val.beton

For a file that FFCV itself wrote, which has no manifest:
  python tools/data/verify_ffcv.py old.beton --adopt
"""

import argparse
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from shd_vit.data.beton import JPEG, Beton, Index, open_beton
from shd_vit.data.ffcv_library import ffcv_library
from shd_vit.data.jpeg import JPEGError, decode
from shd_vit.data.manifest import digest, manifest_path, write_manifest
from shd_vit.errors import DatasetError
from shd_vit.hosts.mmpretrain.cli import run_tool


class PageCheck:
    """Reads a page once; hashes it and checks the images in it. Called from threads."""

    def __init__(self, file, index: Index) -> None:
        self._fd = file.fileno()
        self._index = index
        self._order = np.argsort(index.rows['pointer'])  # samples as they lie in the file
        self._pointers = index.rows['pointer'][self._order]

    def samples(self, page: int) -> np.ndarray:
        begin = self._index.start + page * self._index.page_size
        first, last = np.searchsorted(self._pointers, [begin, begin + self._index.page_size])
        return self._order[first:last]

    def __call__(self, page: int) -> tuple[str | None, list[tuple[int, str]]]:
        """Hash of the page, None if it cannot be read; index and problem of each bad sample."""
        begin = self._index.start + page * self._index.page_size
        try:
            data = os.pread(self._fd, self._index.page_size, begin)
        except OSError as error:
            return None, [(int(i), f'cannot be read: {error}') for i in self.samples(page)]
        problems = []
        for sample in self.samples(page):
            row = self._index.rows[sample]
            offset = int(row['pointer']) - begin
            problem = self._problem(row, data[offset : offset + int(row['size'])])
            if problem:
                problems.append((int(sample), problem))
        return digest(data), problems

    def _problem(self, row: np.void, data: bytes) -> str | None:
        if self._index.has_crc and zlib.crc32(data) != row['crc32']:
            return 'its bytes are not those that were written'
        if row['mode'] == JPEG:
            height, width = int(row['height']), int(row['width'])
            try:
                decode(data, height, width, np.empty((height, width, 3), np.uint8), 'rgb')
            except JPEGError as error:
                return str(error)
            except MemoryError:
                return f'{width}x{height} pixels do not fit into memory'
        return None


def verify(path: str, adopt: bool, workers: int) -> int:
    """Check a file and print what is wrong with it. Returns how many problems there are."""
    if adopt and os.path.exists(manifest_path(path)):
        raise DatasetError(
            f'{path!r} has a manifest: verify it without --adopt, or, if {manifest_path(path)!r} '
            'is of another file, remove that first'
        )
    manifest = None
    if not adopt:
        with Beton(path) as beton:
            manifest = beton.manifest
    with open_beton(path) as file:
        index = Index(file, path)
        digests, problems = check_pages(PageCheck(file, index), index.pages, workers)
    if manifest:
        problems += compare(manifest, index, digests)
    for problem in problems:
        print(f'{path}: {problem}')
    verdict = f'{len(problems)} problems' if problems else 'whole'
    size = f'{index.pages:,} pages, {index.file_size / 2**20:,.1f} MiB'
    print(f'{path}: {len(index.labels):,} images in {size}: {verdict}')
    if adopt and not problems:
        write_manifest(path, index.manifest(digests))
        print(f'{manifest_path(path)}: written')
    return len(problems)


def check_pages(check: PageCheck, pages: int, workers: int) -> tuple[list[str | None], list[str]]:
    """Hash per page, and what is wrong with images, by index."""
    digests, bad = [], []
    pool = ThreadPoolExecutor(workers)
    try:
        checked = pool.map(check, range(pages))
        for page_digest, problems in tqdm(checked, total=pages, unit=' pages', disable=None):
            digests.append(page_digest)
            bad += problems
    finally:
        pool.shutdown(cancel_futures=True)
    return digests, [f'sample {sample}: {problem}' for sample, problem in sorted(bad)]


def compare(manifest: dict, index: Index, digests: list[str | None]) -> list[str]:
    """What differs from the manifest, which was found to be of this file."""
    expected, classes = manifest['page_digests'], manifest['classes']
    problems = [
        f'page {page}: its bytes are not those that were written'
        for page, (found, wanted) in enumerate(zip(digests, expected, strict=False))
        if found != wanted
    ]
    if len(expected) != len(digests):
        problems.append(f'{len(digests)} pages, the manifest has {len(expected)}')
    if classes and index.labels.max() >= len(classes):
        sample = index.labels.argmax()
        problems.append(f'sample {sample}: label {index.labels[sample]} of {len(classes)} classes')
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='+', metavar='file', help='.beton files')
    parser.add_argument(
        '--adopt', action='store_true', help='write the manifest of files that have none, if whole'
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        '--workers', type=int, default=cores, help='threads (default: one a core, %(default)s)'
    )
    args = parser.parse_args()
    ffcv_library()
    bad = 0
    for path in args.files:
        try:
            bad += verify(path, args.adopt, max(1, args.workers)) > 0
        except DatasetError as error:
            print(f'{type(error).__name__}: {error}')
            bad += 1
    if bad:
        sys.exit(f'{bad} of {len(args.files)} files failed')


if __name__ == '__main__':
    run_tool(main)
