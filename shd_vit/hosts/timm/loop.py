"""An epoch of a timm task, and its validation, as a script's options say."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import torch
from timm import utils
from timm.task import evaluation_sample_limit
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from shd_vit.hosts.timm.task import SHDDistillationTask

_logger = logging.getLogger(__name__)


def train_epoch(
    epoch: int,
    args: Namespace,
    task: SHDDistillationTask,
    loader: DataLoader,
    optimizer: Optimizer,
    schedule: Any,
    scaler: Any,
) -> dict[str, float]:
    """Means of all losses over an epoch."""
    task.train()
    meters: dict[str, Any] = defaultdict(utils.AverageMeter)
    steps, every = len(loader), args.grad_accum_steps
    updates = -(-steps // every)
    shown = tqdm(loader, f'Epoch {epoch + 1}', disable=not utils.is_primary(args), leave=False)
    for step, (images, target) in enumerate(shown):
        group = min(every, steps - step // every * every)  # the last group may be shorter
        is_update = (step + 1) % every == 0 or step + 1 == steps
        with nullcontext() if is_update else task.no_sync():
            with autocast(args):
                task.set_epoch(epoch + step / steps)
                result = task(images, target)
            loss = result['loss'] / group
            if scaler is not None:
                scaler(
                    loss,
                    optimizer,
                    clip_grad=args.clip_grad,
                    parameters=task.get_clip_parameters(),
                    need_update=is_update,
                )
            else:
                loss.backward()
        if is_update:
            if scaler is None:
                if args.clip_grad is not None:
                    nn.utils.clip_grad_norm_(task.get_clip_parameters(), args.clip_grad)
                optimizer.step()
            optimizer.zero_grad()
            done = epoch * updates + step // every + 1
            task.update_ema(step=done)
            schedule.step_update(done)
        for name, value in result.items():
            if name != 'output':
                meters[name].update(value.item(), len(images))
        if step % args.log_interval == 0 or step + 1 == steps:
            shown.set_postfix({name: f'{meter.avg:.3g}' for name, meter in meters.items()})
    means = {name: meter.avg for name, meter in meters.items()}
    _logger.info('Epoch %d: %s', epoch + 1, ', '.join(f'{k} {v:.4g}' for k, v in means.items()))
    return means


@torch.inference_mode()
def validate(
    args: Namespace, task: SHDDistillationTask, loader: DataLoader, ema: bool = False
) -> dict[str, float]:
    """Loss, top-1 and top-5 in percent over all images, none counted twice."""
    model: Any = task.get_eval_model(ema=ema)
    model.eval()
    evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(loader))
    name = 'Validation of the average' if ema else 'Validation'
    for images, target in tqdm(loader, name, disable=not utils.is_primary(args), leave=False):
        with autocast(args):
            output = model(images)
        evaluator.update(output, target)
    return dict(evaluator.compute(distributed=args.distributed))


def autocast(args: Namespace) -> torch.autocast:
    """Mixed precision, if asked for."""
    dtype = getattr(torch, args.amp_dtype)
    return torch.autocast(torch.device(args.device).type, dtype, enabled=args.amp)
