"""Files of settings: read, put over their bases and under a command line, and built by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from shd_vit.errors import ConfigError
from shd_vit.lab.study.source import read_source, read_value, short

BASE = 'base'
MAX_BASES = 10
T = TypeVar('T')


def read_merged(path: str | Path, overrides: Sequence[str], holds: str) -> dict[str, Any]:
    """Settings of a file, over those of its ``base``, under those of a command line.

    Args:
        path: .yaml. ``base: other.yaml``, beside it, gives what it does not say itself; mappings
            are merged, and null leaves out what the base has.
        overrides: ``losses.shd.beta=2`` and the like, values as in YAML.
        holds: What such a file defines, for an error.

    Raises:
        ConfigError: Naming the file, or the override.
    """
    path = Path(path)
    chain: list[dict[str, Any]] = []
    while True:
        values = read_source(path, 'config', holds)
        chain.append(values)
        base = values.pop(BASE, None)
        if base is None:
            break
        if not isinstance(base, str) or len(chain) > MAX_BASES:
            raise ConfigError(f'{str(path)!r}: base={short(base)} must be a file, and no circle')
        path = path.parent / base
    merged: dict[str, Any] = {}
    for values in [*reversed(chain), *map(_override, overrides)]:
        merged = merge(merged, values)
    return merged


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping over another, key by key; null leaves a key out."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            under = merged.get(key)
            merged[key] = merge(under if isinstance(under, Mapping) else {}, value)  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


def check_names(
    given: Mapping[str, Any], allowed: Sequence[str], field: str, needed: Iterable[str] = ()
) -> None:
    """Refuse a name that is not allowed, saying which are and which may be meant, or is missing.

    Raises:
        ConfigError: Naming the first.
    """
    prefix = f'{field}.' if field else ''
    for name in given:
        if name not in allowed:
            close = get_close_matches(str(name), allowed, n=1)
            meant = f'; did you mean {close[0]}?' if close else ''
            raise ConfigError(f'{prefix}{name} is unknown; allowed are {", ".join(allowed)}{meant}')
    for name in needed:
        if name not in given:
            raise ConfigError(f'{prefix}{name} is missing')


def build(cls: type[T], given: Any, field: str = '') -> T:
    """A dataclass from a mapping, each name of which is a field, and each needed one given.

    Raises:
        ConfigError: Naming the field.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f'{field}={short(given)} must be a mapping')
    fields, missing = dataclasses.fields(cls), dataclasses.MISSING  # type: ignore[arg-type]
    needed = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    check_names(given, [f.name for f in fields], field, needed)
    return cls(**given)


def named_folders(arguments: list[str]) -> dict[str, str]:
    """Folders by name, of NAME=FOLDER each.

    Raises:
        ConfigError: If one is not that, or two have one name.
    """
    folders: dict[str, str] = {}
    for argument in arguments:
        name, is_given, folder = argument.partition('=')
        if not is_given or not name or '/' in name:
            raise ConfigError(f'{argument!r} must be NAME=FOLDER')
        if name in folders:
            raise ConfigError(f'{argument!r}: there is a folder named {name!r} already')
        folders[name] = folder
    return folders


def _override(text: str) -> dict[str, Any]:
    """A setting of a command line as a mapping of mappings."""
    key, is_there, value = text.partition('=')
    if not is_there or not all(key.split('.')):
        raise ConfigError(f'{text!r} must be KEY=VALUE, such as losses.shd.beta=2')
    change: Any = read_value(value)
    for part in reversed(key.split('.')):
        change = {part: change}
    return change
