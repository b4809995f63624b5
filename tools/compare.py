"""One table of several results of `tools/test.py --out FILE.json`.

python tools/compare.py teacher=teacher.json student=student.json
"""

import argparse
import os

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.report import read_json, show


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', nargs='+', metavar='NAME=FILE', help='a row of the table')
    args = parser.parse_args()

    rows = [['model', 'top-1 %', 'top-5 %', 'parameters']]
    for result in args.results:
        name, _, path = result.partition('=')
        values = read_json(path) if os.path.isfile(path) else None
        try:
            top1, top5 = (f'{values[f"accuracy/top{k}"]:.2f}' for k in (1, 5))
            rows.append([name, top1, top5, f'{values["parameters"]:,}'])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f'{result!r}: expected NAME=FILE, a file by tools/test.py --out'
            ) from None
    show([('', rows)])


if __name__ == '__main__':
    run_tool(main)
