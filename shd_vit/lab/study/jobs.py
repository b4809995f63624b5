"""The trainings of a study: commands as they stand, and configs of mmengine's."""

from __future__ import annotations

from pathlib import Path

from shd_vit.lab.study.cell import Cell
from shd_vit.lab.study.commands import CommandJob
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import Row, Study
from shd_vit.lab.study.source import need


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


def _job(row: Row, launcher: Launcher) -> CommandJob:
    if row.config is not None:
        from shd_vit.lab.study.configs import ConfigJob  # needs mmengine

        return ConfigJob(row)
    what = f'{row.name}: --launcher {launcher.kind}:{launcher.argument}'
    is_here = launcher.kind != 'slurm'
    need(is_here, f'{what} is for configs; a command says itself where it runs')
    return CommandJob(row)
