"""What a study consists of, and how its file says so."""

from __future__ import annotations

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.study.source import need, read_source, short

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
        known = {name: (name,) for name in self.rows} | self.grids
        for name in chosen:
            allowed = ', '.join(known)[:500]
            need(name in known, f'{field}: no row or grid {name!r}; allowed are {allowed}')
        return tuple(dict.fromkeys(name for own in chosen for name in known[own]))


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: Naming the field, its value and what is allowed.
    """
    source, study = read_source(path), f'study {str(path)!r}'
    _check_keys(source, KEYS, 'study')
    metric = _text(source.get('metric', 'accuracy/top1'), 'metric', 'the name of a metric')
    base = _row('', {key: source[key] for key in ROW if key in source}, '', None)
    rows, grids = (_mapping(source.get(key), key) for key in ('rows', 'grids'))
    single = (('', _row(name, value, f'rows.{name}', base)) for name, value in rows.items())
    members = ((name, row) for name in grids for row in _grid(name, grids[name], base))
    # A grid is not built beyond what is allowed: each row is a cell or more.
    made = list(itertools.islice(itertools.chain(single, members), MAX_CELLS + 1))
    need(made, f'{study} must define rows or grids')
    cells = sum(len(row.seeds) for _, row in made)
    need(cells <= MAX_CELLS, f'{study} has more than {MAX_CELLS} cells')
    _check_names([*(row.name for _, row in made), *grids], [row.folder for _, row in made])
    for _, row in made:
        _check_command(row)
    named = {name: tuple(row.name for grid, row in made if grid == name) for name in grids}
    plan = Study({row.name: row for _, row in made}, metric, (), named)
    return replace(plan, tables=_tables(source.get('tables'), plan, Path(path).stem))


def _row(name: str, value: object, field: str, base: Row | None) -> Row:
    """A row over the study's own settings, or these (without ``base``)."""
    value = _mapping({'config': value} if isinstance(value, str) else value, field)
    _check_keys(value, ROW, field)
    base, prefix = base or Row(name, None, {}, (0,)), f'{field}.' if field else ''
    changes: dict[str, Any] = {key: READERS[key](value[key], f'{prefix}{key}') for key in value}
    changes['options'] = {**base.options, **changes.get('options', {})}
    if 'config' in changes:
        is_one = not {'command', 'resume', 'metrics'} & value.keys()
        need(is_one, f'{field} has a config and a command: one of them is its training')
        changes.update(command=(), resume=(), metrics='')
    return replace(base, name=name, **changes)


def _grid(name: str, value: Any, base: Row) -> Iterator[Row]:
    """A row for each combination of the values that options are given."""
    field = f'grids.{name}'
    axes = _options(_mapping(value, field).get('options'), f'{field}.options')
    right = axes and all(isinstance(values, list) and values for values in axes.values())
    need(right, f'{field}.options must give each key a list of values')
    ends = [key.rpartition('.')[2] for key in axes]
    labels = [end if ends.count(end) == 1 else key for end, key in zip(ends, axes, strict=True)]
    for values in itertools.product(*axes.values()):
        label = ','.join(f'{k}={v}' for k, v in zip(labels, values, strict=True))
        own = {**value, 'options': dict(zip(axes, values, strict=True))}
        yield _row(f'{name}/{label}', own, field, base)


def _tables(tables: Any, study: Study, title: str) -> tuple[Comparison, ...]:
    if tables is None:
        return (Comparison(title, tuple(study.rows), next(iter(study.rows))),)
    need(isinstance(tables, list), f'tables={short(tables)} must be a list')
    return tuple(_table(table, study, title, f'tables.{i}') for i, table in enumerate(tables))


def _table(table: Any, study: Study, title: str, field: str) -> Comparison:
    table = _mapping(table, field)
    _check_keys(table, ('title', 'rows', 'against'), field)
    chosen = table.get('rows', list(study.rows))
    right = isinstance(chosen, list) and chosen and all(isinstance(name, str) for name in chosen)
    need(right, f'{field}.rows={short(chosen)} must be a list of names')
    rows = study.names(chosen, f'{field}.rows')
    against = table.get('against', rows[0])
    known = ', '.join(study.rows)[:500]
    need(
        isinstance(against, str) and against in study.rows,
        f'{field}.against={short(against)} must be a row: allowed are {known}',
    )
    return Comparison(_text(table.get('title', title), f'{field}.title', 'text'), rows, against)


