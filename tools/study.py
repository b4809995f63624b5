"""Train a grid of configs and seeds; tables of means, deviations and paired differences.

A study is a YAML file:

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

A row may be any command instead, with its places {seed}, {out} (the cell's folder), {processes} and
the options' names filled in, and the .csv, .json or .jsonl file of metrics that it writes there.
What all rows share may stand at the top. The words of resume are added where the files are there
that they name:

  metric: eval_top1
  command: python tools/timm_train.py IMAGES --seed {seed} --output {out} --experiment run {more}
  resume: --resume {out}/run/last.pth.tar
  metrics: run/summary.csv
  rows:
    NKD: {options: {more: [--teacher, T, --nkd, --no-shd]}}

A cell, a row at a seed, is trained in OUT/cells/ROW/seedN. All rows of one seed come before the
next seed. The same command goes on where it was interrupted. OUT/results.json, .md and .svg have
every cell, means, and differences seed by seed with their 95 % intervals.

  python tools/study.py STUDY.yaml                      # into work_dirs/STUDY
  python tools/study.py STUDY.yaml --list
  python tools/study.py STUDY.yaml --only SHD temperature --jobs 2
  GPUS=8 python tools/study.py STUDY.yaml --launcher slurm:gpu --jobs 4
"""

import argparse
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.run import run_study

TOOLS = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study', help='.yaml file')
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
        help='cells whose settings have changed are run again; their folders are renamed',
    )
    args = parser.parse_args()
    launcher = Launcher(args.launcher, args.jobs, TOOLS)
    run_study(args.study, args.out, args.only, launcher, args.list, args.rerun_changed)


if __name__ == '__main__':
    run_tool(main)
