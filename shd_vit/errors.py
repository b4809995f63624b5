"""Errors that the user can mend. Tools print them as one line, without a traceback."""

from __future__ import annotations

import sys
from numbers import Integral, Real
from typing import Any


class ShdVitError(Exception):
    """Base of all errors below."""


class ConfigError(ShdVitError, ValueError):
    """A field of the configuration has a value that cannot work."""


class UnsupportedAttention(ConfigError):
    """An attention module whose maps cannot be reproduced exactly from its inputs."""


class CheckpointError(ShdVitError, RuntimeError):
    """A checkpoint is missing, damaged, does not fit the model, or asks to run code."""


class DatasetError(ShdVitError, RuntimeError):
    """A data set's file is missing, damaged or unfinished, or a sample cannot be read."""


class NonFiniteLoss(ShdVitError, FloatingPointError):
    """A loss became NaN or infinite."""


def check_number(
    field: str,
    value: object,
    *,
    positive: bool = False,
    at_most: float = sys.float_info.max,
    whole: bool = False,
    optional: bool = False,
) -> Any:
    """A hyper-parameter as a plain int or float, for every number that a user may write.

    Args:
        field: How the error names it, such as 'KDLoss.weight'.
        value: What the user wrote. Numpy's numbers count as numbers, bools and text do not.
        positive: Whether 0 is refused, too.
        at_most: The largest that is allowed. The default refuses infinity alone.
        whole: Whether it must be an integer.
        optional: Whether it may be None, which is left as it is.

    Raises:
        ConfigError: Naming field, value and what is allowed.
    """
    if value is None and optional:
        return None
    if isinstance(value, Integral if whole else Real) and not isinstance(value, bool):
        number = int(value) if isinstance(value, Integral) else float(value)
        if (number > 0 if positive else number >= 0) and number <= at_most:  # never so for NaN
            return number
    kind = 'whole' if whole else 'finite'
    most = f' and at most {at_most:g}' if at_most < sys.float_info.max else ''
    raise ConfigError(
        f'{field}={value!r} must be a {kind} number, {"above 0" if positive else "not negative"}'
        f'{most}{" (or None)" if optional else ""}'
    )
