"""Config names such as ``shd_vit::deit_tiny_shd.py``, wherever the package is installed."""

from __future__ import annotations

from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

from mmengine.config import Config

from shd_vit.errors import ConfigError
from shd_vit.shipped import shipped

PREFIX = 'shd_vit::'


def register_configs() -> None:
    """Let mmengine read our configs by name, in ``_base_`` and in ``Config.fromfile``.

    By itself mmengine knows such names of a fixed list of packages, in sub-folders only, in
    ``_base_`` only, and where pkg_resources finds them, which is not so of editable installs.
    ``Config.fromfile`` then takes the names of other packages too.
    """
    from_file, base_path = Config.fromfile, Config._get_cfg_path

    def path_and_scope(name: str, including: str) -> tuple[str, str | None]:
        if name.startswith(PREFIX):
            return shipped_config(name), None  # types are looked up as in a config of the user's
        return base_path(name, including)

    @wraps(from_file)
    def from_file_or_name(filename: str | Path, *args: Any, **kwargs: Any) -> Config:
        if '::' in str(filename):
            filename, _ = path_and_scope(str(filename), '')
        return from_file(filename, *args, **kwargs)

    Config._get_cfg_path = staticmethod(path_and_scope)
    Config.fromfile = staticmethod(from_file_or_name)


def shipped_config(name: str) -> str:
    """File of a config name.

    Raises:
        ConfigError: If there is no such config; it names the closest.
    """
    folder = shipped('configs')
    path = folder / name.removeprefix(PREFIX)
    if path.is_file():
        return str(path)
    allowed = [PREFIX + str(file.relative_to(folder)) for file in folder.rglob('*.py')]
    closest = get_close_matches(name, allowed, 3, cutoff=0) or ['none: the package has no configs']
    raise ConfigError(f'config {name!r} does not exist; close to it are {", ".join(closest)}')
