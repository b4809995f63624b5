"""What the command-line tools on configs share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError

__all__ = ['build_runner', 'config_of', 'config_parser', 'read_config', 'run_tool']


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that train and test have in common, named as mmpretrain's."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: work_dirs/<config name>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings to override, such as randomness.seed=1 train_dataloader.batch_size=64',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started; the shell scripts beside this tool set it',
    )
    # torch.distributed.launch passes it; torchrun sets the variable.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def read_config(
    config: str,
    cfg_options: dict | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
    local_rank: int = 0,
) -> Config:
    """A config with the common options put in; they are those of :func:`config_parser`.

    Raises:
        ConfigError: If there is no such file.
    """
    if launcher != 'none':  # else transformers would wait for other processes
        os.environ.setdefault('LOCAL_RANK', str(local_rank))
    if '::' not in config and not os.path.isfile(config):
        raise ConfigError(f'config {config!r} does not exist: expected a config file')
    cfg = Config.fromfile(config)
    cfg.launcher = launcher
    # From the command line, else from the config, else from the config's name.
    default = os.path.join('work_dirs', Path(cfg.filename).stem)
    cfg.work_dir = work_dir or cfg.get('work_dir') or default
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    return cfg


def config_of(args: argparse.Namespace) -> Config:
    """:func:`read_config` of what a :func:`config_parser` read."""
    names = ('config', 'cfg_options', 'work_dir', 'launcher', 'local_rank')
    return read_config(**{name: getattr(args, name) for name in names})


def build_runner(cfg: Config) -> Runner:
    """The config's runner; DistillRunner where it names none."""
    cfg.setdefault('runner_type', 'DistillRunner')
    return RUNNERS.build(cfg)
