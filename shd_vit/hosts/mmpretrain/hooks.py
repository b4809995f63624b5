"""Hooks that make runs repeatable and their checkpoints plain."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from rich.progress import track
from torch import Tensor, nn

from shd_vit.errors import ConfigError


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch at the start of every training epoch.

    The seed is drawn from (run seed, epoch, rank), so an epoch is the same whether or not the run
    was interrupted before it, and each process augments on its own. Data loader workers draw
    theirs from torch's, unless they outlive the epoch (``persistent_workers``).
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner) -> None:
        key = (runner.seed, runner.epoch, get_rank())
        state = np.random.SeedSequence(key).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(state[1])
        torch.manual_seed(int(state[2]))


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Checkpoints of tensors and built-in types alone, which any ``torch.load`` opens safely.

    mmengine's log histories are objects with numpy arrays inside; they are stored as tensors and
    rebuilt on resume.
    """

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint.update({key: plain(value) for key, value in checkpoint.items()})

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        hub = checkpoint.get('message_hub')
        scalars = hub.get('log_scalars') if isinstance(hub, dict) else None
        if isinstance(scalars, dict):
            scalars.update({name: _history(value) or value for name, value in scalars.items()})


def _history(value: Any) -> HistoryBuffer | None:
    """mmengine's log history from what :func:`plain` made of it; None if it is something else."""
    keys = ('log_history', 'count_history', 'max_length')
    history, count, length = (value.get(key) if isinstance(value, dict) else None for key in keys)
    if not isinstance(history, Tensor) or not isinstance(count, Tensor) or type(length) is not int:
        return None
    if history.ndim != 1 or history.shape != count.shape:
        return None
    return HistoryBuffer(history.cpu().numpy(), count.cpu().numpy(), length)


@HOOKS.register_module()
class ChannelOrderHook(Hook):
    """Refuses a loader that gives RGB to a data_preprocessor that expects BGR, or the reverse.

    Red and blue swapped is nothing that a loss curve shows.
    """

    def before_train(self, runner) -> None:
        self._check(runner, runner.train_dataloader, 'train_dataloader')

    def before_val_epoch(self, runner) -> None:
        self._check(runner, runner.val_dataloader, 'val_dataloader')

    def before_test_epoch(self, runner) -> None:
        self._check(runner, runner.test_dataloader, 'test_dataloader')

    def _check(self, runner, loader, name: str) -> None:
        model = unwrapped(runner.model)
        to_rgb = getattr(getattr(model, 'data_preprocessor', None), 'to_rgb', None)
        order = getattr(loader, 'channel_order', None)  # torch's DataLoader does not say
        if order == 'rgb' and hasattr(model, 'teacher_images'):
            # The student's to_rgb=False then says nothing of the order that the teacher sees.
            model.teacher_images.keep_channels()
        if order in ('rgb', 'bgr') and to_rgb is not None and to_rgb != (order == 'bgr'):
            raise ConfigError(
                f'{name}.channel_order={order!r}, but data_preprocessor.to_rgb={to_rgb} expects '
                f'{"BGR" if to_rgb else "RGB"}: the model would see red and blue swapped'
            )


@HOOKS.register_module()
class SettleHook(Hook):
    """Shows losses that ask for it the training images once, before training.

    After a resumed checkpoint was loaded, in which such a loss is settled.
    """

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        if any(not loss.is_settled for loss in getattr(model, 'losses', {}).values()):
            label = 'Losses see the training images, before training'
            runner.logger.info(label)
            quiet = get_rank() != 0
            model.settle(track(runner.train_dataloader, label, disable=quiet))


def unwrapped(model: nn.Module) -> Any:
    """The model inside DDP and the like."""
    return model.module if is_model_wrapper(model) else model


def plain(value: Any) -> Any:
    """A copy without numpy and mmengine types; anything else is left as it is."""
    if isinstance(value, HistoryBuffer):
        history, count = (torch.from_numpy(np.array(part)) for part in value.data)
        return dict(log_history=history, count_history=count, max_length=value.max_length)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(plain(v) for v in value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    return value
