"""The manifest beside a `.beton` file: what the file is to hold, so that damage can be told."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from shd_vit.errors import DatasetError
from shd_vit.files import write_whole

MANIFEST_FORMAT = 1


def digest(*parts: Any) -> str:
    """Hash of bytes or arrays, as the manifest holds it. 128 bits: against damage, not malice."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(memoryview(part).cast('B') if isinstance(part, bytes) else part.view('u1'))
    return state.hexdigest()


def manifest_path(path: str | os.PathLike) -> str:
    return f'{os.fspath(path)}.json'


def write_manifest(path: str | os.PathLike, manifest: dict) -> None:
    """Put a manifest beside a file: all of it or, whatever happens, nothing."""
    with write_whole(manifest_path(path)) as part, open(part, 'w', encoding='utf-8') as file:
        json.dump(manifest, file, indent=1)


def read_manifest(path: str | os.PathLike) -> dict:
    """The manifest of a file.

    Raises:
        DatasetError: If it is missing, damaged, or of a newer format.
    """
    name = manifest_path(path)
    try:
        with open(name, encoding='utf-8') as file:
            manifest = json.load(file)
    except FileNotFoundError:
        raise DatasetError(
            f'{os.fspath(path)!r} has no manifest, as if FFCV itself had written it: '
            f'python tools/data/verify_ffcv.py {os.fspath(path)} --adopt checks all of the file '
            f'and writes {name!r}'
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f'{name!r} cannot be read: {error}') from None
    if not isinstance(manifest, dict) or manifest.get('format') != MANIFEST_FORMAT:
        raise DatasetError(f'{name!r} is not a manifest of format {MANIFEST_FORMAT}')
    missing = {'classes', 'file_size', 'index_digest', 'page_digests'} - manifest.keys()
    if missing:
        raise DatasetError(f'{name!r} lacks {sorted(missing)}')
    folders = source.get('folders') if isinstance(source := manifest.get('source'), dict) else None
    for key, good in (
        ('classes', _is_names(manifest['classes'])),
        ('source', source is None or (isinstance(source, dict) and _is_names(folders))),
        ('options', isinstance(manifest.get('options'), dict | None)),
        ('page_digests', isinstance(manifest['page_digests'], list)),
    ):
        if not good:
            raise DatasetError(f'{name!r} is damaged: {key} is {str(manifest[key])[:60]!r}')
    return manifest


def _is_names(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )
