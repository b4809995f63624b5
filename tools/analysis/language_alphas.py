"""How a language model's heads share what they are merged into (the paper's Fig. 2).

Of every layer and pair of heads, the weight of the first head before it is clamped to [0, 1], one a
sequence: a table, and a figure of them layer by layer.

python tools/analysis/language_alphas.py SmolLM2-135M-Instruct.Q4_1.gguf --text sotu/*.txt \\
    --heads 3 --out alpha.png --json alpha.json
"""

import argparse
import math
from pathlib import Path

from rich.progress import track

from shd_vit.command import run_tool
from shd_vit.errors import check_number
from shd_vit.lab.alphas import every_alpha, gather_alphas, outside, pair_rows
from shd_vit.lab.alphas_figure import table_of
from shd_vit.lab.figures import check_output
from shd_vit.lab.language.alphas_figure import draw_by_layer
from shd_vit.lab.language.models import load_causal, load_tokenizer
from shd_vit.lab.language.sequences import sequences
from shd_vit.lab.language.taps import language_taps
from shd_vit.lab.report import show, write_json


def main() -> None:
    args = _parse()
    out = check_output(args.out)
    for name in ('tokens', 'length', 'batch', 'heads'):
        check_number(f'--{name}', getattr(args, name), positive=True, whole=True)
    check_number('--temperature', args.temperature, positive=True)
    count = math.ceil(args.tokens / args.length)
    ids = sequences(load_tokenizer(args.model), args.text, args.length, count)
    with language_taps(load_causal(args.model), 'teacher') as (bank, taps_of):
        heads = dict(zip(bank.layers, bank.anatomy.heads, strict=True))
        batches = track(ids.split(args.batch), 'alphas', transient=True)
        alphas = gather_alphas(heads, map(taps_of, batches), args.heads, args.temperature)

    everything = every_alpha(alphas)
    samples = f'{count:,} sequences of {args.length} tokens'
    results = dict(
        model=Path(args.model).name,
        text=f'{len(args.text)} files or folders, from {Path(args.text[0]).name}',
        tokens=ids.numel(),
        length=args.length,
        heads=args.heads,
        temperature=args.temperature,
        alphas=len(everything),
        outside=outside(everything),
        pairs=pair_rows(alphas, 'sequences'),
    )
    show([table_of(results, samples)])
    print(f'{len(everything):,} alphas, {(1 - outside(everything)):.3%} of them within [0, 1]')
    write_json(results, args.json)
    title = (
        f'{Path(args.model).stem}, {max(heads.values())} heads to {args.heads}: '
        rf'$\alpha$ before clamping, {samples}; {outside(everything):.2%} outside [0, 1]'
    )
    draw_by_layer(alphas, title, out)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='a folder, a name on the hub or a .gguf file')
    parser.add_argument(
        '--text',
        nargs='+',
        required=True,
        metavar='FILE',
        help='text files, a document each, or folders of tools/data/prepare_text.py',
    )
    parser.add_argument('--heads', type=int, required=True, metavar='N', help='heads to leave')
    parser.add_argument(
        '--tokens', type=int, default=100_000, help='of text, at least (default: 100000)'
    )
    parser.add_argument('--length', type=int, default=512, help='of a sequence (default: 512)')
    parser.add_argument('--batch', type=int, default=1, help='sequences at a time (default: 1)')
    parser.add_argument(
        '--temperature', type=float, default=1.0, metavar='T', help='T_a of the maps (default: 1)'
    )
    parser.add_argument('--json', metavar='FILE', help='write the numbers')
    parser.add_argument(
        '--out', default='alpha.png', metavar='FILE', help='.png, .svg or .pdf (default: alpha.png)'
    )
    return parser.parse_args()


if __name__ == '__main__':
    run_tool(main)
