"""Folders of images, a folder a class: one reading of them for every host.

mmpretrain takes hidden folders (`.ipynb_checkpoints`) for classes, and so does timm, which takes
images beside the class folders for one more. Either shifts the labels of all classes behind it. Of
files that they do not read, and of links that lead nowhere, neither says a word.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from shd_vit.errors import DatasetError

BROKEN, ABOVE, LOOSE = 'broken links', 'links to a folder above', 'images in no class folder'


class ImageFolder(NamedTuple):
    """What stands in a folder of classes.

    Attributes:
        root: The folder.
        extensions: Of files that are read, lower case.
        files: Images of each class, paths relative to ``root``, sorted; classes are sorted by name.
        skipped: How many entries were left out, by class and kind: an extension, or what is no
            image for another reason. Hidden files and folders do not count.
    """

    root: str
    extensions: tuple[str, ...]
    files: dict[str, list[str]]
    skipped: Counter[tuple[str, str]]

    def check(self) -> None:
        """Refuse a folder without classes, or with a class that has no images.

        Raises:
            DatasetError: Naming folders, and what was skipped in them.
        """
        if not self.files:
            raise DatasetError(f'{self.root!r} holds no folders: expected one of images a class')
        empty = [name for name, files in self.files.items() if not files]
        if empty:
            left_out = f', {self.left_out(empty)}' if self.left_out(empty) else ''
            raise DatasetError(
                f'{self.root!r} has classes without an image: {listed(empty)}{left_out}; files '
                f'that are read end in {", ".join(self.extensions)}'
            )

    def left_out(self, classes: Collection[str] | None = None) -> str:
        """What was skipped, by kind and folder (of ``classes``, if given), in words."""
        kinds: dict[str, dict[str, int]] = {}
        for (name, kind), count in sorted(self.skipped.items()):
            if classes is None or name in classes:
                kinds.setdefault(kind, {})[name] = count
        return '; '.join(
            f'left out {sum(by_class.values()):,} {kind}'
            + ('' if kind == LOOSE else f' ({listed([f"{c} {n:,}" for c, n in by_class.items()])})')
            for kind, by_class in kinds.items()
        )


def scan_images(
    root: str | os.PathLike, extensions: Sequence[str], leaf: bool = False
) -> ImageFolder:
    """Read a folder of classes. Links are followed; what is hidden (`.name`) is not seen.

    Args:
        root: The folder.
        extensions: Of files to read, such as ``'.jpg'``, in any case.
        leaf: A class is a folder that holds files, called by its own name, as timm has it, wherever
            it stands; else a sub-folder of ``root`` with all that is below it, as mmpretrain does.

    Raises:
        DatasetError: If there is no such folder, or it cannot be read.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise DatasetError(f'{root!r} does not exist: expected a folder of images a class in it')
    extensions = tuple(sorted({extension.lower() for extension in extensions}))
    files: dict[str, list[str]] = {}
    skipped: Counter[tuple[str, str]] = Counter()
    try:
        for folder, path, kind in _walk(root, ''):
            name = os.path.basename(folder) if leaf else folder.split(os.sep)[0]
            is_image = path.lower().endswith(extensions)
            if not name:
                if is_image:
                    skipped['', LOOSE] += 1
            elif kind is None and is_image:
                files.setdefault(name, []).append(path)
            elif path:
                ending = os.path.splitext(path)[1].lower() or 'without an extension'
                skipped[name, kind or ending] += 1
            else:
                files.setdefault(name, [])
    except OSError as error:
        raise DatasetError(f'{root!r} cannot be read: {error}') from None
    return ImageFolder(
        root, extensions, {name: sorted(files[name]) for name in sorted(files)}, skipped
    )


def _walk(root: str, folder: str) -> Iterator[tuple[str, str, str | None]]:
    """Folder, path (both relative to root) and kind of each entry, the kind of a file being None.

    A folder that holds no folders is an entry, too, with an empty path: it may be an empty class.
    """
    is_leaf = True
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            if entry.name.startswith('.'):
                continue
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                if entry.is_symlink() and _is_above(entry.path, os.path.join(root, folder)):
                    yield folder, path, ABOVE
                    continue
                is_leaf = False
                yield from _walk(root, path)
            else:
                yield folder, path, None if entry.is_file() else BROKEN
    if is_leaf:
        yield folder, '', None


def _is_above(link: str, folder: str) -> bool:
    target = os.path.realpath(link)
    return os.path.commonpath([target, os.path.realpath(folder)]) == target


def check_same_classes(
    expected: Sequence[str], found: Sequence[str], of_expected: str, of_found: str
) -> None:
    """Refuse classes that are not the same, in the same order.

    Raises:
        DatasetError: Naming the classes that only one of them has.
    """
    expected, found = list(expected), list(found)
    if expected == found:
        return
    missing = [name for name in expected if name not in set(found)]
    more = [name for name in found if name not in set(expected)]
    parts = [f'lacks {listed(missing)}'] * bool(missing) + [f'has also {listed(more)}'] * bool(more)
    if not parts:
        first = next((a, b) for a, b in zip(expected, found, strict=False) if a != b)
        parts = [f'has {first[1]!r} where {first[0]!r} is expected']
    raise DatasetError(
        f'{of_found} {" and ".join(parts)}: its labels would not be those of {of_expected}, which '
        f'has {len(expected):,} classes'
    )


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f' and {len(names) - most:,} more' if len(names) > most else ''
    return ', '.join(map(str, names[:most])) + more
