"""What every merging strategy loses of a teacher's attention output, beside the best possible."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from shd_vit.errors import ConfigError
from shd_vit.functional import attention_maps, gram_matrix, merge_maps
from shd_vit.lab.figures import COLORS, pyplot
from shd_vit.lab.reconstruction import constrained_maps, squared_errors, unconstrained_maps
from shd_vit.lab.report import Table
from shd_vit.merging import MERGING_STRATEGIES, MergingStrategy
from shd_vit.taps import AttentionTap, TapBank, select_heads

STRATEGIES = ('hard', 'constant', 'head_matching', 'linear', 'simplex')
BEST = ('best map', 'best matrix')
DRAWS = 10  # of hard selection: their mean

Losses = dict[tuple[str, int], torch.Tensor]  # by strategy and layer: sums of error and of norm


def make_strategies(bank: TapBank, heads: int) -> dict[str, list[Any]]:
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


def observe(strategies: dict[str, list[Any]], batches: Iterable[dict[int, AttentionTap]]) -> None:
    """Show the teacher's taps to the strategies that ask for them."""
    asking = [s for members in strategies.values() for s in members if not s.is_settled]
    for taps in batches if asking else ():
        for layer, tap in taps.items():
            for strategy in asking:
                strategy.observe(tap, (layer, layer))
    for strategy in asking:
        strategy.settle()


@torch.no_grad()
def measure(
    taps: dict[int, AttentionTap],
    strategies: dict[str, list[Any]],
    heads: int,
    temperature: float,
) -> Losses:
    """Squared errors and norms of a batch, summed."""
    losses: Losses = {}
    for layer, tap in taps.items():
        fields: Any = (x.double() if torch.is_tensor(x) else x for x in tap)
        tap = AttentionTap(*fields)
        maps = attention_maps(tap.q, tap.k, tap.scale, temperature, tap.bias, tap.mask)
        for name, members in strategies.items():
            parts = [_merge(strategy, tap, layer, heads, temperature) for strategy in members]
            losses[name, layer] = torch.stack([error.sum(-1) for error, _ in parts]).mean(0)
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
        sums['all'] = torch.stack(list(sums.values())).sum(0)
        values[name] = {layer: (pair[0] / pair[1]).item() for layer, pair in sums.items()}
    return values


def by_layer(label: str, values: dict[str, dict[str, float]]) -> Table:
    layers = list(next(iter(values.values())))
    headings = ['', *(f'layer {layer}' if layer != 'all' else 'all' for layer in layers)]
    rows = [[name, *(_percent(v) for v in by.values())] for name, by in values.items()]
    return f'Squared error by layer, {label}', [headings, *rows]


def by_temperature(results: dict[str, dict[str, dict[str, float]]]) -> Table:
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
