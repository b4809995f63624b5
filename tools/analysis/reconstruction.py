"""How much of a teacher's attention output is lost when its heads are merged, by every strategy.

The squared error of sum A~ S against sum A_i X_i over the squared norm of the latter: for the
paper's linear merging, for the strategies it is compared with, and for the best that any map
(rows are distributions) and any matrix could do. As many other images are seen before, to match
heads.

python tools/analysis/reconstruction.py configs/fashion_mnist/shd.py --temperature 0.5 1 2 4
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from rich.progress import track

from shd_vit.distillation.teacher import FrozenTeacher
from shd_vit.errors import ConfigError
from shd_vit.functional import attention_maps, gram_matrix, merge_maps
from shd_vit.hosts.mmpretrain.cli import run_tool
from shd_vit.lab import (
    distiller_config,
    image_batches,
    load_distiller,
    student_heads,
    teacher_parser,
)
from shd_vit.lab.figures import COLORS, check_output, pyplot
from shd_vit.lab.reconstruction import constrained_maps, squared_errors, unconstrained_maps
from shd_vit.merging import MERGING_STRATEGIES, MergingStrategy
from shd_vit.taps import AttentionTap, TapBank, select_heads

sys.path.append(str(Path(__file__).resolve().parents[1]))
from report import Table, show

STRATEGIES = ('hard', 'constant', 'head_matching', 'linear', 'simplex')
BEST = ('best map', 'best matrix')
DRAWS = 10  # of hard selection: their mean

Losses = dict[tuple[str, int], torch.Tensor]  # by strategy and layer: sums of error and of norm


def main() -> None:
    args = _parse()
    if not all(t > 0 for t in args.temperature):
        raise ConfigError(f'--temperature {args.temperature} must all be above 0')
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    out = check_output(args.out) if args.out else None
    cfg = distiller_config(args)
    distiller = load_distiller(cfg, args.checkpoint)
    bank = TapBank(distiller.teacher, role='teacher')
    teacher = FrozenTeacher(distiller.teacher, bank, distiller._teacher.renormalise)
    teacher.is_ready = True
    heads = args.heads or student_heads(distiller)
    strategies = make_strategies(bank, heads)

    count = args.images
    batches = image_batches(cfg, args.split, 2 * count, args.batch, distiller.data_preprocessor)
    images = torch.cat(list(batches))
    matching, measured = images[:-count].split(args.batch), images[-count:].split(args.batch)
    observe(strategies, teacher, matching)
    results = {}
    for temperature in args.temperature:
        label = f'T_a = {temperature:g}'
        losses = {}
        for batch in track(measured, label, transient=True):
            for key, value in measure(teacher, batch, strategies, heads, temperature).items():
                losses[key] = losses.get(key, 0) + value
        results[label] = relative(losses)

    tables = [_by_layer(label, values) for label, values in results.items()]
    tables.append(_by_temperature(results))
    show(tables, args.markdown)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + '\n')
    if out:
        draw(args.temperature, results, out)


def make_strategies(bank: TapBank, heads: int) -> dict[str, list[MergingStrategy]]:
    """One strategy by name; of hard selection, several draws."""
    pairs = {}
    for layer, num_heads in zip(bank.layers, bank.anatomy.heads, strict=True):
        if not 1 <= heads <= num_heads:
            raise ConfigError(f'--heads {heads}: layer {layer} of the teacher has {num_heads}')
        pairs[layer, layer] = (heads, num_heads)
    strategies = {
        name: [
            MERGING_STRATEGIES.build(dict(type=name, seed=seed) if name == 'hard' else name)
            for seed in range(DRAWS if name == 'hard' else 1)
        ]
        for name in STRATEGIES
    }
    for members in strategies.values():
        for strategy in members:
            strategy.bind(pairs)
            strategy.to(next(bank.anatomy.model.parameters()).device)
    return strategies


def observe(strategies: dict[str, list[MergingStrategy]], teacher: FrozenTeacher, batches) -> None:
    """Show images to the strategies that ask for them."""
    for members in strategies.values():
        for strategy in members:
            if not strategy.is_settled:
                for images in batches:
                    for layer, tap in teacher(images).attention.items():
                        strategy.observe(tap, (layer, layer))
                strategy.settle()


@torch.no_grad()
def measure(
    teacher: FrozenTeacher,
    images: torch.Tensor,
    strategies: dict[str, list[MergingStrategy]],
    heads: int,
    temperature: float,
) -> Losses:
    """Squared errors and norms of a batch, summed."""
    losses = {}
    for layer, tap in teacher(images).attention.items():
        tap = AttentionTap(*(x.double() if torch.is_tensor(x) else x for x in tap))
        maps = attention_maps(tap.q, tap.k, tap.scale, temperature, tap.bias, tap.mask)
        for name, members in strategies.items():
            parts = [_merge(strategy, tap, layer, heads, temperature) for strategy in members]
            losses[name, layer] = sum(error.sum(-1) for error, _ in parts) / len(parts)
            if name == 'simplex':
                start = parts[0][1]
        best = constrained_maps(tap, maps, start), unconstrained_maps(tap, maps, heads)
        for name, shared in zip(BEST, best, strict=True):
            losses[name, layer] = squared_errors(shared, tap, maps).sum(-1)
    return losses


def _merge(
    strategy: MergingStrategy, tap: AttentionTap, layer: int, heads: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of one strategy, against all heads in the order in which it takes them; its maps."""
    sizes, order = strategy.groups((layer, layer), (heads, tap.q.shape[1]))
    chosen = tap if order is None else select_heads(tap, order)
    maps = attention_maps(chosen.q, chosen.k, chosen.scale, temperature, chosen.bias, chosen.mask)
    shared = merge_maps(maps, chosen.v, gram_matrix(chosen.out_proj), sizes, strategy.weigh)
    # A selected head stands for the group at its place.
    whole = tap if chosen.q.shape[1] < tap.q.shape[1] else chosen
    own = attention_maps(whole.q, whole.k, whole.scale, temperature, whole.bias, whole.mask)
    return squared_errors(shared, whole, own), shared


