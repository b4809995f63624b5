import os
import sys
from pathlib import Path

import pytest

from shd_vit.errors import ConfigError
from shd_vit.lab.study.launch import Launcher


@pytest.mark.parametrize(
    'spec, command',
    [
        ('none', [sys.executable, 'T/train.py', 'CONFIG', '--work-dir', 'FOLDER', '--resume']),
        (
            'dist:4',
            ['bash', 'T/dist_train.sh', 'CONFIG', '4', '--work-dir', 'FOLDER', '--resume'],
        ),
        (
            'slurm:gpu',
            ['bash', 'T/slurm_train.sh', 'gpu', 'a_row-3', 'CONFIG', 'FOLDER', '--resume'],
        ),
    ],
)
def test_configs_go_to_the_projects_own_scripts(spec, command):
    found = Launcher(spec, 1, 'T').train(Path('CONFIG'), Path('FOLDER'), 'a_row-3')
    assert found == command


@pytest.mark.parametrize(
    'spec', ['', 'non', 'none:1', 'dist', 'dist:0', 'dist:x', 'dist:²', 'slurm:']
)
def test_other_launchers_are_refused(spec):
    with pytest.raises(ConfigError, match=r'allowed are none, dist:PROCESSES and slurm:PARTITION'):
        Launcher(spec, 1, 'T')


def test_at_least_one_job():
    with pytest.raises(ConfigError, match='--jobs=0 must be at least 1'):
        Launcher('none', 0, 'T')


@pytest.fixture
def machine(monkeypatch):
    """Eight cores and four GPUs, and no settings of the user's."""
    for name in ('OMP_NUM_THREADS', 'PORT', 'MASTER_PORT', 'CUDA_VISIBLE_DEVICES'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('shd_vit.lab.study.launch._cores', lambda: 8)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 4)
    return monkeypatch


@pytest.mark.parametrize(
    'spec, jobs, slot, threads, port, gpus',
    [
        ('none', 1, 0, '8', None, None),
        ('none', 2, 1, '4', '29501', '1'),
        ('none', 6, 5, '1', '29505', '1'),
        ('dist:2', 2, 1, '2', '29501', '2,3'),
        ('dist:2', 1, 0, '4', None, None),
        ('slurm:gpu', 3, 2, None, '29502', None),
    ],
)
def test_jobs_share_the_machine(spec, jobs, slot, threads, port, gpus, machine):
    env = Launcher(spec, jobs, 'T').environment(slot)
    assert env.get('OMP_NUM_THREADS') == threads
    assert env.get('PORT') == env.get('MASTER_PORT') == port
    assert env.get('CUDA_VISIBLE_DEVICES') == gpus
    assert env['PATH'].split(os.pathsep)[0] == os.path.dirname(sys.executable)


def test_what_the_user_set_stays(machine):
    machine.setenv('OMP_NUM_THREADS', '3')
    machine.setenv('CUDA_VISIBLE_DEVICES', '5,7')
    machine.setenv('PORT', '30000')
    env = Launcher('none', 2, 'T').environment(1)
    assert (env['OMP_NUM_THREADS'], env['PORT'], env['CUDA_VISIBLE_DEVICES']) == ('3', '30001', '7')


def test_without_gpus_none_are_named(machine):
    machine.setattr('torch.cuda.device_count', lambda: 0)
    assert 'CUDA_VISIBLE_DEVICES' not in Launcher('none', 2, 'T').environment(0)
