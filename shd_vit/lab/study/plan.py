"""What a study consists of, and how its file says so."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.study.source import read_source

KEYS = ('seeds', 'metric', 'options', 'rows', 'grids', 'tables')
SEED = 'randomness.seed'


@dataclass(frozen=True)
class Row:
    """A config with options, to be trained once per seed.

    Attributes:
        options: Settings to override, by dotted key; the study's own included.
    """

    name: str
    config: str
    options: dict[str, object]
    seeds: tuple[int, ...]

    @property
    def folder(self) -> str:
        return re.sub(r'[^\w.,=+-]+', '_', self.name)


@dataclass(frozen=True)
class Comparison:
    """Rows of one table; each is set against one of them, seed by seed."""

    title: str
    rows: tuple[str, ...]
    against: str


@dataclass(frozen=True)
class Study:
    rows: dict[str, Row]
    metric: str
    tables: tuple[Comparison, ...]
    grids: dict[str, tuple[str, ...]]

    def names(self, chosen: Sequence[str], field: str) -> tuple[str, ...]:
        """Names of rows, of names of rows and of grids.

        Raises:
            ConfigError: If there is no row or grid of a name.
        """
        names: list[str] = []
        for name in chosen:
            if name not in self.rows and name not in self.grids:
                known = ', '.join([*self.rows, *self.grids])
                raise ConfigError(f'{field}: no row or grid {name!r}; allowed are {known}')
            names += self.grids.get(name, (name,))
        return tuple(dict.fromkeys(names))


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: Naming the field, its value and what is allowed.
    """
    source = read_source(path)
    _check_keys(source, KEYS, 'study')
    metric = source.get('metric', 'accuracy/top1')
    if not isinstance(metric, str):
        raise ConfigError(f'metric={metric!r} must be the name of a metric, like accuracy/top1')
    defaults: dict[str, Any] = dict(
        seeds=_seeds(source.get('seeds', [0]), 'seeds'),
        options=_options(source.get('options'), 'options'),
    )
    rows = [
        _row(name, value, f'rows.{name}', **defaults)
        for name, value in _mapping(source.get('rows'), 'rows').items()
    ]
    grids = {}
    for name, value in _mapping(source.get('grids'), 'grids').items():
        members = _grid(name, value, f'grids.{name}', **defaults)
        grids[name] = tuple(row.name for row in members)
        rows += members
    if not rows:
        raise ConfigError(f'study {str(path)!r} must define rows or grids')
    _check_names([*(row.name for row in rows), *grids], [row.folder for row in rows])
    study = Study({row.name: row for row in rows}, metric, (), grids)
    return Study(study.rows, metric, _tables(source.get('tables'), study, Path(path).stem), grids)


def _row(
    name: str, value: object, field: str, seeds: tuple[int, ...], options: dict[str, object]
) -> Row:
    value = {'config': value} if isinstance(value, str) else value
    value = _mapping(value, field)
    _check_keys(value, ('config', 'options', 'seeds'), field)
    config = value.get('config')
    if not isinstance(config, str):
        raise ConfigError(f'{field}.config={config!r} must be the path of a config')
    seeds = _seeds(value['seeds'], f'{field}.seeds') if 'seeds' in value else seeds
    return Row(name, config, {**options, **_options(value.get('options'), field)}, seeds)


def _grid(name: str, value: object, field: str, **defaults) -> list[Row]:
    """A row for each combination of the values that options are given."""
    value = _mapping(value, field)
    axes = _options(value.get('options'), field)
    if not axes or not all(isinstance(v, list | tuple) and v for v in axes.values()):
        raise ConfigError(f'{field}.options must give each key a list of values')
    short = [key.rpartition('.')[2] for key in axes]
    labels = [s if short.count(s) == 1 else key for s, key in zip(short, axes, strict=True)]
    rows = []
    for values in itertools.product(*axes.values()):
        label = ','.join(f'{k}={v}' for k, v in zip(labels, values, strict=True))
        options = dict(zip(axes, values, strict=True))
        rows.append(_row(f'{name}/{label}', {**value, 'options': options}, field, **defaults))
    return rows


def _tables(tables: object, study: Study, title: str) -> tuple[Comparison, ...]:
    if tables is None:
        return (Comparison(title, tuple(study.rows), next(iter(study.rows))),)
    if not isinstance(tables, list | tuple):
        raise ConfigError(f'tables={tables!r} must be a list')
    comparisons = []
    for i, table in enumerate(tables):
        field = f'tables.{i}'
        table = _mapping(table, field)
        _check_keys(table, ('title', 'rows', 'against'), field)
        chosen = table.get('rows', list(study.rows))
        if not isinstance(chosen, list | tuple) or not chosen:
            raise ConfigError(f'{field}.rows={chosen!r} must be a list of names')
        rows = study.names(chosen, f'{field}.rows')
        against = table.get('against', rows[0])
        if against not in study.rows:
            raise ConfigError(
                f'{field}.against={against!r} must be a row: allowed are {", ".join(study.rows)}'
            )
        comparisons.append(Comparison(str(table.get('title', title)), rows, against))
    return tuple(comparisons)


def _mapping(value: Any, field: str) -> dict:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f'{field}={value!r} must be a mapping')
    if not all(isinstance(key, str) and key for key in value or {}):
        raise ConfigError(f'{field}: names must be text, not {list(value or {})}')
    return value or {}


def _options(value: object, field: str) -> dict[str, Any]:
    options = _mapping(value, field)
    if SEED in options:
        raise ConfigError(f'{field}: {SEED} is set from seeds')
    return options


def _seeds(seeds: Any, field: str) -> tuple[int, ...]:
    right = isinstance(seeds, list | tuple) and seeds and all(type(seed) is int for seed in seeds)
    if not right or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f'{field}={seeds!r} must be different whole numbers from 0, not empty')
    return tuple(seeds)


def _check_keys(value: dict, allowed: Sequence[str], field: str) -> None:
    for key in value:
        if key not in allowed:
            raise ConfigError(f'{field}: unknown key {key!r}; allowed are {", ".join(allowed)}')


def _check_names(names: list[str], folders: list[str]) -> None:
    for values, what in ((names, 'name'), (folders, 'folder')):
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f'the {what} {value!r} is used twice: rows and grids need others')
    for folder in folders:
        if folder.startswith('.') or len(folder) > 200:
            raise ConfigError(
                f'{folder!r} cannot be a folder: a row needs a name of at most 200 letters, not '
                'starting with a point'
            )
