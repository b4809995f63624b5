"""One row at one seed: its folder, whether it is done, and what came of it.

cells/ROW/seed0.py is the config that is trained, as it was when the cell was started; in the folder
cells/ROW/seed0 are train.log, what training leaves, cell.json, and result.json at the end.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config

from shd_vit.errors import ShdVitError
from shd_vit.lab.study.plan import SEED, Row


class CellFailed(ShdVitError):
    """A cell did not come to its end; the others go on."""


class Cell:
    """A row at a seed, in the folder of its study.

    Args:
        config: The row's, resolved.
        out: The study's folder.
    """

    def __init__(self, row: Row, seed: int, config: Config, out: str | Path) -> None:
        self.row = row
        self.seed = seed
        self.name = f'{row.name}, seed {seed}'
        self.folder = Path(out) / 'cells' / row.folder / f'seed{seed}'
        self.config_file = self.folder.with_name(f'seed{seed}.py')
        self.log = self.folder / 'train.log'
        self._config = config
        self._hash = hashlib.sha256(config.pretty_text.encode()).hexdigest()

    @property
    def state(self) -> str:
        """'waiting', 'interrupted', 'failed', 'finished'; 'changed' if of another config."""
        note, result = self._note(), self.result()
        started = result or note
        if not started:
            return 'waiting'
        if started['config_hash'] != self._hash:
            return 'changed'
        return 'finished' if result else note['state']

    def result(self) -> Any:
        """What finish() wrote; None if it has not."""
        return _read(self.folder / 'result.json')

    def begin(self) -> None:
        """Make the folder and the config that the training is to read.

        What another config made is renamed first.
        """
        if self.state == 'changed':
            self._set_aside()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self._config)
        config.merge_from_dict({SEED: self.seed})
        config.dump(self.config_file)
        self._write_note('interrupted', self._note() or {'seconds': 0.0})

    def leave(self, seconds: float, failed: bool) -> None:
        """Note an attempt that did not finish, and how long it took."""
        note = self._note() or {'seconds': 0.0}
        note['seconds'] += seconds
        self._write_note('failed' if failed else 'interrupted', note)

    def finish(self, metric: str, seconds: float) -> dict:
        """Read what training wrote and keep it as result.json.

        Args:
            metric: A name that validation logs; of the last validation, not the best.
            seconds: What the last attempt took.

        Raises:
            CellFailed: If the weights that training ended with were not validated, or not by
                this metric.
        """
        lines = _scalars(self.folder)
        # Lines of training have a learning rate, lines of validation do not.
        validations = [line for line in lines if 'lr' not in line]
        if not validations or 'lr' in lines[-1]:
            raise CellFailed(
                f'training ended without a validation of its last weights; remove {self.folder} '
                'to run it again'
            )
        last = validations[-1]
        metrics = {k: v for k, v in last.items() if k not in ('step', 'time', 'data_time')}
        if metric not in metrics:
            known = ', '.join(metrics) or 'none'
            raise CellFailed(f'metric {metric!r} is not what validation logs; it logs {known}')
        steps = [line['time'] for line in lines if 'lr' in line and 'time' in line]
        result = dict(
            row=self.row.name,
            seed=self.seed,
            metrics=metrics,
            step=last['step'],
            minutes=((self._note() or {'seconds': 0.0})['seconds'] + seconds) / 60,
            step_seconds=median(steps) if steps else None,
            config=self.row.config,
            options=self.row.options,
            config_hash=self._hash,
        )
        write_json(self.folder / 'result.json', result)
        return result

    def _set_aside(self) -> None:
        number = 1
        while (aside := self.folder.with_name(f'{self.folder.name}.old{number}')).exists():
            number += 1
        self.folder.rename(aside)

    def _note(self) -> Any:
        return _read(self.folder / 'cell.json')

    def _write_note(self, state: str, note: dict) -> None:
        values = dict(state=state, seconds=note['seconds'], config_hash=self._hash)
        write_json(self.folder / 'cell.json', values)


def write_json(path: Path, values: object) -> None:
    """Whole or not at all."""
    part = path.with_name(f'.{path.name}.part')
    part.write_text(json.dumps(values, indent=1, default=str) + '\n')
    os.replace(part, path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _scalars(folder: Path) -> list[dict]:
    """What mmengine logged, of all runs in the order of time: a resumed cell has several."""
    lines = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue  # the line that a killed run was writing
    return lines
