"""A study: a grid of configs and seeds, run to its end, with tables of means and differences."""

from shd_vit.lab.study.cell import Cell, CellFailed
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import Comparison, Row, Study, read_study
from shd_vit.lab.study.resolve import resolve
from shd_vit.lab.study.run import run_cells
from shd_vit.lab.study.statistics import Interval, interval_95, paired_difference

__all__ = [
    'Cell',
    'CellFailed',
    'Comparison',
    'Interval',
    'Launcher',
    'Row',
    'Study',
    'interval_95',
    'paired_difference',
    'read_study',
    'resolve',
    'run_cells',
]
