"""Time of a training step of several configs, side by side (the paper's Table 9).

All models and optimisers are built as for training, in one process, and take steps in turns on a
batch of random images: preprocessing with Mixup and the like, forward, backward and the optimiser.
The learning rate is 0, no checkpoint is read, and neither loading nor hooks count. Times are
medians; the ratio to the first config is the median over the rounds.

python tools/analysis/step_time.py none=configs/deit_tiny_baseline.py SHD=configs/deit_tiny_shd.py
python tools/analysis/step_time.py a=A.py b=B.py --batch 32 --json steps.json --markdown steps.md
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from statistics import median

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn

import shd_vit  # noqa: F401  (registers)
from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.cli import build_runner, read_config
from shd_vit.lab.report import Table, environment, environment_table, in_turns, show, write_json

MIB = 2**20


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
        results = measure(runners, batch, args)
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


def build(name: str, cfg: Config, folder: str) -> Runner:
    """A runner whose model has its first weights, and whose optimiser changes nothing."""
    cfg.work_dir = os.path.join(folder, str(len(os.listdir(folder))))
    cfg.experiment_name = f'step time of {name}'  # mmengine keeps global logs by it
    cfg.log_level = 'ERROR'
    cfg.load_from, cfg.resume = None, False
    for part in ('student', 'teacher'):
        model = cfg.model.get(part)
        if isinstance(model, dict) and (part == 'teacher' or 'checkpoint' in model):
            model.checkpoint = None
    runner = build_runner(cfg)
    runner._init_model_weights()
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    for group in runner.optim_wrapper.param_groups:
        group['lr'] = 0.0
    runner.model.train()
    return runner


def measure(runners: dict[str, Runner], batch: int, args: argparse.Namespace) -> dict[str, dict]:
    """Seconds, ratio, parameters and, on a GPU, memory of each."""
    steps = {name: step_of(runner, batch, args.image_size) for name, runner in runners.items()}
    memory = {name: peak_memory(step) for name, step in steps.items()}
    times = in_turns(steps, args.rounds, 'steps', args.steps)
    medians = {
        name: [
            median(seconds[start : start + args.steps])
            for start in range(0, len(seconds), args.steps)
        ]
        for name, seconds in times.items()
    }
    first = next(iter(medians.values()))
    return {
        name: dict(
            seconds=median(times[name]),
            fastest=min(times[name]),
            ratio=median(own / base for own, base in zip(medians[name], first, strict=True)),
            trained_parameters=trained(runner.model),
            loss_parameters=trained(getattr(runner.model, 'losses', nn.Module())),
            peak_mib=memory[name],
        )
        for name, runner in runners.items()
    }


def step_of(runner: Runner, batch: int, size: int | None) -> Callable[[], None]:
    """A training step on one batch of random images, as a loader would give it."""
    student = getattr(runner.model, 'student', runner.model)
    sides = (size, size) if size else image_sides(student)
    channels = next(m.in_channels for m in student.modules() if isinstance(m, nn.Conv2d))
    data = dict(
        inputs=torch.randint(256, (batch, channels, *sides), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(0) for _ in range(batch)],
    )
    return lambda: runner.model.train_step(dict(data), runner.optim_wrapper)


def image_sides(model: nn.Module) -> tuple[int, int]:
    """Height and width of the images that a vision transformer is made for."""
    for module in model.modules():
        size = getattr(module, 'img_size', None)
        if size is not None:
            return tuple(size) if isinstance(size, tuple | list) else (size, size)
    raise ConfigError(f'{type(model).__name__} does not say its img_size: pass --image-size')


def peak_memory(step: Callable[[], None]) -> float | None:
    """MiB that a step needs on top of weights and optimiser state; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    step()  # the first makes the optimiser's state, and compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def step_table(results: dict[str, dict]) -> Table:
    first = next(iter(results))
    rows = [['', 'ms a step', f'/ {first}', 'trained parameters', 'of losses', 'peak memory']]
    for name, r in results.items():
        peak = 'n/a' if r['peak_mib'] is None else f'{r["peak_mib"]:.0f} MiB'
        counts = [f'{r[key]:,}' for key in ('trained_parameters', 'loss_parameters')]
        rows.append([name, f'{1e3 * r["seconds"]:.1f}', f'{r["ratio"]:.3f}', *counts, peak])
    return 'Training step', rows


if __name__ == '__main__':
    run_tool(main)
