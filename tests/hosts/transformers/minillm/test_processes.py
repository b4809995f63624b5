"""Several processes have the gradient of their joint batch."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip('trl')
TESTS = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name('two_processes.py')
NAMES = (
    'loss',
    'task_loss',
    'single_step',
    'long_term',
    'lm_loss',
    'token_kl',
    'reward',
    'shd',
    'cor',
)


def run_here(monkeypatch, folder):
    folder.mkdir()
    monkeypatch.setattr(sys, 'argv', ['', str(folder), '8', '1'])
    runpy.run_path(str(SCRIPT))
    return torch.load(folder / 'learned.pt')


def run_two(folder):
    folder.mkdir()
    env = dict(os.environ, PYTHONPATH=f'{TESTS}{os.pathsep}{TESTS.parent}')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', '2', str(SCRIPT), str(folder), '2', '2']
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(folder / 'learned.pt')


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path, monkeypatch):
    """Whitened over both, each token of a step with the same weight, plain text shared out."""
    one, two = run_here(monkeypatch, tmp_path / 'one'), run_two(tmp_path / 'two')
    assert_close(two['student'], one['student'], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(two['log'], one['log'], strict=True):
        for name in NAMES:
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
