"""Time of a training step of several configs, side by side (the paper's Table 9).

All models and optimisers are built as for training, in one process, and take steps in turns on a
batch of random images: preprocessing with Mixup and the like, forward, backward and the optimiser.
The learning rate is 0, no checkpoint is read, and neither loading nor hooks count. Times are
medians; the ratio to the first config is the median over the rounds.

python tools/analysis/step_time.py none=configs/deit_tiny_baseline.py SHD=configs/deit_tiny_shd.py
python tools/analysis/step_time.py a=A.py b=B.py --batch 32 --json steps.json --markdown steps.md
"""

import argparse
import tempfile
import warnings

from mmengine.config import Config, DictAction

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.cli import read_config
from shd_vit.lab.report import environment, environment_table, show, write_json
from shd_vit.lab.step_time import build, measure, step_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='NAME=CONFIG', help='a row of the table')
    parser.add_argument('--steps', type=int, default=30, help='at a stretch (default: 30)')
    parser.add_argument('--rounds', type=int, default=5, help='turns of each (default: 5)')
    parser.add_argument('--batch', type=int, help="images in a step (default: the first config's)")
    parser.add_argument('--image-size', type=int, help="side (default: the student's img_size)")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings to override in all configs',
    )
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument('--markdown', metavar='FILE', help='write the tables')
    args = parser.parse_args()
    for name in ('steps', 'rounds', 'batch', 'image_size'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f'--{name.replace("_", "-")}={value} must be at least 1')

    warnings.simplefilter('ignore')  # libraries about themselves
    configs = read_configs(args)
    batch = args.batch or next(iter(configs.values())).train_dataloader.batch_size
    with tempfile.TemporaryDirectory() as folder:
        runners = {name: build(name, cfg, folder) for name, cfg in configs.items()}
        results = measure(runners, batch, args.steps, args.rounds, args.image_size)
    machine = dict(environment(), images_a_step=batch)
    show([environment_table(machine), step_table(results)], args.markdown)
    write_json(dict(environment=machine, step_time=results), args.json)


def read_configs(args: argparse.Namespace) -> dict[str, Config]:
    """By name, in the order of the command line."""
    configs = {}
    for pair in args.configs:
        name, equals, path = pair.partition('=')
        if not (name and equals) or name in configs:
            raise ConfigError(f'{pair!r}: expected NAME=CONFIG, each name once')
        configs[name] = read_config(path, args.cfg_options)
    return configs


if __name__ == '__main__':
    run_tool(main)
