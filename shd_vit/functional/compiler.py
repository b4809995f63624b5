"""Whether and how pure functions go through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


def choose(function: Callable, compiled: bool) -> Callable:
    """``function``, or the one compiled version of it."""
    return _compiled(function) if compiled else function


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, fullgraph=True)


@cache
def compiler_error(device_type: str) -> str | None:
    """Why torch.compile does not work here: the first line of its error; None if it works."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device_type))
    except Exception as error:  # whatever a toolchain may raise
        return f'{type(error).__name__}: {str(error).strip().splitlines()[0]}'
    return None
