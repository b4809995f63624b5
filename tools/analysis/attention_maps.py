"""What a teacher, its squeezed heads and students attend to in one image (paper, Fig. 1).

Students are given as NAME=FILE: a checkpoint of tools/train.py or of a student alone, or the word
init for the weights that the config starts with.

python tools/analysis/attention_maps.py configs/fashion_mnist/shd.py before=init \\
    after=work_dirs/fashion_mnist/shd/epoch_2.pth --image 7 --matrix --out maps.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.figures import check_output
from shd_vit.lab.images import one_image, shown_image
from shd_vit.lab.maps import layer_maps
from shd_vit.lab.maps_figure import draw, rows_of, table_of
from shd_vit.lab.models import (
    analysis_parser,
    distiller_config,
    load_distiller,
    record,
    student_taps,
)
from shd_vit.lab.query import Query
from shd_vit.lab.report import show
from shd_vit.pairing.layers import Pairs
from shd_vit.taps import Anatomy


def main() -> None:
    args = _parse()
    out, students = check_output(args.out), _students(args.students)
    query = None if args.query == 'none' else Query.parse(args.query)
    cfg = distiller_config(args)
    image = one_image(cfg, args.image)
    distiller = load_distiller(cfg, args.teacher)
    loss = distiller.losses['shd']
    pairs = _pairs(args.layer, loss.pairs)
    inputs = distiller.data_preprocessor(dict(inputs=[image]))['inputs']

    kept = loss.alignment
    teacher = record(distiller, inputs)[1].attention
    recorded = {name: student_taps(distiller, file, inputs) for name, file in students.items()}
    prefix = kept.prefix
    if prefix is None and query is not None:  # their number may be known where names are not
        prefix = ('unknown',) * Anatomy(distiller.teacher, 'teacher').num_prefix_tokens
    heads = Anatomy(distiller.student, 'student').heads
    for s, t in pairs:
        taps = {name: kept.student.of(attention[s]) for name, attention in recorded.items()}
        target = kept.teacher.of(teacher[t])
        maps = layer_maps((s, t), target, taps, heads[s - 1], loss.temperature)
        if query is not None:
            query.check(prefix, maps.teacher.shape[-1])
        rows = rows_of(maps, query, prefix, args.matrix or query is None)
        show([table_of(maps)])
        file = out if len(pairs) == 1 else _of_layer(out, s, t)
        draw(rows, shown_image(image, distiller.data_preprocessor), maps, query, file)


def _parse() -> argparse.Namespace:
    parser = analysis_parser(__doc__)
    parser.add_argument('students', nargs='*', metavar='NAME=FILE', help='students, a row each')
    parser.add_argument(
        '--teacher', metavar='FILE', help="the teacher's checkpoint (default: the config's)"
    )
    parser.add_argument(
        '--image',
        default='0',
        metavar='WHICH',
        help="an index into the config's test images, from 0, or an image file (default: 0)",
    )
    parser.add_argument(
        '--layer',
        default='last',
        metavar='N',
        help="the student's layer, from 1, last or all (a figure each); its teacher's layer is the "
        "one of the config's SHDLoss (default: last)",
    )
    parser.add_argument(
        '--query',
        default='cls',
        help='whose attention is laid over the image: cls, mean (over patches), ROW,COL of a patch '
        'from 1, or none (default: cls)',
    )
    parser.add_argument(
        '--matrix', action='store_true', help='draw the whole maps, tokens x tokens, as well'
    )
    parser.add_argument(
        '--out',
        default='maps.png',
        metavar='FILE',
        help='the figure, .png, .svg or .pdf (default: maps.png)',
    )
    return parser.parse_args()


def _students(arguments: list[str]) -> dict[str, str]:
    """Files by name."""
    students = {}
    for argument in arguments:
        name, _, file = argument.partition('=')
        if not name or not file:
            raise ConfigError(f'{argument!r}: expected NAME=FILE, a checkpoint, or NAME=init')
        if name in students:
            raise ConfigError(f'{argument!r}: there is a student named {name!r} already')
        students[name] = file
    return students


def _pairs(layer: str, pairs: Pairs) -> Pairs:
    """The (student, teacher) layers to draw."""
    if layer == 'all':
        return pairs
    known = sorted({s for s, _ in pairs})
    number = known[-1] if layer == 'last' else int(layer) if layer.isdigit() else 0
    chosen = [pair for pair in pairs if pair[0] == number]
    if not chosen:
        allowed = ', '.join(map(str, known))
        raise ConfigError(f'--layer {layer}: allowed are last, all and student layers {allowed}')
    return chosen


def _of_layer(out: Path, student: int, teacher: int) -> Path:
    """A file beside ``out`` for one layer of several."""
    of = '' if student == teacher else f'_teacher{teacher}'
    return out.with_stem(f'{out.stem}_layer{student}{of}')


if __name__ == '__main__':
    run_tool(main)
