"""Several processes have the gradient of their joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip('trl')
TESTS = Path(__file__).parents[3]
NAMES = ('loss', 'task_loss', 'single_step', 'long_term', 'lm_loss', 'token_kl', 'reward')


def run(folder, processes, size, steps):
    folder.mkdir()
    env = dict(os.environ, PYTHONPATH=f'{TESTS}{os.pathsep}{TESTS.parent}')
    script = Path(__file__).with_name('two_processes.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', str(processes), str(script), str(folder), str(size), str(steps)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(folder / 'learned.pt')


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """Whitened over both, each token of a step with the same weight, plain text shared out."""
    one, two = run(tmp_path / 'one', 1, 8, 1), run(tmp_path / 'two', 2, 2, 2)
    assert_close(two['student'], one['student'], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(two['log'], one['log'], strict=True):
        for name in NAMES:
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
