"""Weights that are sharded over two processes (FSDP2) are distilled as whole ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_sharded_models_have_the_term_and_the_gradients_of_whole_ones(tmp_path):
    env = dict(os.environ, PYTHONPATH=f'{TESTS}{os.pathsep}{TESTS.parent}')
    script = Path(__file__).with_name('sharded.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', '2', str(script), str(tmp_path / 'found.pt')]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / 'found.pt')
    for when in ('before', 'after'):  # the taps went in
        assert_close(found[when], found['never'], rtol=1e-5, atol=1e-6)
    assert found['never']['model.layers.0.self_attn.q_proj.weight'].abs().sum() > 0
    assert 'tensor parallel' in found['refusal'] and '\n' not in found['refusal']
