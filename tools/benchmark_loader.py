"""How fast images come: FFCVLoader against other loaders, all on the same stored JPEG bytes.

Photographs of scikit-image and scikit-learn are cropped to many pictures, written into a .beton
file once, and its JPEG bytes are written out as files for the loaders of folders. Loaders take
turns, an epoch each, with as many workers each; figures are medians, ratios are medians of the
ratios of a turn. The ceiling is turbojpeg decoding these bytes in as many threads, nothing else.

python tools/benchmark_loader.py                      # everything, about four minutes on two cores
python tools/benchmark_loader.py speed --rounds 9
python tools/benchmark_loader.py --json b.json --plot b.svg --markdown b.md
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

from mmengine.logging import MMLogger

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.memory import keep_freed_memory
from shd_vit.lab.figures import check_output
from shd_vit.lab.loader_speed import TABLES, first_batch, plot, speed, start
from shd_vit.lab.pictures import make_data
from shd_vit.lab.report import environment, show, write_json

PARTS = ('speed', 'start')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'of {", ".join(PARTS)}; all')
    parser.add_argument('--images', type=int, default=1024, help='in an epoch (default: 1024)')
    parser.add_argument('--batch', type=int, default=128, help='images a batch (default: 128)')
    parser.add_argument('--rounds', type=int, default=7, help='turns of each (default: 7)')
    parser.add_argument(
        '--workers', type=int, default=len(os.sched_getaffinity(0)), help='default: cores'
    )
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument('--plot', metavar='FILE', help='draw images a second')
    parser.add_argument('--markdown', metavar='FILE', help='write the tables')
    parser.add_argument('--first-batch-of', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    MMLogger.get_instance('benchmark', log_level='ERROR')
    if args.first_batch_of:
        print(first_batch(*args.first_batch_of, args))
        return
    wrong = set(args.parts) - set(PARTS)
    if wrong:
        raise ConfigError(f'no part {wrong.pop()!r}: allowed are {", ".join(PARTS)}')
    if args.images < args.batch:
        raise ConfigError(f'--images {args.images} make no batch of --batch {args.batch}')
    for name in ('batch', 'rounds', 'workers'):
        if (value := getattr(args, name)) < 1:
            raise ConfigError(f'--{name}={value} must be at least 1')
    parts = args.parts or PARTS
    out = check_output(args.plot) if args.plot else None
    if out and 'speed' not in parts:
        raise ConfigError('--plot draws images a second: measure speed')

    keep_freed_memory()
    results = {'environment': dict(environment(), workers=args.workers)}
    with tempfile.TemporaryDirectory() as folder:
        results['environment'].update(make_data(Path(folder), args.images))
        measure = dict(speed=speed, start=start)
        for part in parts:
            results[part] = measure[part](Path(folder), args)
    show([table for part in results for table in TABLES[part](results[part])], args.markdown)
    write_json(results, args.json)
    if out:
        plot(results, out)


if __name__ == '__main__':
    run_tool(main)
