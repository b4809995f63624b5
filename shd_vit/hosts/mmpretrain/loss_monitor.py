"""How large each loss is while training goes on, and how hard it pulls at the student."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from shd_vit.distillation.gradients import gradient_norms
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.hooks import unwrapped


@HOOKS.register_module()
class LossMonitorHook(Hook):
    """Writes every loss's value and gradient norm to the visualizer's backends.

    For the student's own loss, ``cls``, and each distillation loss ``<name>``:

    - ``monitor/<name>/raw``: its value without its weight and schedule.
    - ``monitor/<name>/weighted``: its value with both, as it is trained.
    - ``monitor/<name>/gradient``: the L2 norm of the weighted loss's gradient with respect to the
      student's parameters, before clipping.

    The step is the iteration, from 1, that trains on the batch. Each measurement is a forward pass
    of its own and a backward pass for every loss. It leaves no trace in training: random states,
    buffers, the batch and gradients are as they were before. Several processes all measure, the
    first writes what it found on its own part of the batch. A model that is not a distiller is
    measured as well.

    Args:
        interval: Iterations from one measurement to the next.
    """

    priority = 'LOW'  # after the schedules are set and the seeds are sown

    def __init__(self, interval: int = 100) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ConfigError(f'LossMonitorHook.interval={interval!r} must be a whole number >= 1')
        self.interval = interval

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        model, wrapper = unwrapped(runner.model), runner.optim_wrapper
        schedules = getattr(model, 'schedules', None)
        # Schedules are ignored, so that losses are also measured where their factor is 0.
        with (
            _untouched(model),
            schedules.ignored() if schedules else nullcontext(),
        ):
            with wrapper.optim_context(model):
                data = model.data_preprocessor(copy.deepcopy(data_batch), True)
                losses = model(**data, mode='loss')
            losses = {_name(key): loss.mean() for key, loss in losses.items() if 'loss' in key}
            scaler = getattr(wrapper, 'loss_scaler', None)
            scale = scaler.get_scale() if scaler else 1.0
            norms = gradient_norms(losses, getattr(model, 'student', model), scale)

        factors = schedules.factors if schedules else {}
        runner.visualizer.add_scalars(
            {
                f'monitor/{name}/{what}': value
                for name, loss in losses.items()
                for what, value in _values(
                    loss.item(), norms[name], _weight(model, name), factors.get(name, 1.0)
                ).items()
            },
            step=runner.iter + 1,
        )


def _values(loss: float, norm: float, weight: float, factor: float) -> dict[str, float]:
    """What is logged, from a loss with its weight and without its schedule's factor."""
    # A loss of weight 0 does not tell its value.
    raw = dict(raw=loss / weight) if weight else {}
    return {**raw, 'weighted': loss * factor, 'gradient': norm * factor}


def _name(key: str) -> str:
    """'loss_shd' is 'shd'; a classifier that is not distilled calls its only one 'loss'."""
    return 'cls' if key == 'loss' else key.removeprefix('loss_')


def _weight(model: nn.Module, name: str) -> float:
    """The factor that the loss includes; the student's own has none."""
    losses: Any = getattr(model, 'losses', None)
    is_distilled = isinstance(losses, nn.ModuleDict) and name in losses
    return losses[name].weight if is_distilled else 1.0


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put random states and the model's buffers back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    buffers = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                owner[name] = buffer.copy_(value)