def relative(losses: Losses) -> dict[str, dict[str, float]]:
    """Error over norm by strategy, of each layer and of all together."""
    names = dict.fromkeys(name for name, _ in losses)
    values = {}
    for name in names:
        sums = {str(layer): pair for (owner, layer), pair in losses.items() if owner == name}
        sums['all'] = sum(sums.values())
        values[name] = {layer: (pair[0] / pair[1]).item() for layer, pair in sums.items()}
    return values


def _parse() -> argparse.Namespace:
    parser = teacher_parser(__doc__, images=200, batch=50)
    parser.add_argument(
        '--temperature',
        type=float,
        nargs='+',
        default=[1.0],
        metavar='T',
        help='attention temperatures T_a (default: 1)',
    )
    parser.add_argument('--out', metavar='FILE', help='draw error by temperature: .png, .svg, .pdf')
    parser.add_argument('--markdown', metavar='FILE', help='write the tables')
    return parser.parse_args()


def _by_layer(label: str, values: dict[str, dict[str, float]]) -> Table:
    layers = list(next(iter(values.values())))
    headings = ['', *(f'layer {layer}' if layer != 'all' else 'all' for layer in layers)]
    rows = [[name, *(_percent(v) for v in by.values())] for name, by in values.items()]
    return f'Squared error by layer, {label}', [headings, *rows]


def _by_temperature(results: dict[str, dict[str, dict[str, float]]]) -> Table:
    names = next(iter(results.values()))
    rows = [[name, *(_percent(v[name]['all']) for v in results.values())] for name in names]
    return 'Squared error of all layers, by attention temperature', [['', *results], *rows]


def _percent(value: float) -> str:
    return f'{100 * value:.3g} %'


def draw(temperatures: list[float], results: dict, out: Path) -> None:
    """Error by temperature, a line a strategy."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 3.6), layout='constrained')
    for i, name in enumerate(next(iter(results.values()))):
        errors = [100 * values[name]['all'] for values in results.values()]
        color, style = COLORS[i % len(COLORS)], '--' if name in BEST else '-'
        axes.plot(temperatures, errors, style, marker='o', color=color, markersize=4, label=name)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xticks(temperatures, [f'{t:g}' for t in temperatures])
    axes.set(xlabel='attention temperature $T_a$', ylabel='squared error / squared norm, %')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.3, which='both')
    figure.legend(loc='outside right center', frameon=False)
    figure.savefig(out)
    plt.close(figure)


if __name__ == '__main__':
    run_tool(main)
