"""Reading a file of settings, such as a study's, into plain values."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from shd_vit.errors import ConfigError

MAX_BYTES, MAX_VALUES, MAX_DEPTH, MAX_TEXT = 10**6, 10**5, 12, 10**4
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def short(value: object) -> str:
    """A value in a message: of one line, however large it is."""
    return _short.repr(value)


def need(right: object, message: str) -> None:
    """Raise ConfigError with this message if what must be so is not."""
    if not right:
        raise ConfigError(message)


def read_source(
    path: str | Path, what: str = 'study', holds: str = 'rows or grids'
) -> dict[str, Any]:
    """What a file of YAML defines: numbers, texts, lists and mappings by name.

    Args:
        path: Ends in .yaml or .yml.
        what: The file is called so in errors.
        holds: What it must define, at the least.

    Raises:
        ConfigError: If the file is missing, cannot be read, or is beyond any study's size.
    """
    path = Path(path)
    name = f'{what} {str(path)!r}'
    need(path.is_file() and path.suffix in ('.yaml', '.yml'), f'{name}: expected a .yaml file')
    need(path.stat().st_size <= MAX_BYTES, f'{name} is larger than {MAX_BYTES} bytes')
    try:
        values = yaml.load(path.read_text(encoding='utf-8'), Loader)
    except yaml.YAMLError as error:
        where = getattr(error, 'problem_mark', None)
        line = f' line {where.line + 1}:' if where else ''
        problem = getattr(error, 'problem', None) or 'not YAML'
        raise ConfigError(f'{name}:{line} {problem[:200]}') from None
    except RecursionError:
        raise ConfigError(f'{name} is nested too deeply') from None
    except Exception as error:  # numbers and dates that are none raise what they like
        reason = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        raise ConfigError(f'{name} cannot be read: {reason}') from None
    need(isinstance(values, dict), f'{name} must define {holds}')
    _check_plain(what, values, 0, itertools.count())
    return values


def read_value(text: str) -> object:
    """A value of a command line, as a file would have it.

    Raises:
        ConfigError: If it is no YAML.
    """
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f'{short(text)} is no value of YAML') from None


def _check_plain(field: str, value: Any, depth: int, seen: Iterator[int]) -> None:
    """Refuse what is no number, text, list or mapping, and aliases that unfold without end."""
    need(
        depth <= MAX_DEPTH and next(seen) < MAX_VALUES,
        f'{field}: there are at most {MAX_DEPTH} levels and {MAX_VALUES} values',
    )
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else ():
            _check_plain(f'{field}: a name', key, depth + 1, seen)
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            place = str(key)[:80] if depth == 0 else f'{field[:200]}.{str(key)[:80]}'
            _check_plain(place, inner, depth + 1, seen)
    elif isinstance(value, int):
        need(-(2**63) <= value < 2**63, f'{field} is a whole number of more than 64 bits')
    elif isinstance(value, str):
        need(len(value) <= MAX_TEXT, f'{field} is a text of more than {MAX_TEXT} letters')
    else:
        right = value is None or isinstance(value, float)
        need(right, f'{field}={short(value)} must be a number, text, list or mapping')


class Loader(yaml.SafeLoader):
    """PyYAML's, but 1e-3 is a number, and a key that is given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'{key!r} is defined twice', key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a point and a sign: 1.0e-3.
Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?\d+(\.\d*)?[eE][-+]?\d+$'), list('-+0123456789')
)
