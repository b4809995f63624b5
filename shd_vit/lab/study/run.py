"""A study from its file to its tables."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from shd_vit.lab.report import as_markdown, environment, write_json
from shd_vit.lab.study.cell import Cell
from shd_vit.lab.study.figure import draw
from shd_vit.lab.study.jobs import make_cells
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import Study, read_study
from shd_vit.lab.study.processes import run_cells
from shd_vit.lab.study.progress import Progress
from shd_vit.lab.study.results import results, tables
from shd_vit.lab.study.source import need


def run_study(
    path: str,
    out: str | None,
    only: list[str] | None,
    launcher: Launcher,
    lists: bool = False,
    reruns_changed: bool = False,
) -> None:
    """Train what is not finished, rewriting results.json and .md in the folder after every cell.

    Args:
        path: The study's file.
        out: Its folder (default: work_dirs/NAME of the file).
        only: Rows and grids to train (default: all).
        launcher: How.
        lists: Print the cells and their states, and train none.
        reruns_changed: Train again what was trained with other settings.

    Raises:
        ConfigError: If anything in the file cannot work, or a cell has changed.
        SystemExit: If cells have failed (1) or the user interrupted (130).
    """
    study = read_study(path)
    folder = Path(out or Path('work_dirs') / Path(path).stem)
    names = study.names(only or list(study.rows), '--only')
    cells = make_cells(study, folder, launcher)
    states = {cell.name: cell.state for cell in cells}
    if lists:
        for cell in cells:
            print(f'{states[cell.name]:11}  {cell.name}  {cell.folder}')
        return
    chosen = [cell for cell in cells if cell.row.name in names]
    changed = [f'{c.name} in {c.folder}' for c in chosen if states[c.name] == 'changed']
    more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
    need(
        reruns_changed or not changed,
        f'trained with other settings: {"".join(changed[:1])}{more}; choose another --out, or '
        '--rerun-changed to train anew',
    )
    todo = [cell for cell in chosen if states[cell.name] != 'finished']
    signal.signal(signal.SIGTERM, _interrupt)  # what schedulers send
    _train(study, cells, todo, launcher, folder)


def _train(
    study: Study, cells: list[Cell], todo: list[Cell], launcher: Launcher, out: Path
) -> None:
    machine = environment()

    def write() -> dict:
        done = [cell.result() for cell in cells if cell.state == 'finished']
        values = results(study, done)
        write_json(dict(environment=machine, **values), out / 'results.json')
        text = '\n'.join(as_markdown(*table) for table in tables(values))
        (out / 'results.md').write_text(text)
        return values

    progress = Progress(cells, len(todo), launcher.jobs, write)
    try:
        with progress:
            run_cells(todo, launcher, progress, out)
    except KeyboardInterrupt:
        left = sum(cell.state != 'finished' for cell in todo)
        print(f'Interrupted: {left} of {len(todo)} cells are left; the same command goes on')
        sys.exit(130)
    draw(write(), out / 'results.svg')
    print(f'\n{(out / "results.md").read_text()}')
    if progress.failures:
        print(f'Failed: {"; ".join(progress.failures)}')
        sys.exit(1)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
