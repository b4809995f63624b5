"""What Squeezing-Heads Distillation costs on this machine: time, memory and growth.

Whatever is compared runs in turns in one process, each turn after the other's; figures are medians,
ratios are medians of the ratios of a turn. The yardstick is a literal transcription of the paper.

python tools/benchmark.py                      # everything, about a quarter of an hour on two cores
python tools/benchmark.py step --rounds 20     # one part
python tools/benchmark.py --json b.json --plot b.svg --markdown b.md
"""

import argparse
import warnings

from mmengine.logging import MMLogger

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.functional.compiler import compiler_error
from shd_vit.hosts.mmpretrain.memory import keep_freed_memory
from shd_vit.lab import language_step, long_maps
from shd_vit.lab.benchmark import DEVICE, TABLES, VARIANTS, growth, memory, peak_memory, plot, step
from shd_vit.lab.figures import check_output
from shd_vit.lab.report import environment, show, write_json

PARTS = ('step', 'memory', 'growth', 'long', 'lm')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'of {", ".join(PARTS)}; all')
    parser.add_argument('--batch', type=int, default=32, help='images in a step (default: 32)')
    parser.add_argument('--rounds', type=int, default=9, help='turns of each (default: 9)')
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument('--plot', metavar='FILE', help='draw growth and step time')
    parser.add_argument('--markdown', metavar='FILE', help='write the tables')
    parser.add_argument(
        '--plot-long', metavar='FILE', help='draw time and memory of long sequences'
    )
    parser.add_argument('--long', nargs=3, help=argparse.SUPPRESS)
    parser.add_argument('--lm-peak-of', nargs=2, help=argparse.SUPPRESS)
    parser.add_argument('--peak-of', choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    MMLogger.get_instance('benchmark', log_level='ERROR')
    if args.peak_of:
        print(peak_memory(args.peak_of, args.batch))
        return
    if args.long:
        run, tokens, rounds = args.long
        print(*long_maps.measure(run, int(tokens), int(rounds)))
        return
    if args.lm_peak_of:
        losses, tokens = args.lm_peak_of
        print(language_step.peak_of(losses, int(tokens)))
        return
    wrong = set(args.parts) - set(PARTS)
    if wrong:
        raise ConfigError(f'no part {wrong.pop()!r}: allowed are {", ".join(PARTS)}')
    for name in ('batch', 'rounds'):
        if (value := getattr(args, name)) < 1:
            raise ConfigError(f'--{name}={value} must be at least 1')
    parts = args.parts or PARTS
    out = check_output(args.plot) if args.plot else None
    if out and not {'step', 'growth'} & set(parts):
        raise ConfigError('--plot draws growth and step: measure at least one of them')
    out_long = check_output(args.plot_long) if args.plot_long else None
    if out_long and 'long' not in parts:
        raise ConfigError('--plot-long draws the part long: measure it')

    keep_freed_memory()
    works = compiler_error(DEVICE) or 'torch.compile works'
    results = {'environment': dict(environment(), compiler=works)}
    measure = dict(step=step, memory=memory, growth=growth)
    measure.update(long=long_maps.long_maps, lm=language_step.language_step)
    for part in parts:
        results[part] = measure[part](args.batch, args.rounds)
    shown = dict(TABLES, long=long_maps.table, lm=language_step.table)
    tables = [table for part in ('environment', *parts) for table in shown[part](results[part])]
    show(tables, args.markdown)
    write_json(results, args.json)
    if out:
        plot(results, out)
    if out_long:
        long_maps.plot(results['long'], out_long)


if __name__ == '__main__':
    run_tool(main)
