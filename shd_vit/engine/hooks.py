"""Hooks that make runs repeatable and their checkpoints plain."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS


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
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, value in scalars.items():
            if isinstance(value, dict):
                history, count = value['log_history'].numpy(), value['count_history'].numpy()
                scalars[name] = HistoryBuffer(history, count, value['max_length'])


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