def _check_command(row: Row) -> None:
    """Each cell of a command has a folder and a seed of its own, and no option is left over."""
    if row.config is not None:
        return
    field = f'rows.{row.name}'
    has_any = row.command or row.metrics
    need(has_any, f'{field}.config=None must be the path of a config; or give a command')
    has_both = row.command and row.metrics
    need(has_both, f'{field}: a command needs the metrics file that it writes, and that it')
    places = {place for word in (*row.command, *row.resume) for place in PLACE.findall(word)}
    for place in ('out', *(['seed'] if len(row.seeds) > 1 else []), *row.options):
        need(place in places, f'{field}.command has no {{{place}}} to be filled in')
    allowed = ('seed', 'out', 'processes', *row.options)
    for place in sorted(places.difference(allowed)):
        raise ConfigError(f'{field}.command: {{{place}}} is none of {", ".join(allowed)}')


def _words(value: Any, field: str) -> tuple[str, ...]:
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f'{field}={short(value)}: {error}') from None
    is_list = isinstance(words, list) and bool(words)
    right = is_list and all(isinstance(word, str | int | float) for word in words)
    need(right, f'{field}={short(value)} must be a command line, or a list of its words')
    return tuple(map(str, words))


def _metrics(value: object, field: str) -> str:
    path = PurePath(_text(value, field, 'a file that the command writes'))
    right = not path.is_absolute() and '..' not in path.parts and path.suffix in FORMATS
    ends = ', '.join(FORMATS)
    need(right, f"{field}={short(value)} must be a file in the cell's folder, one of {ends}")
    return str(path)


def _text(value: Any, field: str, what: str = 'the path of a config') -> str:
    right = isinstance(value, str) and value and value.isprintable()
    need(right, f'{field}={short(value)} must be {what}')
    return value


def _mapping(value: Any, field: str) -> dict:
    value = {} if value is None else value
    need(isinstance(value, dict), f'{field}={short(value)} must be a mapping')
    right = all(isinstance(key, str) and key and key.isprintable() for key in value)
    need(right, f'{field}: names must be text, not {short(list(value))}')
    return value


def _options(value: object, field: str) -> dict[str, Any]:
    options = _mapping(value, field)
    for key in (SEED, 'seed', 'out', 'processes'):
        whence = 'seeds' if 'seed' in key else 'outside'
        need(key not in options, f'{field}: {key} is set from {whence}')
    return options


def _seeds(seeds: Any, field: str) -> tuple[int, ...]:
    right = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    right = right and all(0 <= seed < 2**32 for seed in seeds) and len(set(seeds)) == len(seeds)
    what = 'different whole numbers from 0 to 2**32 - 1, not empty'
    need(right, f'{field}={short(seeds)} must be {what}')
    return tuple(seeds)


READERS: dict[str, Any] = dict(
    config=_text, options=_options, seeds=_seeds, command=_words, resume=_words, metrics=_metrics
)


def _check_keys(value: dict, allowed: Sequence[str], field: str) -> None:
    for key in value:
        known = ', '.join(allowed)
        need(key in allowed, f'{field}: unknown key {short(key)}; allowed are {known}')


def _check_names(names: list[str], folders: list[str]) -> None:
    for values, what in ((names, 'name'), (folders, 'folder')):
        value, count = Counter(values).most_common(1)[0]
        need(count == 1, f'the {what} {short(value)} is used twice: rows and grids need others')
    for name in names:
        need(name.isprintable(), f'the name {short(name)} must be of one line')
    what = 'a row needs a name of at most 200 letters, not starting with a point'
    for folder in folders:
        right = not folder.startswith('.') and len(folder.encode()) <= 200
        need(right, f'{short(folder)} cannot be a folder: {what}')
