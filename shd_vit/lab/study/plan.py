"""What a study consists of, and how its file says so."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.study.source import read_source, short

MAX_CELLS = 10_000
SEED = 'randomness.seed'
ROW = ('config', 'options', 'seeds', 'command', 'resume', 'metrics')
KEYS = ('seeds', 'metric', 'options', 'rows', 'grids', 'tables', 'command', 'resume', 'metrics')
FORMATS = ('.csv', '.json', '.jsonl')
PLACE = re.compile(r'\{([\w.]+)\}')  # of a seed, the folder or an option in a command


@dataclass(frozen=True)
class Row:
    """A training, to be run once per seed: of a config, or any command.

    Attributes:
        config: mmengine's; None for a command.
        options: Settings to override, by dotted key, or what is put into places of the command;
            the study's own included.
        command: Words, with places like ``{seed}``.
        resume: More words, for a cell that goes on.
        metrics: The file that the command writes, in the cell's folder; may be a pattern.
    """

    name: str
    config: str | None
    options: dict[str, Any]
    seeds: tuple[int, ...]
    command: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    metrics: str = ''

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
                raise ConfigError(f'{field}: no row or grid {name!r}; allowed are {known[:500]}')
            names += self.grids.get(name, (name,))
        return tuple(dict.fromkeys(names))


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: Naming the field, its value and what is allowed.
    """
    source = read_source(path)
    _check_keys(source, KEYS, 'study')
    metric = _text(source.get('metric', 'accuracy/top1'), 'metric', 'the name of a metric')
    base = _row('', {key: source[key] for key in ROW if key in source}, '', None)
    rows = {
        name: [_row(name, value, f'rows.{name}', base)]
        for name, value in _mapping(source.get('rows'), 'rows').items()
    }
    grids = _mapping(source.get('grids'), 'grids')
    axes = {name: _axes(grid, f'grids.{name}') for name, grid in grids.items()}
    cells = sum(len(row.seeds) for (row,) in rows.values())
    for name, grid in grids.items():
        seeds = _row('', {k: v for k, v in grid.items() if k == 'seeds'}, name, base).seeds
        cells += len(seeds) * math.prod(map(len, axes[name].values()))
    if not cells:
        raise ConfigError(f'study {str(path)!r} must define rows or grids')
    if cells > MAX_CELLS:
        raise ConfigError(f'study {str(path)!r} has {cells:.6g} cells: at most {MAX_CELLS}')
    members = {name: _grid(name, grid, axes[name], base) for name, grid in grids.items()}
    every = [row for made in (*rows.values(), *members.values()) for row in made]
    _check_names([*(row.name for row in every), *grids], [row.folder for row in every])
    for row in every:
        _check_command(row)
    named = {name: tuple(row.name for row in made) for name, made in members.items()}
    study = Study({row.name: row for row in every}, metric, (), named)
    return replace(study, tables=_tables(source.get('tables'), study, Path(path).stem))


def _row(name: str, value: object, field: str, base: Row | None) -> Row:
    """A row over the study's own settings, or these (without ``base``)."""
    value = _mapping({'config': value} if isinstance(value, str) else value, field)
    _check_keys(value, ROW, field)
    base, prefix = base or Row(name, None, {}, (0,)), f'{field}.' if field else ''
    readers: dict[str, Any] = dict(
        seeds=_seeds,
        command=_words,
        resume=_words,
        metrics=_metrics,
        config=_config,
        options=_options,
    )
    changes: dict[str, Any] = {key: readers[key](value[key], f'{prefix}{key}') for key in value}
    changes['options'] = {**base.options, **changes.get('options', {})}
    if 'config' in changes:
        if {'command', 'resume', 'metrics'} & value.keys():
            raise ConfigError(f'{field} has a config and a command: one of them is its training')
        changes.update(command=(), resume=(), metrics='')
    return replace(base, name=name, **changes)


def _axes(value: Any, field: str) -> dict[str, list]:
    axes = _options(_mapping(value, field).get('options'), f'{field}.options')
    if not axes or not all(isinstance(v, list | tuple) and v for v in axes.values()):
        raise ConfigError(f'{field}.options must give each key a list of values')
    return axes


def _grid(name: str, value: dict, axes: dict[str, list], base: Row) -> list[Row]:
    """A row for each combination of the values that options are given."""
    short_keys = [key.rpartition('.')[2] for key in axes]
    labels = [
        s if short_keys.count(s) == 1 else key for s, key in zip(short_keys, axes, strict=True)
    ]
    rows = []
    for values in itertools.product(*axes.values()):
        label = ','.join(f'{k}={v}' for k, v in zip(labels, values, strict=True))
        own = {**value, 'options': dict(zip(axes, values, strict=True))}
        rows.append(_row(f'{name}/{label}', own, f'grids.{name}', base))
    return rows


