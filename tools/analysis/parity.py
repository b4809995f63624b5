"""How far timm, mmpretrain and transformers differ on the same random weights.

With photographs, also how far those are apart after the test pipelines of timm and of a config.

python tools/analysis/parity.py
python tools/analysis/parity.py --photographs a.jpg b.jpg --config configs/deit_tiny_shd_folder.py
"""

import argparse
import logging
import os
import warnings

from mmengine.logging import MMLogger

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.parity import MODEL_PAIRS, logits_table, pixels_table
from shd_vit.lab.report import show
from shd_vit.shipped import shipped


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'models', nargs='*', metavar='MODEL', help=f'of {", ".join(MODEL_PAIRS)}; all'
    )
    parser.add_argument('--photographs', nargs='+', default=[], metavar='FILE', help='images')
    parser.add_argument(
        '--config',
        default=str(shipped('configs') / '_base_/datasets/imagenet_folder.py'),
        help='whose test_pipeline and data_preprocessor take them (default: ImageNet in folders)',
    )
    parser.add_argument(
        '--crop-pct', type=float, default=224 / 256, help="timm's (default: 224 / 256, as ours)"
    )
    parser.add_argument('--markdown', metavar='FILE', help='write the tables')
    args = parser.parse_args()
    for path in args.photographs:
        if not os.path.isfile(path):
            raise ConfigError(f'--photographs {path!r} does not exist')
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    tables = [logits_table(args.models or list(MODEL_PAIRS))]
    if args.photographs:
        tables.append(pixels_table(args.photographs, args.config, args.crop_pct))
    show(tables, args.markdown)


if __name__ == '__main__':
    run_tool(main)
