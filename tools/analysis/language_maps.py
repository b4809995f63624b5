"""What heads of a language model, squeezed ones and students attend to (the paper's Fig. 1).

Maps of one text, a layer of the teacher a row; beside each other its heads, the squeezed ones and,
of each student, the heads that learn from them. Printed: weights, and KL(squeezed || student).

python tools/analysis/language_maps.py teacher/ before=start/ after=student/ --text 'Call me Jo'
python tools/analysis/language_maps.py SmolLM2.gguf --heads 3 --layers 1 10 20 30 --text a.txt
"""

import argparse

from shd_vit.command import run_tool
from shd_vit.lab.figures import check_output
from shd_vit.lab.language.maps import language_maps, text_of
from shd_vit.lab.language.maps_figure import draw
from shd_vit.lab.language.models import load_tokenizer, named_models
from shd_vit.lab.maps_figure import table_of
from shd_vit.lab.report import show


def main() -> None:
    args = _parse()
    out, students = check_output(args.out), named_models(args.students)
    tokenizer = load_tokenizer(args.teacher)
    ids = text_of(args.text, tokenizer, args.tokens)
    layers = language_maps(args.teacher, students, ids, args.layers, args.heads, args.temperature)
    show([table_of(maps) for maps in layers])
    draw(layers, [tokenizer.decode([token]) for token in ids[0].tolist()], out)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('teacher', help='a folder, a name on the hub or a .gguf file')
    parser.add_argument('students', nargs='*', metavar='STUDENT', help='MODEL or NAME=MODEL')
    parser.add_argument('--text', required=True, help='the text, or a file of it')
    parser.add_argument('--tokens', type=int, default=48, help='of the text (default: 48)')
    parser.add_argument(
        '--layers',
        type=int,
        nargs='+',
        metavar='N',
        help="the students' layers, from 1; without students, the teacher's (default: all)",
    )
    parser.add_argument('--heads', type=int, help="heads to leave (default: the students')")
    parser.add_argument(
        '--temperature', type=float, default=1.0, metavar='T', help='T_a of all maps (default: 1)'
    )
    parser.add_argument(
        '--out', default='maps.png', metavar='FILE', help='.png, .svg or .pdf (default: maps.png)'
    )
    return parser.parse_args()


if __name__ == '__main__':
    run_tool(main)
