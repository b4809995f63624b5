"""Telling the user how far a study is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from rich import progress
from rich.console import Console

from shd_vit.lab.study.cell import Cell


class Progress:
    """Is told what run_cells() does, and the context in which its bar is shown.

    Args:
        cells: All of the study, whose finished ones tell how long one takes.
        count: How many are to be trained.
        jobs: How many are trained at a time.
        write: Called after every finished cell.

    Attributes:
        failures: Names of cells.
    """

    def __init__(
        self, cells: list[Cell], count: int, jobs: int, write: Callable[[], object]
    ) -> None:
        self.failures: list[str] = []
        self._minutes = [cell.result()['minutes'] for cell in cells if cell.state == 'finished']
        self._count, self._ended, self._jobs, self._write = count, 0, jobs, write
        self._running: list[str] = []
        # Names are not markup, and numbers need no colour.
        console = Console(markup=False, highlight=False, soft_wrap=True)
        text = progress.TextColumn('{task.description}', markup=False)
        self._bar = progress.Progress(
            progress.MofNCompleteColumn(), progress.BarColumn(), text,
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task('', total=count)
        self._say = console.print
        self._say(f'{count} cells to train, {len(self._minutes)} of {len(cells)} are finished')

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, cell: Cell) -> None:
        self._running.append(cell.name)
        if not self._bar.console.is_terminal:
            self._say(f'{cell.name}: started ({self._ended} of {self._count}{self._left()})')
        self._update()

    def finished(self, cell: Cell, result: dict) -> None:
        self._minutes.append(result['minutes'])
        self._write()
        value = f'{cell.metric} {result["metrics"][cell.metric]:.2f}'
        self._end(cell, f'{value} after {result["minutes"]:.1f} min')

    def failed(self, cell: Cell, reason: str) -> None:
        self.failures.append(cell.name)
        self._end(cell, f'FAILED: {reason}\n    {cell.log}')

    def _end(self, cell: Cell, what: str) -> None:
        self._ended += 1
        self._running = [name for name in self._running if name != cell.name]
        self._say(f'{cell.name}: {what}')
        self._update()

    def _update(self) -> None:
        running = '; '.join(self._running)
        self._bar.update(self._task, completed=self._ended, description=running + self._left())

    def _left(self) -> str:
        """From the mean of the cells that are finished."""
        if not self._minutes:
            return ''
        minutes = fmean(self._minutes) * (self._count - self._ended) / self._jobs
        return f', about {minutes:.0f} min left' if minutes >= 1 else ', less than a minute left'
