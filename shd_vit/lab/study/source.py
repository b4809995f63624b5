"""Reading a file of settings into plain values: YAML, or Python that defines the same names."""

from __future__ import annotations

import re
import reprlib
import runpy
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


def read_source(
    path: str | Path, what: str = 'study', holds: str = 'rows or grids'
) -> dict[str, Any]:
    """The names that a file defines, with numbers, texts, lists and mappings as values.

    Of a Python file these are the variables that hold such values and start with a letter.

    Args:
        path: .yaml or .py.
        what: The file is called so in errors.
        holds: What it must define, at the least.

    Raises:
        ConfigError: If the file is missing, cannot be read, or is beyond any study's size.
    """
    path = Path(path)
    name = f'{what} {str(path)!r}'
    if not path.is_file() or path.suffix not in ('.yaml', '.yml', '.py'):
        raise ConfigError(f'{name}: expected a .yaml or .py file')
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f'{name} is larger than {MAX_BYTES} bytes')
    try:
        values = _of_python(path) if path.suffix == '.py' else _of_yaml(path)
    except yaml.YAMLError as error:
        where = getattr(error, 'problem_mark', None)
        line = f' line {where.line + 1}:' if where else ''
        problem = getattr(error, 'problem', None) or 'not YAML'
        raise ConfigError(f'{name}:{line} {problem[:200]}') from None
    except RecursionError:
        raise ConfigError(f'{name} is nested too deeply') from None
    except (Exception, SystemExit) as error:  # of Python anything; of YAML, numbers and dates
        reason = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        raise ConfigError(f'{name} cannot be read: {reason}') from None
    if not isinstance(values, dict):
        raise ConfigError(f'{name} must define {holds}')
    _check_plain(values, what)
    return values


def read_value(text: str) -> object:
    """A value of a command line, as a file would have it.

    Raises:
        ConfigError: If it is no YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f'{short(text)} is no value of YAML') from None


def _of_python(path: Path) -> dict[str, object]:
    kinds = bool | int | float | str | list | tuple | dict | None
    return {
        name: value
        for name, value in runpy.run_path(str(path)).items()
        if not name.startswith('_') and isinstance(value, kinds)
    }


def _of_yaml(path: Path) -> object:
    text = path.read_text(encoding='utf-8')
    depth = 0
    for event in yaml.parse(text, _Loader):  # before anything is built, which recurses
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecursionError
    return yaml.load(text, _Loader)


def _check_plain(values: dict, what: str) -> None:
    """Refuse what is no number, text, list or mapping, and aliases that unfold without end."""
    stack: list[tuple[str, object, int]] = [(what, values, 0)]
    count = 0
    while stack:
        field, value, depth = stack.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ConfigError(
                f'{field[:200]}: a {what} has at most {MAX_DEPTH} levels and {MAX_VALUES} values'
            )
        prefix = '' if depth == 0 else f'{field[:200]}.'
        if isinstance(value, dict):
            stack += [(f'{field}: a name', key, depth + 1) for key in value]
            stack += [(f'{prefix}{str(k)[:80]}', v, depth + 1) for k, v in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f'{prefix}{i}', item, depth + 1) for i, item in enumerate(value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigError(f'{field} is a whole number of more than 64 bits')
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            raise ConfigError(f'{field} is a text of more than {MAX_TEXT} letters')
        elif not isinstance(value, str | int | float | None):
            raise ConfigError(f'{field}={short(value)} must be a number, text, list or mapping')


class _Loader(yaml.SafeLoader):
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
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?\d+(\.\d*)?[eE][-+]?\d+$'), list('-+0123456789')
)