def _tables(tables: Any, study: Study, title: str) -> tuple[Comparison, ...]:
    if tables is None:
        return (Comparison(title, tuple(study.rows), next(iter(study.rows))),)
    if not isinstance(tables, list | tuple):
        raise ConfigError(f'tables={short(tables)} must be a list')
    comparisons = []
    for i, table in enumerate(tables):
        field = f'tables.{i}'
        table = _mapping(table, field)
        _check_keys(table, ('title', 'rows', 'against'), field)
        chosen = table.get('rows', list(study.rows))
        right = isinstance(chosen, list | tuple) and chosen
        if not right or not all(isinstance(name, str) for name in chosen):
            raise ConfigError(f'{field}.rows={short(chosen)} must be a list of names')
        rows = study.names(chosen, f'{field}.rows')
        against = table.get('against', rows[0])
        if not isinstance(against, str) or against not in study.rows:
            known = ', '.join(study.rows)[:500]
            raise ConfigError(
                f'{field}.against={short(against)} must be a row: allowed are {known}'
            )
        title_of = _text(table.get('title', title), f'{field}.title', 'text')
        comparisons.append(Comparison(title_of, rows, against))
    return tuple(comparisons)


def _check_command(row: Row) -> None:
    """Each cell of a command has a folder and a seed of its own, and no option is left over."""
    if row.config is not None:
        return
    field = f'rows.{row.name}'
    if not row.command and not row.metrics:
        raise ConfigError(f'{field}.config=None must be the path of a config; or give a command')
    if not row.command or not row.metrics:
        raise ConfigError(f'{field}: a command needs the metrics file that it writes, and that it')
    places = {place for word in (*row.command, *row.resume) for place in PLACE.findall(word)}
    needed = ['out', *(['seed'] if len(row.seeds) > 1 else []), *row.options]
    for place in needed:
        if place not in places:
            raise ConfigError(f'{field}.command has no {{{place}}} to be filled in')
    allowed = ['seed', 'out', 'processes', *row.options]
    for place in sorted(places.difference(allowed)):
        raise ConfigError(f'{field}.command: {{{place}}} is none of {", ".join(allowed)}')


def _config(value: object, field: str) -> str:
    return _text(value, field, 'the path of a config')


def _words(value: Any, field: str) -> tuple[str, ...]:
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f'{field}={short(value)}: {error}') from None
    right = isinstance(words, list | tuple) and words
    if not right or not all(isinstance(word, str | int | float) for word in words):
        raise ConfigError(f'{field}={short(value)} must be a command line, or a list of its words')
    return tuple(map(str, words))


def _metrics(value: object, field: str) -> str:
    path = PurePath(_text(value, field, 'a file that the command writes'))
    if path.is_absolute() or '..' in path.parts or path.suffix not in FORMATS:
        raise ConfigError(
            f"{field}={short(value)} must be a file in the cell's folder that ends in one of "
            f'{", ".join(FORMATS)}'
        )
    return str(path)


def _text(value: object, field: str, what: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ConfigError(f'{field}={short(value)} must be {what}')
    return value


def _mapping(value: Any, field: str) -> dict:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f'{field}={short(value)} must be a mapping')
    if not all(isinstance(key, str) and key and key.isprintable() for key in value or {}):
        raise ConfigError(f'{field}: names must be text, not {short(list(value or {}))}')
    return value or {}


def _options(value: object, field: str) -> dict[str, Any]:
    options = _mapping(value, field)
    for key in (SEED, 'seed', 'out', 'processes'):
        if key in options:
            raise ConfigError(
                f'{field}: {key} is set from {"seeds" if "seed" in key else "outside"}'
            )
    return options


def _seeds(seeds: Any, field: str) -> tuple[int, ...]:
    right = isinstance(seeds, list | tuple) and seeds and all(type(seed) is int for seed in seeds)
    if not right or min(seeds) < 0 or max(seeds) >= 2**32 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f'{field}={short(seeds)} must be different whole numbers from 0 to 2**32 - 1, not empty'
        )
    return tuple(seeds)


def _check_keys(value: dict, allowed: Sequence[str], field: str) -> None:
    for key in value:
        if key not in allowed:
            raise ConfigError(
                f'{field}: unknown key {short(key)}; allowed are {", ".join(allowed)}'
            )


def _check_names(names: list[str], folders: list[str]) -> None:
    for values, what in ((names, 'name'), (folders, 'folder')):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise ConfigError(
                f'the {what} {short(value)} is used twice: rows and grids need others'
            )
    for name in names:
        if not name.isprintable():
            raise ConfigError(f'the name {short(name)} must be of one line')
    for folder in folders:
        if folder.startswith('.') or len(folder.encode()) > 200:
            raise ConfigError(
                f'{short(folder)} cannot be a folder: a row needs a name of at most 200 letters, '
                'not starting with a point'
            )
