"""Evaluate language models, several side by side. Each subcommand says more with --help.

python tools/lm_eval.py perplexity teacher/ student/ --text data/text
python tools/lm_eval.py tune teacher/ student/ --task sentiment --data data/tasks
python tools/lm_eval.py generate teacher/ student/ --data dolly/valid.jsonl

MODEL is a folder of save_pretrained, a name on the hub, or a .gguf file; NAME=MODEL names its row.
With --json FILE, numbers are entered in FILE beside what other calls have left there.
"""

import argparse

from shd_vit.command import run_tool
from shd_vit.lab.language import commands, generation_command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(metavar='COMMAND', required=True)
    _perplexity(parts.add_parser('perplexity', help='validation loss and perplexity, by genre'))
    _tune(parts.add_parser('tune', help='fine-tuning on a task: accuracy, F1, MCC, Spearman'))
    _generate(parts.add_parser('generate', help='responses to instructions: ROUGE-L'))
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


def _tune(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=commands.tuning)
    _common(parser)
    parser.add_argument(
        '--task',
        required=True,
        metavar='TASK',
        help='sentiment, similarity (ratings of sentences) or spam; or a folder of .tsv files in '
        "GLUE's form: train.tsv and others",
    )
    parser.add_argument(
        '--data',
        default='data/tasks',
        metavar='DIR',
        help='where tools/data/prepare_tasks.py wrote (default: %(default)s)',
    )
    parser.add_argument('--sets', nargs='+', metavar='SET', help='to be told (default: all)')
    parser.add_argument('--learning-rate', type=float, default=3e-4, help='default: %(default)s')
    parser.add_argument('--epochs', type=float, default=3, help='default: %(default)s')
    parser.add_argument('--batch', type=int, default=32, help='default: %(default)s')
    parser.add_argument(
        '--length', type=int, default=128, help='tokens of a text at most (default: %(default)s)'
    )
    parser.add_argument('--rows', type=int, help='of training, drawn once (default: all)')
    parser.add_argument('--eval-rows', type=int, help='of each other set, likewise (default: all)')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[12], help='a run each (default: 12)'
    )


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=generation_command.generate)
    _common(parser)
    parser.add_argument(
        '--data',
        required=True,
        metavar='FILE',
        help="JSON lines: MiniLLM's (prompt, output), Dolly's (instruction, context, response), "
        "Alpaca's (instruction, input, output) or Self-Instruct's (instruction, instances)",
    )
    parser.add_argument(
        '--min-words',
        type=int,
        default=0,
        metavar='N',
        help='leave rows out whose first reference is shorter: 11 for S-NI and UnNI (default: 0)',
    )
    parser.add_argument('--rows', type=int, metavar='N', help='the first N rows (default: all)')
    parser.add_argument(
        '--prompt-length', type=int, default=256, help='tokens of a prompt at most (default: 256)'
    )
    parser.add_argument('--skip-long', action='store_true', help='leave longer prompts out')
    parser.add_argument(
        '--new-tokens', type=int, default=256, help='of a response at most (default: 256)'
    )
    parser.add_argument(
        '--temperature', type=float, default=1.0, help='0 takes the likeliest token (default: 1)'
    )
    parser.add_argument(
        '--no-repeat-ngram-size',
        type=int,
        default=6,
        metavar='N',
        help="as MiniLLM's evaluation has it; 0 to allow repeats (default: 6)",
    )
    parser.add_argument('--batch', type=int, default=16, help='prompts at a time (default: 16)')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[10, 20, 30, 40, 50], help='default: 10 to 50'
    )
    parser.add_argument('--responses', metavar='FILE', help='write all responses, as JSON lines')


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help='MODEL or NAME=MODEL')
    parser.add_argument('--json', metavar='FILE', help='enter the numbers in FILE')


if __name__ == '__main__':
    run_tool(main)
