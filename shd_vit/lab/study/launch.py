"""How trainings are started, several side by side on one machine or through Slurm."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shd_vit.lab.study.source import need


class Launcher:
    """Commands and environments of trainings that run side by side.

    Args:
        spec: 'none'; 'dist:N', N processes on this machine; or 'slurm:PARTITION'.
        jobs: How many trainings run at a time.
        tools: The folder of train.py, dist_train.sh and slurm_train.sh.
    """

    def __init__(self, spec: str, jobs: int, tools: str | Path) -> None:
        self.kind, _, self.argument = spec.partition(':')
        self.jobs, self.tools = jobs, Path(tools)
        is_count = self.argument.isdecimal() and self.argument.strip('0')
        right = dict(none=not self.argument, dist=is_count, slurm=self.argument).get(self.kind)
        need(right, f'--launcher {spec!r}: allowed are none, dist:PROCESSES and slurm:PARTITION')
        need(1 <= jobs <= 1000, f'--jobs={jobs} must be at least 1, and at most 1000')
        self.processes = int(self.argument) if self.kind == 'dist' else 1

    def train(self, config: Path, folder: Path, job: str) -> list[str]:
        """Trains a config of mmengine's by our own scripts, from its latest checkpoint."""
        if self.kind == 'slurm':
            script = str(self.tools / 'slurm_train.sh')
            return ['bash', script, self.argument, job, str(config), str(folder), '--resume']
        arguments = ['--work-dir', str(folder), '--resume']
        if self.kind == 'dist':
            script = str(self.tools / 'dist_train.sh')
            return ['bash', script, str(config), self.argument, *arguments]
        return [sys.executable, str(self.tools / 'train.py'), str(config), *arguments]

    def environment(self, slot: int) -> dict[str, str]:
        """Variables of the training in a slot, 0 to jobs - 1: its own threads, port and GPUs."""
        env = dict(os.environ)
        # The scripts start `python`: the one that runs this.
        env['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{env.get("PATH", "")}'
        if self.jobs > 1:
            for name in ('PORT', 'MASTER_PORT'):
                env[name] = str(int(env.get(name, 29500)) + slot)
        if self.kind == 'slurm':
            return env  # the cores and GPUs are another machine's
        env.setdefault('OMP_NUM_THREADS', str(max(1, _cores() // (self.jobs * self.processes))))
        if self.jobs > 1 and (gpus := _gpus()):
            places = range(slot * self.processes, (slot + 1) * self.processes)
            own = dict.fromkeys(gpus[place % len(gpus)] for place in places)
            env['CUDA_VISIBLE_DEVICES'] = ','.join(own)
        return env


def _cores() -> int:
    is_known = hasattr(os, 'sched_getaffinity')
    return len(os.sched_getaffinity(0)) if is_known else os.cpu_count() or 1


def _gpus() -> list[str]:
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is not None:
        return [gpu for gpu in visible.split(',') if gpu]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
