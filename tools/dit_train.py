"""Train a diffusion transformer, alone or from a teacher, as a YAML file says.

python tools/dit_train.py configs/dit/fashion_mnist/teacher.yaml work_dirs/dit/teacher
torchrun --nproc_per_node 8 tools/dit_train.py configs/dit/dit_s2_xl2.yaml work_dirs/dit_s2

A run that was stopped goes on when it is started again; one that is done is left as it is.
"""

import argparse
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.diffusion.recipe import read_recipe
from shd_vit.lab.diffusion.training import METRICS, Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='YAML file, as in configs/dit')
    parser.add_argument('folder', help='where model, scheduler, log and metrics go')
    parser.add_argument(
        '--options',
        nargs='*',
        default=[],
        metavar='FIELD=VALUE',
        help='over what the file says, such as training.steps=100 losses.shd.beta=1',
    )
    parser.add_argument('--cpu', action='store_true', help='leave a GPU alone')
    args = parser.parse_args()
    recipe = read_recipe(args.config, args.options)
    if Path(args.folder).is_file():
        raise ConfigError(f'{args.folder} is a file: give a folder')
    if Path(args.folder, METRICS).is_file():
        print(f'{args.folder} is trained already; remove it to train anew')
        return
    trainer = Trainer(recipe, args.folder, args.cpu)
    metrics = trainer.run()
    for name, value in metrics.items() if trainer.accelerator.is_main_process else ():
        print(f'{name:<18} {value:,.6g}' if isinstance(value, float) else f'{name:<18} {value:,}')


if __name__ == '__main__':
    run_tool(main)
