"""How a teacher's heads share what they are merged into: the distribution of alpha (paper, Fig. 2).

Of every teacher layer and pair of heads, the weight of the first head before it is clamped to
[0, 1], over many images: a table, and a figure with a panel a layer.

python tools/analysis/alpha_distribution.py configs/fashion_mnist/shd.py --out alpha.svg
"""

import argparse

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.alphas import every_alpha, outside, pair_rows
from shd_vit.lab.alphas_figure import draw, table_of
from shd_vit.lab.figures import check_output
from shd_vit.lab.image_alphas import collect_alphas
from shd_vit.lab.images import image_batches
from shd_vit.lab.models import distiller_config, load_distiller, student_heads, teacher_parser
from shd_vit.lab.report import show, write_json


def main() -> None:
    args = _parse()
    if args.temperature is not None and not args.temperature > 0:
        raise ConfigError(f'--temperature {args.temperature} must be above 0')
    out = check_output(args.out)
    cfg = distiller_config(args)
    distiller = load_distiller(cfg, args.checkpoint)
    heads = args.heads if args.heads is not None else student_heads(distiller)
    loss = distiller.losses['shd']
    temperature = args.temperature or loss.temperature
    preprocessor = distiller.data_preprocessor
    batches = image_batches(cfg, args.split, args.images, args.batch, preprocessor)
    tokens = loss.alignment.teacher
    alphas = collect_alphas(distiller, batches, heads, temperature, tokens)

    results = dict(
        config=args.config,
        checkpoint=args.checkpoint or cfg.model.teacher.checkpoint,
        split=args.split,
        heads=heads,
        temperature=temperature,
        outside=outside(every_alpha(alphas)),
        pairs=pair_rows(alphas, 'images'),
    )
    samples = f'{results["pairs"][0]["images"]} {args.split} images'
    show([table_of(results, samples)])
    write_json(results, args.json)
    draw(alphas, results, samples, out)


def _parse() -> argparse.Namespace:
    parser = teacher_parser(__doc__, images=1000, batch=100)
    parser.add_argument(
        '--temperature',
        type=float,
        metavar='T',
        help="attention temperature T_a (default: that of the config's SHDLoss)",
    )
    parser.add_argument(
        '--out',
        default='alpha.svg',
        metavar='FILE',
        help='the figure, .png, .svg or .pdf (default: alpha.svg)',
    )
    return parser.parse_args()


if __name__ == '__main__':
    run_tool(main)
