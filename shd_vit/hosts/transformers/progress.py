"""What a Trainer is told beside its own loss: the epoch, and what losses learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from shd_vit.distillation import Distillation
from shd_vit.errors import CheckpointError

LOSSES_FILE = 'distillation_losses.pt'


class DistillationCallback(TrainerCallback):
    """Keeps schedules at the epoch, and trains the weights that losses have of their own.

    Those are no part of the student, which alone is wrapped, clipped and saved by Trainer: their
    gradients are averaged over processes and clipped here, by themselves.

    Args:
        distillation: Of the trainer.
    """

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation

    @property
    def learned(self) -> list[torch.nn.Parameter]:
        """Parameters of the losses."""
        return list(self.distillation.losses.parameters())

    def on_step_begin(self, args, state, control, **kwargs: Any) -> None:
        self.distillation.schedules.set_epoch(state.epoch or 0.0)

    def on_pre_optimizer_step(self, args, state, control, **kwargs: Any) -> None:
        grads = [p.grad for p in self.learned if p.grad is not None]
        if args.world_size > 1:
            for grad in grads:
                torch.distributed.all_reduce(grad)
                grad /= args.world_size
        if grads and args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.learned, args.max_grad_norm)

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        self.distillation.losses.zero_grad()

    def add_to(self, optimizer: Any) -> None:
        """Have an optimiser train the losses, if it does not yet."""
        known = {id(p) for group in optimizer.param_groups for p in group['params']}
        if new := [p for p in self.learned if id(p) not in known]:
            optimizer.add_param_group(dict(params=new, weight_decay=0.0))

    def save(self, folder: str) -> None:
        """Write what losses have learned, if anything, beside a checkpoint of the student."""
        if state := self.distillation.losses.state_dict():
            torch.save(state, Path(folder, LOSSES_FILE))

    def load(self, folder: str) -> None:
        """Take up what :meth:`save` wrote.

        Raises:
            CheckpointError: If it is missing, or not of these losses.
        """
        losses, path = self.distillation.losses, Path(folder, LOSSES_FILE)
        if not losses.state_dict():
            return
        try:
            losses.load_state_dict(torch.load(path, map_location='cpu', weights_only=True))
        except (OSError, RuntimeError) as error:
            line = str(error).replace('\n', ' ')
            raise CheckpointError(
                f'{path}: weights of the losses cannot be resumed: {line}'
            ) from None
