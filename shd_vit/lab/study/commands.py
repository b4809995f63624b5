"""The trainings of a study that are commands as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import PLACE, Row


class CommandJob:
    """A command whose places are filled in, run in the folder in which the study was started.

    Attributes:
        text: By which a training that has changed is known.
        about: What is kept of it in results.
        metrics: Pattern of the files in the cell's folder that it writes.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self.metrics = row.metrics
        self.about: dict[str, Any] = dict(command=list(row.command))
        parts = row.command, row.resume, row.metrics, row.options
        self.text = json.dumps(parts, sort_keys=True)

    def prepare(self, folder: Path, seed: int) -> None:
        """Called before each start, with the folder there.

        What an earlier attempt wrote counts only where this one goes on with it.
        """
        if not self._goes_on(self._filled(self._row.resume, folder, seed, 1), folder):
            for path in folder.glob(self.metrics):
                path.unlink()

    def command(self, folder: Path, seed: int, launcher: Launcher) -> list[str]:
        """Trains, from the latest checkpoint if there is one."""
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
