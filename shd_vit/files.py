"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: str | os.PathLike, *, alone: bool = True) -> Iterator[Path]:
    """A name to write a file under, which becomes ``path`` when the block ends without an error.

    Until then ``path`` is as it was. After an error nothing is left, and a killed process leaves at
    most a hidden file. Both the content and its name last through a power cut.

    Args:
        path: In a folder that exists.
        alone: No other process writes this file. The name in between is then always the same, so
            that what a killed process has left is written over.
    """
    path = Path(path)
    mark = '' if alone else f'.{secrets.token_hex(4)}'
    part = path.with_name(f'.{path.name}{mark}.part')
    try:
        yield part
        _sync(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
