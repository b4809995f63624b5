"""Time of a training step of several configs, in turns, with everything but loading and hooks."""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn

from shd_vit.hosts.mmpretrain.cli import build_runner
from shd_vit.image_input import image_shape
from shd_vit.lab.report import Table, in_turns

MIB = 2**20


def build(name: str, cfg: Config, folder: str) -> Runner:
    """A runner whose model has its first weights, and whose optimiser changes nothing."""
    cfg.work_dir = os.path.join(folder, str(len(os.listdir(folder))))
    cfg.experiment_name = f'step time of {name}'  # mmengine keeps global logs by it
    cfg.log_level = 'ERROR'
    cfg.load_from, cfg.resume = None, False
    for part in ('student', 'teacher'):
        model = cfg.model.get(part)
        if isinstance(model, dict) and (part == 'teacher' or 'checkpoint' in model):
            model['checkpoint'] = None
    runner = build_runner(cfg)
    runner._init_model_weights()
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    for group in runner.optim_wrapper.param_groups:
        group['lr'] = 0.0
    runner.model.train()
    return runner


def measure(
    runners: dict[str, Runner], batch: int, steps: int, rounds: int, size: int | None = None
) -> dict[str, dict]:
    """Seconds, ratio, parameters and, on a GPU, memory of each.

    Args:
        runners: By name, see :func:`build`; the first is what ratios are to.
        batch: Images in a step.
        steps: At a stretch.
        rounds: Turns of each.
        size: Side of the images (default: the student's img_size).
    """
    calls = {name: step_of(runner, batch, size) for name, runner in runners.items()}
    memory = {name: peak_memory(step) for name, step in calls.items()}
    times = in_turns(calls, rounds, 'steps', steps)
    medians = {
        name: [median(seconds[start : start + steps]) for start in range(0, len(seconds), steps)]
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
    shape = image_shape(student, (size, size) if size else None)
    data = dict(
        inputs=torch.randint(256, (batch, *shape), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(0) for _ in range(batch)],
    )
    return lambda: runner.model.train_step(dict(data), runner.optim_wrapper)


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
