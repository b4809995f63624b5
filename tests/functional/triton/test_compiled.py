"""Kernels are compiled for cards that are not here: the interpreter takes what a compiler refuses.

Shared memory of a program is that of table "Technical Specifications per Compute Capability",
https://docs.nvidia.com/cuda/archive/13.0.0/cuda-c-programming-guide/#compute-capabilities
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton')
TESTS = Path(__file__).parents[2]
KIB = 1024
SHARED = {80: 163 * KIB, 89: 99 * KIB, 90: 227 * KIB}
SPILLED = 64  # bytes of a thread: some numbers, not tiles


def kernels_on(capability, *options):
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    paths = [str(TESTS.parent), str(TESTS), env.get('PYTHONPATH', '')]
    env['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, '-m', 'functional.triton.compiled', str(capability), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize('capability', SHARED)
def test_kernels_compile_fit_and_keep_their_tiles_in_registers(capability):
    found = kernels_on(capability)
    assert {row['kernel'] for row in found} >= {
        *('row_sums', 'pair_sums', 'head_outputs', 'loss_of_rows', 'gradient_of_keys'),
        *(('weights_of_pairs', 'loss_and_gradients') if capability == 90 else ()),
    }
    for row in found:
        assert row['shared'] <= SHARED[capability], row
        assert row['stack'] <= SPILLED, row


def test_tiles_that_fill_the_registers_are_found():
    """Whole rows where they do not fit."""
    worst = max(kernels_on(80, 'whole'), key=lambda row: row['stack'])
    assert worst['stack'] > SPILLED
