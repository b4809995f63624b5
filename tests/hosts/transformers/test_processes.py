"""Several processes have the gradient of their joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

TESTS = Path(__file__).parents[2]


def run(folder, processes, size, steps):
    folder.mkdir()
    env = dict(os.environ, PYTHONPATH=f'{TESTS}{os.pathsep}{TESTS.parent}')
    script = Path(__file__).with_name('two_processes.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', str(processes), str(script)]
    command += [str(folder), str(size), str(steps), 'right']
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(folder / 'learned.pt')


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    one = run(tmp_path / 'one', 1, 8, 1)
    two = run(tmp_path / 'two', 2, 2, 2)
    for part in ('student', 'losses'):
        assert_close(two[part], one[part], rtol=1e-9, atol=1e-9)
    for name, value in one['log'].items():
        if name in ('loss', 'task_loss', 'shd', 'kd', 'summed', 'cor', 'fd'):
            assert two['log'][name] == pytest.approx(value, rel=1e-5), name
