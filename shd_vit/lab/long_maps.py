"""Time and memory of SHD on long sequences: one layer, one sample, 25 -> 16 heads of 64."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import Mask
from shd_vit.functional.shd import shd_loss
from shd_vit.lab.figures import pyplot
from shd_vit.lab.report import Table
from shd_vit.lab.yardstick import literal_shd
from shd_vit.shipped import shipped
from shd_vit.taps import AttentionTap

TOKENS = (197, 512, 1024, 2048, 4096, 8192)
HEADS = (25, 16)
WIDTH = 64
LITERAL = 2048  # tokens up to which the literal version is run
RUNS = ('streamed, causal', 'streamed', 'literal')


def long_maps(batch: int, rounds: int) -> dict[str, dict]:
    """Seconds and MiB of each run, in a process of its own, one thread.

    Args:
        batch: Not used: it is one sample.
        rounds: Runs of which the median is taken; the longest ones are run once.
    """
    tool = shipped('tools') / 'benchmark.py'
    cases = [(n, run) for n in TOKENS for run in RUNS if run != 'literal' or n <= LITERAL]
    results: dict[str, dict] = {}
    for tokens, run in track(cases, 'long maps', transient=True):
        command = [sys.executable, str(tool), '--long', run, str(tokens), str(rounds)]
        quiet = {**os.environ, 'PYTHONWARNINGS': 'ignore', 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, text=True, check=True)
        seconds, mib = map(float, done.stdout.split()[-2:])
        results.setdefault(run, {})[str(tokens)] = dict(seconds=seconds, mib=mib)
    return results


def measure(run: str, tokens: int, rounds: int) -> tuple[float, float]:
    """Seconds, and MiB over the inputs at the peak, of forward and backward.

    Raises:
        ConfigError: If there is no such run.
    """
    if run not in RUNS:
        raise ConfigError(f'--long {run!r}: allowed are {", ".join(RUNS)}')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student, teacher = (_tap(heads, tokens) for heads in reversed(HEADS))
    q, k = (x.requires_grad_() for x in student[:2])
    seconds, before = [], start_of_peak()
    for _ in range(rounds if tokens <= 1024 else 1):
        start = time.perf_counter()
        torch.autograd.grad(_loss(run, student, teacher), (q, k))
        seconds.append(time.perf_counter() - start)
    return median(seconds), peak() - before


def _loss(run: str, student: AttentionTap, teacher: AttentionTap) -> Tensor:
    if run == 'literal':
        return literal_shd(student, teacher)
    mask = Mask(is_causal=run.endswith('causal'))
    return shd_loss(
        student.q, student.k, teacher.q, teacher.k, teacher.v, teacher.out_proj,
        student.scale, teacher.scale, mask=mask, teacher_mask=mask,
    )  # fmt: skip


def _tap(heads: int, tokens: int) -> AttentionTap:
    q, k, v = torch.randn(3, 1, heads, tokens, WIDTH).unbind(0)
    out_proj = torch.randn(WIDTH * heads, WIDTH * heads) * (WIDTH * heads) ** -0.5
    return AttentionTap(q, k, v, out_proj, WIDTH**-0.5)


def start_of_peak() -> float:
    """MiB that the process has now, from which on :func:`peak` counts. Linux alone."""
    Path('/proc/self/clear_refs').write_text('5')
    return _status('VmRSS')


def peak() -> float:
    return _status('VmHWM')


def _status(field: str) -> float:
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def table(results: dict[str, dict]) -> list[Table]:
    """Seconds and MiB by tokens, a run a column."""
    rows = [['one layer, one sample, 25 -> 16 heads', *results]]
    for tokens in map(str, TOKENS):
        found = (by_tokens.get(tokens) for by_tokens in results.values())
        cells = ['' if r is None else f'{r["seconds"]:.2f} s, {r["mib"]:.0f} MiB' for r in found]
        rows.append([f'{tokens} tokens', *cells])
    return [('Long sequences', rows)]


def plot(results: dict[str, dict], path: Path) -> None:
    """Time and memory against tokens, all axes logarithmic."""
    figure, axes = pyplot().subplots(1, 2, figsize=(9, 3.8))
    for axis, field, label in zip(
        axes, ('seconds', 'mib'), ('seconds', 'MiB over the inputs'), strict=True
    ):
        for (name, rows), marker in zip(results.items(), 'osD', strict=False):
            tokens = [int(n) for n in rows]
            values: list[Any] = [r[field] for r in rows.values()]
            axis.plot(tokens, values, marker=marker, label=name)
        axis.set(xscale='log', yscale='log', xlabel='tokens', ylabel=label)
        axis.set_xticks(TOKENS, [str(n) for n in TOKENS])
        axis.minorticks_off()
        axis.legend()
    figure.suptitle('SHD of one layer and sample, 25 → 16 heads of 64, one thread')
    figure.tight_layout()
    figure.savefig(path)
