"""How fast images come: FFCVLoader against other loaders, all on the same stored JPEG bytes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from rich.progress import track

from shd_vit.lab.figures import pyplot
from shd_vit.lab.loaders import CEILING, LOADERS, YARDSTICK
from shd_vit.lab.report import Table, environment_table
from shd_vit.shipped import shipped


def speed(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    loaders = {}
    for name, build in LOADERS.items():
        loaders[name] = build(folder, args)
        _epoch(loaders[name])  # forks, compiles, fills the page cache
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in track(range(args.rounds), description='epochs'):
        for name, loader in loaders.items():
            times[name].append(_epoch(loader))
    images = args.images // args.batch * args.batch

    def ratio(name: str, base: str) -> float:
        return median(b / t for t, b in zip(times[name], times[base], strict=True))

    return {
        name: dict(
            images_per_second=images / median(times[name]),
            over_mmpretrain=ratio(name, YARDSTICK),
            of_ceiling=ratio(name, CEILING),
        )
        for name in loaders
    }


def _epoch(loader: Iterable) -> float:
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def start(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds from building a loader to its first batch, in new processes."""
    times = {}
    names = {
        'FFCV as it is, crop + flip': 'every time',
        'shd_vit, DeiT recipe': "the first time, and from numba's cache",
    }
    tool = shipped('tools') / 'benchmark_loader.py'
    with tempfile.TemporaryDirectory() as cache:
        for name, when in names.items():
            command = [sys.executable, str(tool), '--first-batch-of', name, str(folder)]
            sizes = ['--batch', str(args.batch), '--workers', str(args.workers)]
            for turn in range(2 if name.startswith('shd_vit') else 1):
                label = when.split(', and ')[turn]
                output = subprocess.run(
                    [*command, *sizes],
                    env={**os.environ, 'NUMBA_CACHE_DIR': cache},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                times[f'{name}: {label}'] = float(output.split()[-1])
    return times


def first_batch(name: str, folder: str, args: argparse.Namespace) -> float:
    started = time.perf_counter()
    next(iter(LOADERS[name](Path(folder), args)))
    return time.perf_counter() - started


def _speed_table(results: dict) -> list[Table]:
    rows = [['', 'images/s', '/ mmpretrain', 'of the ceiling']]
    for name, r in results.items():
        rows.append(
            [
                name,
                f'{r["images_per_second"]:,.0f}',
                f'{r["over_mmpretrain"]:.2f}',
                f'{r["of_ceiling"]:.0%}',
            ]
        )
    return [('Images a second', rows)]


TABLES: dict[str, Callable[[dict], list[Table]]] = dict(
    environment=lambda r: [environment_table(r)],
    speed=_speed_table,
    start=lambda r: [
        ('Seconds to the first batch', [['', 's'], *([k, f'{v:.1f}'] for k, v in r.items())])
    ],
)


def plot(results: dict, path: Path) -> None:
    names = list(results['speed'])
    values = [results['speed'][name]['images_per_second'] for name in names]
    colours = ['tab:green' if name.startswith('shd_vit') else 'tab:gray' for name in names]
    figure, axis = pyplot().subplots(figsize=(8, 3))
    bars = axis.barh(names, values, color=colours)
    axis.bar_label(bars, fmt='{:,.0f}', padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(f'images/s, {results["environment"]["workers"]} workers')
    axis.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
