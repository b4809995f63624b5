"""Teachers on devices of their own: batches go there, and what teachers leave comes back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import ConfigError


def read_devices(devices: Any, count: int, default: torch.device) -> list[torch.device]:
    """A device for each of ``count`` teachers.

    Args:
        devices: Of each, or one of all, as :class:`torch.device` takes it; None: ``default``.
        count: Teachers.
        default: The student's.

    Raises:
        ConfigError: If there is no such device, or not one for each.
    """
    if devices is None:
        return [default] * count
    each = list(devices) if isinstance(devices, (list, tuple)) else [devices] * count
    if len(each) != count:
        raise ConfigError(
            f'teacher_devices has {len(each)} entries, teachers {count}: give one of each, or one '
            'of all'
        )
    return [_device(device) for device in each]


def _device(device: Any) -> torch.device:
    try:
        read = torch.device(device)
        torch.empty(0, device=read)
    except (RuntimeError, TypeError, AssertionError) as error:
        line = str(error).split('\n', 1)[0]
        raise ConfigError(f'teacher_devices={device!r} is no device here: {line}') from None
    return read


def moved(value: Any, device: torch.device) -> Any:
    """A value with every tensor inside it on a device: of dicts, lists and named tuples."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(inner, device) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(moved(inner, device) for inner in value))
    if isinstance(value, (list, tuple)):
        return type(value)(moved(inner, device) for inner in value)
    return value
