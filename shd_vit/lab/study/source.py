"""Reading a study's file into a dict: YAML, or Python that defines the same names."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import ModuleType

import yaml

from shd_vit.errors import ConfigError


def read_source(path: str | Path) -> dict[str, object]:
    """The names that a study's file defines.

    Of a Python file these are the variables, but for modules, functions, classes and names that
    start with an underscore.

    Raises:
        ConfigError: If the file is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file() or path.suffix not in ('.yaml', '.yml', '.py'):
        raise ConfigError(f'study {str(path)!r}: expected a .yaml or .py file')
    if path.suffix == '.py':
        return {
            name: value
            for name, value in runpy.run_path(str(path)).items()
            if not (name.startswith('_') or isinstance(value, ModuleType) or callable(value))
            and name != 'annotations'  # what `from __future__` leaves
        }
    try:
        values = yaml.load(path.read_text(), _Loader)
    except yaml.YAMLError as error:
        where = getattr(error, 'problem_mark', None)
        line = f' line {where.line + 1}:' if where else ''
        problem = getattr(error, 'problem', None) or 'not YAML'
        raise ConfigError(f'study {str(path)!r}:{line} {problem}') from None
    if not isinstance(values, dict):
        raise ConfigError(f'study {str(path)!r} must define rows or grids')
    return values


class _Loader(yaml.SafeLoader):
    """PyYAML's, but 1e-3 is a number, and a key that is given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key_node, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f'{key!r} is defined twice', key_node.start_mark
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a point and a sign: 1.0e-3.
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?\d+(\.\d*)?[eE][-+]?\d+$'), list('-+0123456789')
)
