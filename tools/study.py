"""Train a grid of configs and seeds; tables of means, deviations and paired differences.

A study is a YAML file (or a Python file with variables of the same names):

  seeds: [0, 1, 2]
  metric: accuracy/top1                  # of the last validation
  options:                               # of all rows, as --cfg-options
    train_cfg.max_epochs: 10
  rows:
    baseline: configs/fashion_mnist/baseline.py
    SHD: {config: configs/fashion_mnist/shd.py, options: {model.losses.shd.beta: 2.0}}
  grids:                                 # a row for each combination: temperature/beta=1,...
    temperature:
      config: configs/fashion_mnist/shd.py
      options: {model.losses.shd.beta: [1, 2], model.losses.shd.temperature: [1, 2, 4]}
  tables:                                # without: one table, against the first row
    - {title: Table 4, rows: [baseline, SHD, temperature], against: baseline}

A cell, a row at a seed, is trained in OUT/cells/ROW/seedN. All rows of one seed come before the
next seed. The same command goes on where it was interrupted. OUT/results.json, .md and .svg have
every cell, means, and differences seed by seed with their 95 % intervals.

  python tools/study.py STUDY.yaml                      # into work_dirs/STUDY
  python tools/study.py STUDY.yaml --list
  python tools/study.py STUDY.yaml --only SHD temperature --jobs 2
  GPUS=8 python tools/study.py STUDY.yaml --launcher slurm:gpu --jobs 4
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.cli import run_tool
from shd_vit.lab.report import as_markdown, environment
from shd_vit.lab.study import Cell, Launcher, Study, read_study, resolve, run_cells
from shd_vit.lab.study.cell import write_json
from shd_vit.lab.study.figure import draw
from shd_vit.lab.study.progress import Progress
from shd_vit.lab.study.results import results, tables

TOOLS = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study', help='.yaml or .py file')
    parser.add_argument('--out', help='folder for everything (default: work_dirs/<study name>)')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='train these rows and grids')
    parser.add_argument('--list', action='store_true', help='print the cells and their states')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time (default: 1)')
    parser.add_argument(
        '--launcher',
        default='none',
        help='none, dist:PROCESSES (tools/dist_train.sh) or slurm:PARTITION (tools/slurm_train.sh);'
        ' the variables of these scripts are handed on',
    )
    parser.add_argument(
        '--rerun-changed',
        action='store_true',
        help='cells whose config has changed are run again; their folders are renamed',
    )
    args = parser.parse_args()
    study = read_study(args.study)
    out = Path(args.out or Path('work_dirs') / Path(args.study).stem)
    launcher = Launcher(args.launcher, args.jobs, TOOLS)
    only = study.names(args.only or list(study.rows), '--only')
    cells = make_cells(study, out)
    if args.list:
        for cell in cells:
            print(f'{cell.state:11}  {cell.name}  {cell.folder}')
        return
    chosen = [cell for cell in cells if cell.row.name in only]
    if not args.rerun_changed:
        refuse_changed(chosen)
    signal.signal(signal.SIGTERM, interrupt)  # what schedulers send
    train(study, cells, [c for c in chosen if c.state != 'finished'], launcher, out)


def make_cells(study: Study, out: Path) -> list[Cell]:
    """All cells, seed after seed, so that an interrupted study has complete comparisons."""
    configs = {name: resolve(row) for name, row in study.rows.items()}
    seeds = dict.fromkeys(seed for row in study.rows.values() for seed in row.seeds)
    return [
        Cell(row, seed, configs[row.name], out)
        for seed in seeds
        for row in study.rows.values()
        if seed in row.seeds
    ]


def train(study: Study, cells: list[Cell], todo: list[Cell], launcher: Launcher, out: Path) -> None:
    """Train cells, rewriting the results after every one."""
    machine = environment()

    def write() -> None:
        values = results(study, cells)
        write_json(out / 'results.json', dict(environment=machine, **values))
        text = '\n'.join(as_markdown(*table) for table in tables(study.metric, values))
        (out / 'results.md').write_text(text)

    progress = Progress(cells, len(todo), study.metric, launcher.jobs, write)
    try:
        with progress:
            run_cells(todo, study.metric, launcher, progress, out)
    except KeyboardInterrupt:
        left = sum(cell.state != 'finished' for cell in todo)
        print(f'Interrupted: {left} of {len(todo)} cells are left; the same command goes on')
        sys.exit(130)
    write()
    draw(results(study, cells), out / 'results.svg')
    print(f'\n{(out / "results.md").read_text()}')
    if progress.failures:
        print(f'Failed: {"; ".join(progress.failures)}')
        sys.exit(1)


def refuse_changed(cells: list[Cell]) -> None:
    changed = [cell for cell in cells if cell.state == 'changed']
    if changed:
        raise ConfigError(
            f'trained with another config: {changed[0].name} in {changed[0].folder}'
            f'{f" and {len(changed) - 1} more" if len(changed) > 1 else ""}; choose another --out, '
            'or --rerun-changed to train anew'
        )


def interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == '__main__':
    run_tool(main)
