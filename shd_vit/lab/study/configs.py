"""Rows that are configs of mmengine's: checked at the start, and written down for each seed."""

from __future__ import annotations

import copy
import os
from pathlib import Path

from mmengine.config import Config

from shd_vit.errors import ConfigError
from shd_vit.lab.records import SCALARS
from shd_vit.lab.study.commands import CommandJob
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import SEED, Row
from shd_vit.lab.study.source import need, short


class ConfigJob(CommandJob):
    """A training by tools/train.py."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self._config = resolve(row)
        self.metrics, self.about = SCALARS, dict(config=row.config)
        self.text = self._config.pretty_text

    def prepare(self, folder: Path, seed: int) -> None:
        config = copy.deepcopy(self._config)
        config.merge_from_dict({SEED: seed})
        config.dump(config_file(folder))

    def command(self, folder: Path, seed: int, launcher: Launcher) -> list[str]:
        return launcher.train(config_file(folder), folder, f'{self._row.folder}-{seed}')


def config_file(folder: Path) -> Path:
    """Beside the folder: mmengine writes its own copy into it, by the same name."""
    return folder.with_name(f'{folder.name}.py')


def resolve(row: Row) -> Config:
    """The config that all seeds of a row share, with its options put in.

    Raises:
        ConfigError: If the config is missing or cannot be read, has nothing to validate with, or
            an option's place does not exist in it.
    """
    if row.config is None or ('::' not in row.config and not os.path.isfile(row.config)):
        raise ConfigError(f'{row.name}: config {row.config!r} does not exist: expected a config')
    try:
        cfg = Config.fromfile(row.config)
    except Exception as error:  # it is code, and may raise anything
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise ConfigError(f'{row.name}: config {row.config!r} cannot be read: {reason}') from error
    for key, value in row.options.items():
        _check_place(cfg, key, row)
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError) as error:
            reason = str(error).splitlines()[0][:120]
            raise ConfigError(f'{row.name}: {key}={short(value)} does not fit: {reason}') from error
    for key in ('train_dataloader', 'val_dataloader'):
        need(cfg.get(key), f'{row.name}: {row.config!r} has no {key}; a study needs one')
    return cfg


def _check_place(cfg: Config, key: str, row: Row) -> None:
    """mmengine would make up what is missing on the way, so that a typo changes nothing."""
    node, parts = cfg, key.split('.')
    for i, part in enumerate(parts[:-1], 1):
        try:
            node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        except (KeyError, IndexError, ValueError, TypeError):
            missing = '.'.join(parts[:i])
            raise ConfigError(
                f'{row.name}: option {key!r}: {row.config!r} has no {missing}'
            ) from None
