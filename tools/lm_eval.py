"""Evaluate language models, several side by side. Each subcommand says more with --help.

python tools/lm_eval.py perplexity teacher/ student/ --text data/text
python tools/lm_eval.py tune teacher/ student/ --task sentiment --data data/tasks
python tools/lm_eval.py generate teacher/ student/ --data dolly/valid.jsonl

MODEL is a folder of save_pretrained, a name on the hub, or a .gguf file; NAME=MODEL names its row.
With --json FILE, numbers are entered in FILE beside what other calls have left there.
"""

import argparse

from shd_vit.command import run_tool
from shd_vit.lab.language import commands


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(metavar='COMMAND', required=True)
    _perplexity(parts.add_parser('perplexity', help='validation loss and perplexity, by genre'))
    args = parser.parse_args()
    args.run(args)


def _perplexity(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.perplexity)
    _common(parser)
    parser.add_argument(
        '--text', required=True, metavar='DIR', help='a folder of tools/data/prepare_text.py'
    )
    parser.add_argument('--length', type=int, default=128, help='tokens of a window (default: 128)')
    parser.add_argument('--batch', type=int, default=32, help='windows at a time (default: 32)')


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help='MODEL or NAME=MODEL')
    parser.add_argument('--json', metavar='FILE', help='enter the numbers in FILE')


if __name__ == '__main__':
    run_tool(main)
