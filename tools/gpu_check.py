"""Accept one GPU: tests, a training step, growth and training, with a table of goals.

Needs no network. What is not installed is skipped, with a line that says so. Ends with code 1 if
anything is wrong or a goal is missed.

tools/gpu_check.sh                     # everything, about four minutes; writes gpu.md
tools/gpu_check.sh step growth         # some parts
"""

import argparse
import logging
import time
import warnings

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError, check_number
from shd_vit.files import write_whole
from shd_vit.lab.gpu import Goal, Outcome, goal_table, growth, steps, suites, training
from shd_vit.lab.report import as_markdown, show

PARTS = ('tests', 'step', 'growth', 'training', 'loader')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'of {", ".join(PARTS)}; all')
    parser.add_argument('--markdown', metavar='FILE', help='write the report')
    parser.add_argument('--batch', type=int, default=256, help='images in a step (default: 256)')
    parser.add_argument('--rounds', type=int, default=5, help='turns of each (default: 5)')
    parser.add_argument('--processes', type=int, default=12, help='that tests run in (default: 12)')
    args = parser.parse_args()
    wrong = set(args.parts) - set(PARTS)
    if wrong:
        raise ConfigError(f'no part {wrong.pop()!r}: allowed are {", ".join(PARTS)}')
    for name in ('batch', 'rounds', 'processes'):
        check_number(f'--{name}', getattr(args, name), positive=True, whole=True)
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    logging.basicConfig(format='%(message)s')
    logging.getLogger('shd_vit').setLevel(logging.INFO)

    outcomes = {'versions': suites.versions()}
    if not outcomes['versions'].wrong:
        for part in args.parts or PARTS:
            outcomes[part] = _measure(part, args)
            show(list(outcomes[part].tables))
    goals = [goal for outcome in outcomes.values() for goal in outcome.goals]
    lines = [f'{part}: {line}' for part, outcome in outcomes.items() for line in outcome.wrong]
    lines += [f'{goal.name}: {goal.value:.2f}, at most {goal.limit:.2f}' for goal in missed(goals)]
    verdict = [goal_table(goals)] if goals else []
    verdict.append(('Wrong', [['what'], *([line] for line in lines or ['nothing'])]))
    show(verdict)
    if args.markdown:
        tables = [table for outcome in outcomes.values() for table in outcome.tables]
        with write_whole(args.markdown) as part:
            part.write_text('\n'.join(as_markdown(*table) for table in [*verdict, *tables]))
    if lines:
        raise SystemExit(1)


def missed(goals: list[Goal]) -> list[Goal]:
    return [goal for goal in goals if not goal.is_met]


def _measure(part: str, args: argparse.Namespace) -> Outcome:
    """A part; what it raises is what is wrong with it."""
    start = time.monotonic()
    try:
        if part == 'tests':
            return suites.tests(args.processes)
        if part == 'step':
            return steps.measure(args.batch, args.rounds)
        if part == 'growth':
            return growth.measure(args.rounds)
        if part == 'training':
            return training.measure()
        return suites.loader()
    except Exception as error:  # one part must not hide the others
        logging.getLogger('shd_vit').exception('%s failed', part)
        return Outcome(wrong=(f'{type(error).__name__}: {error}',))
    finally:
        print(f'{part}: {time.monotonic() - start:.0f} s', flush=True)


if __name__ == '__main__':
    run_tool(main)
