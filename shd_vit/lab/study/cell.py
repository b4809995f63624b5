"""One row at one seed: a command line, the metrics that it writes, and what came of it.

In the folder cells/ROW/seed0 are train.log, what training leaves, cell.json, and result.json at the
end. Beside it, of a config, is seed0.py: the config as it was when the cell was started.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from statistics import median
from typing import Any

from shd_vit.errors import ShdVitError
from shd_vit.lab.records import is_number, is_training, read_records
from shd_vit.lab.report import read_json, write_json
from shd_vit.lab.study.commands import CommandJob
from shd_vit.lab.study.plan import Row
from shd_vit.lab.study.source import need, short

NOT_MEASURED = ('step', 'epoch', 'lr', 'time', 'data_time')
# What a cell's files hold.
NOTE = dict(
    state=(lambda v: v in ('interrupted', 'failed'), "'interrupted' or 'failed'"),
    seconds=(lambda v: is_number(v) and v >= 0, 'a number from 0'),
    config_hash=(lambda v: isinstance(v, str), 'text'),
)
RESULT = dict(
    row=(lambda v: isinstance(v, str), 'text'),
    seed=(lambda v: type(v) is int, 'a whole number'),
    metrics=(lambda v: isinstance(v, dict) and all(map(is_number, v.values())), 'numbers by name'),
    minutes=NOTE['seconds'],
    step_seconds=(lambda v: v is None or is_number(v), 'a number or null'),
    config_hash=NOTE['config_hash'],
)


class CellFailed(ShdVitError):
    """A cell did not come to its end; the others go on."""


class Cell:
    """A row at a seed, in the folder of its study.

    Args:
        job: The row's.
        out: The study's folder.
        metric: A name that validation logs.
    """

    def __init__(self, row: Row, seed: int, job: CommandJob, out: str | Path, metric: str) -> None:
        self.row = row
        self.seed = seed
        self.name = f'{row.name}, seed {seed}'
        self.folder = Path(out) / 'cells' / row.folder / f'seed{seed}'
        self.log = self.folder / 'train.log'
        self.job = job
        self.metric = metric
        self._hash = hashlib.sha256(job.text.encode()).hexdigest()

    @property
    def state(self) -> str:
        """'waiting', 'interrupted', 'failed', 'finished'; 'changed' if of another training."""
        result, note = self.result(), self._note()
        started = result or note
        if not started:
            return 'waiting'
        if started['config_hash'] != self._hash:
            return 'changed'
        return 'finished' if result else note['state']

    def result(self) -> Any:
        """What finish() wrote; None if it has not.

        Raises:
            ConfigError: If it is not what finish() writes.
        """
        result = self._read('result.json', RESULT)
        if result and result['config_hash'] == self._hash:
            known = ', '.join(result['metrics'])[:500] or 'none'
            has_it = self.metric in result['metrics']
            need(has_it, f'{self.name} has no metric {self.metric!r}; it has {known}')
        return result

    def begin(self) -> None:
        """Make the folder and what the training is to read.

        What another training made is renamed first.
        """
        if self.state == 'changed':
            names = (f'{self.folder.name}.old{number}' for number in itertools.count(1))
            aside = (path for path in map(self.folder.with_name, names) if not path.exists())
            self.folder.rename(next(aside))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.job.prepare(self.folder, self.seed)
        self.leave(0.0, failed=False)

    def leave(self, seconds: float, failed: bool) -> None:
        """Note an attempt that did not finish, and how long it took."""
        state = 'failed' if failed else 'interrupted'
        values = dict(state=state, seconds=self._spent() + seconds, config_hash=self._hash)
        write_json(values, self.folder / 'cell.json')

    def finish(self, seconds: float) -> dict:
        """Read what training wrote and keep it as result.json: the last validation, not the best.

        Args:
            seconds: What the last attempt took.

        Raises:
            CellFailed: If the weights that training ended with were not validated, or not by
                this metric.
        """
        records = read_records(self.folder, self.job.metrics)
        validations = [r for r in records if self.metric in r or not is_training(r)]
        at = max((i for i, r in enumerate(records) if self.metric in r), default=None)
        last, after = (None, records[-1:]) if at is None else (records[at], records[at + 1 :])
        if not validations or any(map(is_training, after)):
            raise CellFailed(
                f'training ended without a validation of its last weights in {self.job.metrics}; '
                f'remove {self.folder} to run it again'
            )
        if last is None:
            known = ', '.join(self._measured(validations[-1]))[:500] or 'none'
            raise CellFailed(f'metric {self.metric!r} is not what validation logs; it logs {known}')
        if not is_number(last[self.metric]):
            value = short(last[self.metric])
            raise CellFailed(f'metric {self.metric!r} is {value} at the end, no finite number')
        times = [r['time'] for r in records if is_training(r) and is_number(r.get('time'))]
        result = dict(
            row=self.row.name,
            seed=self.seed,
            metrics=self._measured(last),
            step=last.get('step', last.get('epoch')),
            minutes=(self._spent() + seconds) / 60,
            step_seconds=median(times) if times else None,
            **self.job.about,
            options=self.row.options,
            config_hash=self._hash,
        )
        write_json(result, self.folder / 'result.json')
        return result

    def _measured(self, record: dict) -> dict[str, float]:
        return {k: v for k, v in record.items() if is_number(v) and k not in NOT_MEASURED}

    def _spent(self) -> float:
        note = self._note()
        return note['seconds'] if note else 0.0

    def _note(self) -> Any:
        return self._read('cell.json', NOTE)

    def _read(self, name: str, fields: dict) -> Any:
        path = self.folder / name
        if not path.exists():
            return None
        values, anew = read_json(path), 'remove it to train anew'
        need(isinstance(values, dict), f'{path}: {short(values)} must be a mapping; {anew}')
        for field, (is_right, what) in fields.items():
            value = values.get(field)
            right = field in values and is_right(value)
            need(right, f'{path}: {field}={short(value)} must be {what}; {anew}')
        return values
