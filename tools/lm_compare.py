"""One table of language models, of what tools/lm_eval.py has entered in a file.

python tools/lm_eval.py perplexity teacher/ student/ --text data/text --json results.json
python tools/lm_eval.py tune teacher/ student/ --task sentiment --json results.json
python tools/lm_compare.py results.json --text text --task sentiment
"""

import argparse

from shd_vit.command import run_tool
from shd_vit.lab.language.tables import comparison_table
from shd_vit.lab.report import read_json, show


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', metavar='FILE', help='of --json')
    parser.add_argument('--text', default='text', help="name of the text's folder")
    parser.add_argument('--task', default='sentiment', help='default: %(default)s')
    parser.add_argument('--set', default='test', help='of the task (default: %(default)s)')
    args = parser.parse_args()
    show([comparison_table(read_json(args.results), args.text, args.task, args.set)])


if __name__ == '__main__':
    run_tool(main)
