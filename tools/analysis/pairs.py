"""Which models can be paired: SHD between any teacher and any student.

A model is a timm name, or the config of a classifier. Weights are random, those of attention large
enough for maps that are far from uniform. A row is ok if the loss is finite, if its gradient
reaches the queries and keys of each student layer that learns and nothing of the teacher, and if a
small step along it lowers the loss.

python tools/analysis/pairs.py deit3_small_patch16_224 deit_tiny_patch16_224
python tools/analysis/pairs.py mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py \\
    deit_tiny_distilled_patch16_224 --tokens shared --out pairs.md
"""

import argparse
import logging
import warnings

from mmengine.logging import MMLogger
from timm.models import is_model

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.pairs import HEADINGS, pair_of, row
from shd_vit.lab.report import show
from shd_vit.pairing import TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'models', nargs='+', metavar='TEACHER STUDENT', help='of a row; any number of rows'
    )
    parser.add_argument('--tokens', default='all', choices=TOKENS, help="SHDLoss's (default: all)")
    parser.add_argument('--image-size', type=int, default=224, help='side (default: 224)')
    parser.add_argument('--images', type=int, default=1, help='in the batch (default: 1)')
    parser.add_argument('--out', metavar='FILE', help='write the table as Markdown')
    args = parser.parse_args()
    if len(args.models) % 2:
        raise ConfigError(f'{args.models[-1]!r} has no student: models come in pairs')
    for name in ('images', 'image_size'):
        if (value := getattr(args, name)) < 1:
            raise ConfigError(f'--{name.replace("_", "-")}={value} must be at least 1')
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    rows = []
    for teacher, student in zip(args.models[::2], args.models[1::2], strict=True):
        pair = pair_of(model(teacher), model(student), args.tokens)
        rows.append(row(f'{teacher} -> {student}', pair, args.image_size, args.images))
    show([('Pairs', [list(HEADINGS), *rows])], args.out)


def model(name: str) -> str | dict:
    """A config's path as it is; a timm name as a classifier."""
    if name.endswith('.py'):
        return name
    if not is_model(name.partition('.')[0]):
        raise ConfigError(f'{name!r} is neither a model of timm nor the .py file of a config')
    return dict(type='TimmClassifier', model_name=name, num_classes=1000)


if __name__ == '__main__':
    run_tool(main)
