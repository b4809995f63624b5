"""The configs and tools that come with the package: beside it in a clone, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The folder 'configs' or 'tools'; a wheel has them in ``.mim``, as OpenMMLab's packages do."""
    installed = PACKAGE / '.mim' / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder
