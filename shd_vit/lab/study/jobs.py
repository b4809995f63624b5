"""The trainings of a study: commands as they stand, and configs of mmengine's."""

from __future__ import annotations

import json
from pathlib import Path

from shd_vit.errors import ConfigError
from shd_vit.lab.study.cell import Cell, Job
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import PLACE, Row, Study


def make_cells(study: Study, out: str | Path, launcher: Launcher) -> list[Cell]:
    """All cells, seed after seed, so that an interrupted study has complete comparisons.

    Raises:
        ConfigError: If a row's training cannot be run.
    """
    jobs = {name: _job(row, launcher) for name, row in study.rows.items()}
    seeds = dict.fromkeys(seed for row in study.rows.values() for seed in row.seeds)
    return [
        Cell(row, seed, jobs[row.name], out, study.metric)
        for seed in seeds
        for row in study.rows.values()
        if seed in row.seeds
    ]


def _job(row: Row, launcher: Launcher) -> Job:
    if row.config is not None:
        from shd_vit.lab.study.configs import ConfigJob  # needs mmengine

        return ConfigJob(row)
    if launcher.kind == 'slurm':
        raise ConfigError(
            f'{row.name}: --launcher {launcher.kind}:{launcher.argument} is for configs; a command '
            'says itself where it runs'
        )
    return CommandJob(row)


class CommandJob:
    """A command whose places are filled in, run in the folder in which the study was started."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.metrics = row.metrics
        self.about = dict(command=list(row.command))
        parts = row.command, row.resume, row.metrics, row.options
        self.text = json.dumps(parts, sort_keys=True)

    def prepare(self, folder: Path, seed: int) -> None:
        """What an earlier attempt wrote counts only where this one goes on with it."""
        if not self._goes_on(self._filled(self._row.resume, folder, seed, 1), folder):
            for path in folder.glob(self.metrics):
                path.unlink()

    def command(self, folder: Path, seed: int, launcher: Launcher) -> list[str]:
        words = self._filled(self._row.command, folder, seed, launcher.processes)
        more = self._filled(self._row.resume, folder, seed, launcher.processes)
        return words + more if self._goes_on(more, folder) else words

    def _goes_on(self, words: list[str], folder: Path) -> bool:
        """Whether all files in the cell's folder that resuming names are there."""
        named = [word for word in words if str(folder) in word]
        return bool(words) and all(Path(w[w.index(str(folder)) :]).exists() for w in named)

    def _filled(self, words: tuple[str, ...], folder: Path, seed: int, processes: int) -> list[str]:
        values = dict(self._row.options, seed=seed, out=folder, processes=processes)
        filled: list[str] = []
        for word in words:
            place = PLACE.fullmatch(word)
            value = values[place[1]] if place else None
            if isinstance(value, list | tuple):  # is so many words
                filled += map(str, value)
            else:
                filled.append(PLACE.sub(lambda found: str(values[found[1]]), word))
        return filled
