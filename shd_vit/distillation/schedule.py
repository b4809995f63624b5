"""Weights of distillation losses that change while training goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError, check_number

DECAYS = ('cosine', 'linear')


class LossSchedule(NamedTuple):
    """The factor of a loss by epoch: up to 1, from 1 to ``final``, and there to the end.

    Epochs are progress as mmengine counts it: 0 at the start, 1.5 in the middle of the second.

    Attributes:
        warm_up: The factor rises from 0, linearly, and is 1 at this epoch.
        decay_from: From here it falls; None goes to ``final`` at once, at ``stop``.
        stop: Here it has become ``final``. None is never.
        decay: How it falls, 'cosine' (half a period) or 'linear'.
        final: The factor from ``stop`` on, in [0, 1]. At 0 the loss is not computed any more.
    """

    warm_up: float = 0.0
    decay_from: float | None = None
    stop: float | None = None
    decay: str = 'cosine'
    final: float = 0.0

    def __str__(self) -> str:
        parts = [f'0 to 1 until epoch {self.warm_up:g}'] if self.warm_up else []
        if self.decay_from is not None:
            parts.append(f'{self.decay} from epoch {self.decay_from:g} to {self.stop:g}')
        if self.stop is not None:
            then = f'x {self.final:g}' if self.final else 'off'
            parts.append(f'{then} from epoch {self.stop:g}')
        return ', '.join(parts) or 'x 1'


def read_schedule(cfg: dict, field: str) -> LossSchedule:
    """A schedule from its config; ``field`` names it in errors.

    Raises:
        ConfigError: If a key is unknown, or a value, or their order, makes no sense.
    """
    allowed = ', '.join(LossSchedule._fields)
    if not isinstance(cfg, dict):
        raise ConfigError(f'{field}={cfg!r} must be a dict of {allowed}')
    for key in cfg:
        if key not in LossSchedule._fields:
            raise ConfigError(f'{field}.{key} is unknown; allowed are {allowed}')
    schedule = LossSchedule(**cfg)

    for key in ('warm_up', 'decay_from', 'stop'):
        epoch = getattr(schedule, key)
        if epoch is not None or key == 'warm_up':
            check_number(f'{field}.{key}', epoch)
    check_number(f'{field}.final', schedule.final, at_most=1)
    if schedule.decay not in DECAYS:
        raise ConfigError(f"{field}.decay={schedule.decay!r} must be 'cosine' or 'linear'")
    for key in ('decay_from', 'final'):
        value = getattr(schedule, key)
        if schedule.stop is None and value != LossSchedule._field_defaults[key]:
            raise ConfigError(f'{field}.{key}={value} needs stop, the epoch at which decay ends')

    order = [(key, getattr(schedule, key)) for key in ('warm_up', 'decay_from', 'stop')]
    order = [(key, epoch) for key, epoch in order if epoch is not None]
    for (key, epoch), (next_key, next_epoch) in pairwise(order):
        if epoch > next_epoch:
            raise ConfigError(
                f'{field}.{next_key}={next_epoch} must not be before {key}={epoch} (epochs)'
            )
    return schedule


def factor(schedule: LossSchedule, epoch: float) -> float:
    """What a loss is multiplied with at ``epoch``, in [0, 1]."""
    warm_up, decay_from, stop, decay, final = schedule
    if stop is not None and epoch >= stop:
        return final
    if epoch < warm_up:
        return epoch / warm_up
    if decay_from is None or stop is None or epoch <= decay_from:
        return 1.0
    done = (epoch - decay_from) / (stop - decay_from)
    fallen = done if decay == 'linear' else (1 - math.cos(math.pi * done)) / 2
    return 1 - (1 - final) * fallen


class LossSchedules(nn.Module):
    """The schedules of a distiller's losses, and where they stand.

    Nothing of it is saved: a host calls :meth:`set_epoch` before each step.

    Args:
        schedules: By name of the loss; others have the factor 1.
    """

    def __init__(self, schedules: dict[str, LossSchedule]) -> None:
        super().__init__()
        self.schedules = schedules
        self.factors = dict.fromkeys(schedules, 1.0)
        self._over: frozenset[str] = frozenset()
        self._is_set = not schedules
        self._is_ignored = False
        for name in schedules:
            # A number would be a constant to torch.compile, and each new one a new graph.
            self.register_buffer(f'factor_{name}', torch.ones(()), persistent=False)

    def set_epoch(self, epoch: float) -> None:
        """Set all factors to those of this moment, such as 1.5 in the middle of epoch 2."""
        for name, schedule in self.schedules.items():
            self.factors[name] = factor(schedule, epoch)
            getattr(self, f'factor_{name}').fill_(self.factors[name])
        self._over = frozenset(
            name
            for name, (_, _, stop, _, final) in self.schedules.items()
            if stop is not None and epoch >= stop and final == 0
        )
        self._is_set = True

    def check_is_set(self) -> None:
        """Refuse to train with schedules that nobody follows.

        Raises:
            ConfigError: If :meth:`set_epoch` was never called and there are schedules.
        """
        if not self._is_set:
            raise ConfigError(
                f'the schedule of {next(iter(self.schedules))} would never be followed: call '
                "set_epoch() before each step (in mmpretrain, set runner_type='DistillRunner' or "
                "add dict(type='LossScheduleHook') to custom_hooks)"
            )

    def is_over(self, name: str) -> bool:
        """Whether the loss will be 0 from now on."""
        return name in self._over and not self._is_ignored

    def forward(self, name: str, loss: Tensor) -> Tensor:
        """The loss, a scalar, times its factor."""
        if name not in self.schedules or self._is_ignored:
            return loss
        return loss * getattr(self, f'factor_{name}')

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Inside, all losses have the factor 1."""
        self._is_ignored = True
        try:
            yield
        finally:
            self._is_ignored = False
