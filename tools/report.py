"""What the benchmarks share: the machine, turns, tables, and the tests' references."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table as RichTable

import shd_vit
from shd_vit.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
Table = tuple[str, list[list[str]]]  # title; rows, of which the first is the headings


def environment() -> dict[str, object]:
    on_gpu = torch.cuda.is_available()
    return dict(
        processor=_processor(),
        device=torch.cuda.get_device_name() if on_gpu else 'CPU',
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        shd_vit=shd_vit.__version__,
        python=platform.python_version(),
        load_before=round(os.getloadavg()[0], 2),
    )


def environment_table(values: dict[str, object]) -> Table:
    return 'Environment', [['', ''], *([key, str(value)] for key, value in values.items())]


def in_turns(
    runs: dict[str, Callable[[], None]],
    rounds: int,
    label: str | None = None,
    steps: int = 1,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each run, ``steps`` at a stretch in each round, after ``warm_up`` more rounds."""
    times = {name: [] for name in runs}
    turns = range(-warm_up, rounds)
    for turn in track(turns, label, transient=True) if label else turns:
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
        table = RichTable(title=title, title_justify='left')
        for i, heading in enumerate(rows[0]):
            table.add_column(heading, justify='right' if i else 'left')
        for row in rows[1:]:
            table.add_row(*row)
        Console().print(table)
    if markdown:
        Path(markdown).write_text('\n'.join(as_markdown(*table) for table in tables))


def as_markdown(title: str, rows: list[list[str]]) -> str:
    """A heading and a table of GitHub's Markdown."""
    head, *body = (f'| {" | ".join(row)} |' for row in rows)
    rule = f'| --- |{" ---: |" * (len(rows[0]) - 1)}'
    return '\n'.join([f'## {title}', '', head, rule, *body, ''])


def from_tests(name: str) -> ModuleType:
    """A module of the tests, which an installed package does not have."""
    tests = ROOT / 'tests'
    if not (tests / 'references.py').is_file():
        raise ConfigError('the yardstick is in tests/: run this from a clone of the repository')
    if str(tests) not in sys.path:
        sys.path[:0] = [str(tests)]
    return importlib.import_module(name)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(': ')[1] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor()
