"""One table of several results of `tools/test.py --out FILE.json`.

python tools/compare.py teacher=teacher.json student=student.json
"""

import argparse
import json
import os

from rich.console import Console
from rich.table import Table

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.cli import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', nargs='+', metavar='NAME=FILE', help='a row of the table')
    args = parser.parse_args()

    table = Table()
    table.add_column('model')
    for heading in ('top-1 %', 'top-5 %', 'parameters'):
        table.add_column(heading, justify='right')
    for result in args.results:
        name, _, path = result.partition('=')
        if not os.path.isfile(path):
            raise ConfigError(f'{result!r}: expected NAME=FILE, a file by tools/test.py --out')
        with open(path) as file:
            metrics = json.load(file)
        accuracy = [f'{metrics[f"accuracy/top{k}"]:.2f}' for k in (1, 5)]
        table.add_row(name, *accuracy, f'{metrics["parameters"]:,}')
    Console().print(table)


if __name__ == '__main__':
    run_tool(main)
