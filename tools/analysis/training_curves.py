"""Draw accuracy and losses of training runs, from what their work dirs say in scalars.json.

Runs of one work dir that resumed each other are joined. Raw values and gradient norms are there
where LossMonitorHook was among the config's custom_hooks.

python tools/analysis/training_curves.py work_dirs/deit_tiny_shd --out curves.svg
python tools/analysis/training_curves.py shd=work_dirs/a baseline=work_dirs/b --out curves.png
"""

import argparse
import os
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.curves import Run, draw, read_run
from shd_vit.lab.figures import check_output


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='[NAME=]WORK_DIR',
        help='work dir of a training, and what to call it (default: the name of the folder)',
    )
    parser.add_argument('--out', required=True, metavar='FILE', help='picture: .svg, .png or .pdf')
    args = parser.parse_args()
    out = check_output(args.out)

    runs: dict[str, Run] = {}
    for argument in args.runs:
        name, folder = _named(argument)
        if name in runs:
            raise ConfigError(f'two runs are called {name!r}: give them names with NAME=WORK_DIR')
        runs[name] = read_run(folder)
    draw(runs).savefig(out)
    print(out)


def _named(argument: str) -> tuple[str, str]:
    """(name, folder) of NAME=WORK_DIR or WORK_DIR."""
    name, is_named, folder = argument.partition('=')
    if is_named and not os.path.isdir(argument):
        return name, folder
    return Path(argument).resolve().name, argument


if __name__ == '__main__':
    run_tool(main)
