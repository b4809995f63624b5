"""One file of results that every evaluation of every model is entered in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.report import read_json, write_json


def enter(path: str | None, section: str, of: str, values: dict[str, Any]) -> None:
    """Enter values of models under their names, beside what is there, whole or not at all.

    The file is ``{section: {of: {model: values}}}``, such as
    ``{"tune": {"sentiment": {"student": {...}}}}``. What a model had there before is replaced.

    Args:
        path: The file, which need not be there; None enters nothing.
        section: The evaluation.
        of: On what.
        values: By model.

    Raises:
        ConfigError: If the file holds something else, and is left as it is.
    """
    if path is None:
        return
    found = read_json(path) if Path(path).exists() else {}
    try:
        known = found.setdefault(section, {}).setdefault(of, {})
        known.update(values)
    except (AttributeError, ValueError):
        raise ConfigError(f'--json {path!r} has something else than results in it') from None
    write_json(found, path)
