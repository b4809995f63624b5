"""What the benchmark has measured, as tables and a figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from shd_vit.lab.benchmark import HEADS, TOKENS
from shd_vit.lab.figures import pyplot
from shd_vit.lab.report import Table, environment_table


def _step_table(results: dict) -> list[Table]:
    rows = [['', 'seconds', 'ratio', 'loss differs by', 'gradient differs by']]
    for name, r in results.items():
        differences = [
            f'{r[key]:.0e}' if key in r else ''
            for key in ('loss_difference', 'gradient_difference')
        ]
        rows.append([name, f'{r["seconds"]:.3f}', f'{r["ratio"]:.3f}', *differences])
    return [('Training step, DeiT3-Small -> DeiT-Tiny, 224 px, float32', rows)]


def _memory_table(results: dict) -> list[Table]:
    rows = [['', 'kept for backward', '/ (q + k)', 'largest tensor made', 'peak of a process']]
    for name, r in results.items():
        mib = [f'{r[key]:.1f} MiB' if key in r else '' for key in ('kept_mib', 'peak_mib')]
        ratio = f'{r["kept_over_qk"]:.2f}' if 'kept_over_qk' in r else ''
        largest = r.get('largest_mib')
        rows.append([name, mib[0], ratio, f'{largest:.1f} MiB' if largest else '', mib[1]])
    return [('Memory of SHD alone, and of the process that trains', rows)]


def _growth_table(results: dict) -> list[Table]:
    names = list(next(iter(results.values()))['milliseconds'])
    rows = [['one layer, one image', *names, f'{names[-1]} / {names[0]}']]
    for name, r in results.items():
        ms = r['milliseconds']
        ratio = ms[names[-1]] / ms[names[0]]
        rows.append([name, *(f'{ms[n]:.3f} ms' for n in names), f'{ratio:.2f}'])
    powers = [f'N^{exponent(results, name):.2f}' for name in names]
    rows.append([f'growth from {TOKENS[0]} to {TOKENS[-1]} tokens', *powers, ''])
    return [('Growth', rows)]


TABLES: dict[str, Callable[[dict], list[Table]]] = dict(
    environment=lambda r: [environment_table(r)],
    step=_step_table,
    memory=_memory_table,
    growth=_growth_table,
)


def plot(results: dict, path: Path) -> None:
    """Time against tokens and head ratios, and of a step."""
    shown = [part for part in ('growth', 'step') if part in results]
    figure, axes = pyplot().subplots(
        1, len(shown) + ('growth' in shown), figsize=(4.5 * (len(shown) + 1), 3.8), squeeze=False
    )
    axes = list(axes[0])
    if 'growth' in results:
        rows = list(results['growth'].values())
        by_tokens = [r for r in rows if (r['teacher_heads'], r['student_heads']) == HEADS[0]]
        by_heads = [r for r in rows if r['tokens'] == 197]
        axis = axes.pop(0)
        names = list(rows[0]['milliseconds'])
        for name, marker in zip(names, 'o^s', strict=False):
            times = [r['milliseconds'][name] for r in by_tokens]
            axis.plot(TOKENS, times, marker=marker, label=name)
        start = by_tokens[0]['milliseconds'][names[0]]
        quadratic = [start * (n / TOKENS[0]) ** 2 for n in TOKENS]
        axis.plot(TOKENS, quadratic, 'k:', label='N²')
        axis.set(xscale='log', yscale='log', xlabel='tokens N', ylabel='ms per layer and image')
        axis.set_xticks(TOKENS, [str(n) for n in TOKENS])
        axis.minorticks_off()
        axis.set_title('Growth with tokens, 6 → 3 heads')
        axis.legend()
        axis = axes.pop(0)
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            times = [r['milliseconds'][name] for r in by_heads]
            axis.bar([x + i * width for x in range(len(times))], times, width=width, label=name)
        centres = [x + 0.4 - width / 2 for x in range(len(HEADS))]
        axis.set_xticks(centres, [f'{t} → {s}' for t, s in HEADS])
        axis.set(xlabel='heads', ylabel='ms per layer and image')
        axis.set_title('Head ratios, 197 tokens')
        axis.legend()
    if 'step' in results:
        axis = axes.pop(0)
        names = list(results['step'])
        bars = axis.barh(names, [results['step'][n]['ratio'] for n in names], color='tab:green')
        axis.bar_label(bars, fmt='%.2f', padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_xlabel('time of a training step / ViTKD + NKD')
        axis.set_title('DeiT3-Small → DeiT-Tiny')
    figure.tight_layout()
    figure.savefig(path)


def exponent(results: dict[str, dict], name: str) -> float:
    """p of the time ~ N^p between the fewest and the most tokens."""
    by_tokens = {
        r['tokens']: r['milliseconds'][name]
        for r in results.values()
        if (r['teacher_heads'], r['student_heads']) == HEADS[0]
    }
    few, many = min(by_tokens), max(by_tokens)
    return math.log(by_tokens[many] / by_tokens[few]) / math.log(many / few)
