"""Two processes, with two passes a step, have the gradients of the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hosts.diffusers import two_processes
from torch.testing import assert_close

TESTS = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    torch.manual_seed(0)
    single = two_processes.distiller()
    expected = two_processes.gradients(single, single, slice(0, 4))
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2']
    command += ['--standalone', two_processes.__file__, str(tmp_path / 'grads.pt')]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    env = {**os.environ, 'PYTHONPATH': paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / 'grads.pt')
    assert set(found) == set(expected) and any('losses' in name for name in found)
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
