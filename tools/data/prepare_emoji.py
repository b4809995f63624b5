"""Make a data set of small colour pictures from the emoji of a package (Apache-2.0, Noto Emoji).

python tools/data/prepare_emoji.py                    # data/emoji, 32 x 32 on white

Writes train.npz and test.npz (arr_0: uint8 pictures, arr_1: classes, classes: their names), which
configs/dit/emoji and tools/dit_evaluate.py --reference read, and preview.png. One emoji in ten is
in the test, with all of its skin tones and other variants. npm has to be installed, for the
download.
"""

import argparse
from pathlib import Path

import torch

from shd_vit.command import run_tool
from shd_vit.data.emoji import CATEGORIES, EMOJI, read_emoji
from shd_vit.errors import check_number
from shd_vit.lab.diffusion.drawing import picture
from shd_vit.lab.diffusion.samples import save_samples
from shd_vit.lab.report import show


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', nargs='?', default='data/emoji', help='default: %(default)s')
    parser.add_argument('--cache', default='data/packages', help='default: %(default)s')
    parser.add_argument('--size', type=int, default=32, help='of the pictures (default: 32)')
    parser.add_argument(
        '--background', type=int, nargs=3, default=(255, 255, 255), metavar=('R', 'G', 'B')
    )
    args = parser.parse_args()
    check_number('--size', args.size, positive=True, whole=True, at_most=64)
    for value in args.background:
        check_number('--background', value, whole=True, at_most=255)
    emoji = read_emoji(EMOJI.fetch(args.cache), args.size, tuple(args.background))
    images, labels = torch.from_numpy(emoji.images), torch.from_numpy(emoji.labels)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    parts = {'train': torch.from_numpy(~emoji.is_test), 'test': torch.from_numpy(emoji.is_test)}
    shown = {name: (images[own], labels[own]) for name, own in parts.items()}
    for name, pair in shown.items():
        save_samples(out / f'{name}.npz', *pair, CATEGORIES)
    picture(out / 'preview.png', shown, CATEGORIES, 12)
    counts = {name: labels.bincount().tolist() for name, (_, labels) in shown.items()}
    rows = [['category', *(f'{name}.npz' for name in counts)]]
    for number, category in enumerate(CATEGORIES):
        rows.append([category, *(f'{own[number]:,}' for own in counts.values())])
    rows.append(['all', *(f'{sum(own):,}' for own in counts.values())])
    show([(f'{out}, from {EMOJI.source}', rows)])
    print(out / 'preview.png')


if __name__ == '__main__':
    run_tool(main)
