"""Which query rows of maps, and which tokens, count: all, or those that predict what counts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import Predictions
from shd_vit.pairing import ModelOutput

ROWS = ('all', 'completion')


def check_rows(rows: Any) -> str:
    """One of :data:`ROWS`.

    Raises:
        ConfigError: If it is another.
    """
    if rows not in ROWS:
        raise ConfigError(f"rows={rows!r} must be 'all' or 'completion'")
    return rows


def of_completion(output: ModelOutput, predictions: Predictions) -> ModelOutput:
    """What a model left, of which the rows count that predict a label that counts.

    Keys and merged values are those of all tokens: a completion is read with its prompt.

    Raises:
        ConfigError: If labels are not of tokens.
    """
    rows = predictions.rows
    if rows.dim() != 2:
        raise ConfigError(
            f"rows='completion' needs a label a token, but labels are {tuple(rows.shape)}: use "
            "rows='all'"
        )
    attention = {
        n: tap._replace(mask=tap.mask._replace(queries=rows.to(tap.q.device)))
        for n, tap in output.attention.items()
    }
    tokens = {n: tap._replace(mask=_both(tap.mask, rows)) for n, tap in output.tokens.items()}
    return output._replace(attention=attention, tokens=tokens)


def _both(mask: Tensor | None, rows: Tensor) -> Tensor:
    return rows if mask is None else mask & rows.to(mask.device)
