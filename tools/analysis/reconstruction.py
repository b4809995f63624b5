"""How much of a teacher's attention output is lost when its heads are merged, by every strategy.

The squared error of sum A~ S against sum A_i X_i over the squared norm of the latter: for the
paper's linear merging, for the strategies it is compared with, and for the best that any map
(rows are distributions) and any matrix could do. As many other images are seen before, to match
heads.

python tools/analysis/reconstruction.py configs/fashion_mnist/shd.py --temperature 0.5 1 2 4
"""

import argparse

import torch
from rich.progress import track

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.figures import check_output
from shd_vit.lab.images import image_batches
from shd_vit.lab.models import (
    distiller_config,
    load_distiller,
    student_heads,
    teacher_parser,
    teacher_taps,
)
from shd_vit.lab.report import show, write_json
from shd_vit.lab.strategies import (
    Losses,
    by_layer,
    by_temperature,
    draw,
    make_strategies,
    measure,
    observe,
    relative,
)


def main() -> None:
    args = _parse()
    if not all(t > 0 for t in args.temperature):
        raise ConfigError(f'--temperature {args.temperature} must all be above 0')
    out = check_output(args.out) if args.out else None
    cfg = distiller_config(args)
    distiller = load_distiller(cfg, args.checkpoint)
    heads = args.heads or student_heads(distiller)
    count = args.images
    batches = image_batches(cfg, args.split, 2 * count, args.batch, distiller.data_preprocessor)
    results = {}
    with teacher_taps(distiller) as (bank, taps_of):
        strategies = make_strategies(bank, heads)
        images = torch.cat(list(batches))
        matching, measured = images[:-count].split(args.batch), images[-count:].split(args.batch)
        observe(strategies, map(taps_of, matching))
        for temperature in args.temperature:
            label = f'T_a = {temperature:g}'
            losses: Losses = {}
            for batch in track(measured, label, transient=True):
                new = measure(taps_of(batch), strategies, heads, temperature)
                losses = {key: losses.get(key, 0) + value for key, value in new.items()}
            results[label] = relative(losses)

    tables = [by_layer(label, values) for label, values in results.items()]
    tables.append(by_temperature(results))
    show(tables, args.markdown)
    write_json(results, args.json)
    if out:
        draw(args.temperature, results, out)


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


if __name__ == '__main__':
    run_tool(main)
