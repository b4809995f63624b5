"""Files of a run: which it may remove, and from which it goes on."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from shd_vit.checkpoint import is_whole
from shd_vit.files import write_whole

_LAST = 'last_checkpoint'


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, whose file ``last_checkpoint`` is written whole or not at all."""

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        if not is_main_process():
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        with TemporaryDirectory() as folder:
            super()._save_checkpoint_with_step(_Elsewhere(runner, folder), step, meta)
            pointer = Path(folder, _LAST).read_bytes()
        with write_whole(Path(runner.work_dir, _LAST)) as part:
            part.write_bytes(pointer)


class _Elsewhere:
    """A runner, but for its work_dir."""

    def __init__(self, runner: Any, work_dir: str) -> None:
        self._runner, self.work_dir = runner, work_dir

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def latest_checkpoint(runner: Any) -> str | None:
    """The checkpoint that ``last_checkpoint`` names; if there is none such, the newest whole one.

    Returns:
        Its path; None if there is neither.
    """
    named = None
    pointer = os.path.join(runner.work_dir, _LAST)
    if os.path.isfile(pointer):
        with open(pointer, encoding='utf-8', errors='replace') as file:
            named = file.read().strip()
        if named and '\0' not in named and ('://' in named or is_whole(named)):
            return named
    found = [path for hook in _hooks(runner) for path in _checkpoints(hook, runner)]
    newest = next((path for path in sorted(found, key=_age) if is_whole(path)), None)
    if newest is not None:
        print_log(
            f'{pointer} names no whole checkpoint ({named!r}): going on from {newest}, the newest '
            'that is whole',
            logger='current',
            level=logging.WARNING,
        )
    return newest or named or None


def forget_foreign_files(runner: Any) -> None:
    """Of the files that a resumed checkpoint names, keep those that this run itself writes.

    CheckpointHook removes what ``message_hub`` has as the best checkpoint so far, and numbered
    ones beyond ``max_keep_ckpts``.
    """
    info = runner.message_hub.runtime_info
    for key, value in list(info.items()):
        if key.startswith('best_score'):
            is_ours = isinstance(value, (int, float)) or getattr(value, 'shape', None) == ()
        elif key.startswith('best_ckpt'):
            is_ours = value is None or any(_is_best(value, h, runner) for h in _hooks(runner))
        elif key == 'keep_ckpt_ids':
            is_ours = isinstance(value, list) and all(type(step) is int for step in value)
        else:
            continue
        if not is_ours:
            del info[key]
            print_log(
                f'{key}={str(value)[:200]!r} of the resumed checkpoint is ignored: it is nothing '
                f'that this run writes into {runner.work_dir}',
                logger='current',
                level=logging.WARNING,
            )


def _hooks(runner: Any) -> Iterator[CheckpointHook]:
    return (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))


def _folder(hook: CheckpointHook, runner: Any) -> str:
    """Where the hook puts checkpoints, which it knows itself only when training has begun."""
    if hook.out_dir is None or hook.out_dir == runner.work_dir:
        return runner.work_dir
    name = os.path.basename(runner.work_dir.rstrip(os.sep))
    return os.path.join(hook.out_dir, name)


def _is_best(path: Any, hook: CheckpointHook, runner: Any) -> bool:
    """Whether the hook may have written this file as the best one."""
    if not isinstance(path, str) or '\0' in path:
        return False
    folder, name = os.path.split(path)
    number = re.escape(hook.filename_tmpl).replace(r'\{\}', r'\d+')
    is_inside = os.path.realpath(folder) == os.path.realpath(_folder(hook, runner))
    is_dir = os.path.isdir(path)  # DeepSpeed's, which this package does not write
    return is_inside and re.fullmatch(f'best_.+_{number}', name) is not None and not is_dir


def _checkpoints(hook: CheckpointHook, runner: Any) -> Iterator[str]:
    folder = _folder(hook, runner)
    number = re.escape(hook.filename_tmpl).replace(r'\{\}', r'(\d+)')
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if re.fullmatch(number, name):
            yield os.path.join(folder, name)


def _age(path: str) -> tuple[float, int]:
    """Smallest for the newest file; by the number in its name where times are equal."""
    digits = re.findall(r'\d+', os.path.basename(path))
    return -os.path.getmtime(path), -int(digits[-1])
