"""What reports share: the machine, turns, tables and JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table as RichTable

from shd_vit.errors import ConfigError
from shd_vit.files import write_whole
from shd_vit.version import __version__

Table = tuple[str, list[list[str]]]  # title; rows, of which the first is the headings


def environment() -> dict[str, object]:
    on_gpu = torch.cuda.is_available()
    return dict(
        processor=_processor(),
        device=torch.cuda.get_device_name() if on_gpu else 'CPU',
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        shd_vit=__version__,
        python=platform.python_version(),
        load_before=round(os.getloadavg()[0], 2),
    )


def environment_table(values: dict[str, object]) -> Table:
    return 'Environment', [['', ''], *([key, str(value)] for key, value in values.items())]


def in_turns(
    runs: Mapping[str, Callable[[], None]],
    rounds: int,
    label: str | None = None,
    steps: int = 1,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each run, ``steps`` at a stretch in each round, after ``warm_up`` more rounds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    turns = range(-warm_up, rounds)
    for turn in track(turns, label or '', transient=True, disable=not label):
        for name, run in runs.items():
            for _ in range(steps):
                _synchronize()
                start = time.perf_counter()
                run()
                _synchronize()
                if turn >= 0:
                    times[name].append(time.perf_counter() - start)
    return times


def show(tables: list[Table], markdown: str | None = None) -> None:
    """Print tables; write them to the file ``markdown`` as well."""
    for title, rows in tables:
        table = RichTable(title=title or None, title_justify='left')
        for i, heading in enumerate(rows[0]):
            table.add_column(heading, justify='right' if i else 'left')
        for row in rows[1:]:
            table.add_row(*row)
        Console().print(table)
    if markdown:
        Path(markdown).write_text('\n'.join(as_markdown(*table) for table in tables))


def as_markdown(title: str, rows: list[list[str]]) -> str:
    """A heading and a table of GitHub's Markdown."""
    escaped = ([cell.replace('|', '\\|') for cell in row] for row in rows)
    head, *body = (f'| {" | ".join(row)} |' for row in escaped)
    rule = f'| --- |{" ---: |" * (len(rows[0]) - 1)}'
    return '\n'.join([f'## {title}', '', head, rule, *body, ''])


def write_json(values: object, path: str | Path | None) -> None:
    """Write values to a file, whole or not at all; no file, nothing."""
    if path is None:
        return
    with write_whole(path) as part:
        part.write_text(json.dumps(values, indent=1, default=str) + '\n')


def read_json(path: str | Path) -> Any:
    """The value in a file of JSON.

    Raises:
        ConfigError: If there is none that can be read, or one that names an entry twice.
    """
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f'{str(path)!r} cannot be read as JSON: {reason}') from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'{max(names, key=names.count)[:80]!r} is defined twice')
    return values


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(': ')[1] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor()
