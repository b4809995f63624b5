"""What the benchmarks share: the machine they ran on, tables, and the tests' references."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
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
        Path(markdown).write_text('\n'.join(_markdown(*table) for table in tables))


def from_tests(name: str) -> ModuleType:
    """A module of the tests, which an installed package does not have."""
    tests = ROOT / 'tests'
    if not (tests / 'references.py').is_file():
        raise ConfigError('the yardstick is in tests/: run this from a clone of the repository')
    if str(tests) not in sys.path:
        sys.path[:0] = [str(tests)]
    return importlib.import_module(name)


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(': ')[1] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor()


def _markdown(title: str, rows: list[list[str]]) -> str:
    head, *body = (f'| {" | ".join(row)} |' for row in rows)
    rule = f'| --- |{" ---: |" * (len(rows[0]) - 1)}'
    return '\n'.join([f'## {title}', '', head, rule, *body, ''])
