"""Time and memory of a training step of language models, side by side (the paper's Table 9).

Each training is run by its own trainer, all in one process and in turns: loading, responses where
it draws them, forward, backward and the optimiser, at a learning rate of 0. Means over a turn,
medians over turns; the ratio to the first is the median over the turns. The peak is measured in a
process of its own, over what it has before the first step; on a GPU, of what torch has allocated.

python tools/analysis/lm_step_time.py MiniLLM=configs/lm/minillm/small/minillm.yaml \\
    '+ SHD=configs/lm/minillm/small/minillm_shd.yaml' \\
    '+ FD=configs/lm/minillm/small/minillm.yaml losses.fd=true' --steps 8 --rounds 9
"""

import argparse
import shlex
import warnings

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError, check_number
from shd_vit.lab.language.models import quiet
from shd_vit.lab.language.settings import Settings, read_settings
from shd_vit.lab.language.step_time import measure, peak_of, step_table
from shd_vit.lab.report import environment, environment_table, show, write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'trainings', nargs='+', metavar='"NAME=CONFIG KEY=VALUE ..."', help='a row of the table'
    )
    parser.add_argument(
        '--steps', type=int, default=8,
        help='of a turn: as many as one batch of responses is learnt from (default: 8)',
    )  # fmt: skip
    parser.add_argument('--rounds', type=int, default=9, help='turns of each (default: 9)')
    parser.add_argument('--peak', action='store_true', help='print the peak alone, in MiB')
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument('--markdown', metavar='FILE', help='write the tables')
    args = parser.parse_args()
    for name in ('steps', 'rounds'):
        check_number(f'--{name}', getattr(args, name), whole=True, positive=True)
    warnings.simplefilter('ignore')  # libraries about themselves
    quiet()
    trainings: dict[str, Settings] = {}
    for training in args.trainings:
        name, settings = read_training(training)
        if name in trainings:
            raise ConfigError(f'{training!r}: there is a training {name!r} already')
        trainings[name] = settings
    if args.peak:
        print(*(peak_of(settings, args.steps) for settings in trainings.values()))
        return
    results = measure(trainings, args.trainings, args.steps, args.rounds)
    machine = environment()
    show([environment_table(machine), step_table(results)], args.markdown)
    write_json(dict(environment=machine, step_time=results), args.json)


def read_training(text: str) -> tuple[str, Settings]:
    """Name and settings of 'NAME=CONFIG KEY=VALUE ...'."""
    name, equals, rest = text.partition('=')
    words = shlex.split(rest)
    if not (name.strip() and equals and words):
        raise ConfigError(f'{text!r}: expected NAME=CONFIG, and KEY=VALUE after it')
    return name, read_settings(words[0], words[1:])


if __name__ == '__main__':
    run_tool(main)
