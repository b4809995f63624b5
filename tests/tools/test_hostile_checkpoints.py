"""Checkpoints made to harm, through every tool that takes one."""

from pathlib import Path

import fashion
import pytest
import torch
from checkpoint.hostile import files, save
from PIL import Image
from timm.models import create_model
from tooling import load_tool, run_tool

from shd_vit.errors import CheckpointError, ConfigError

BOMBS = ('code', 'code_in_an_array', 'exec', 'pointers', 'huge_tensor')
SIZES = dict(img_size=32, patch_size=16, depth=2, embed_dim=24, num_heads=6)
TIMM = [f'{key}={value}' for key, value in SIZES.items()]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    for split in ('train', 'val'):
        for name in 'ab':
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new('RGB', (32, 32)).save(root / split / name / f'{i}.png')
    teacher = create_model('vit_tiny_patch16_224', num_classes=2, **SIZES)
    torch.save(teacher.state_dict(), root / 'teacher.pth')
    return root


def commands(file, data, images, work):
    """Every entry, with this file where it takes a checkpoint: (tool, arguments)."""
    config = f'{fashion.CONFIGS}/shd.py'
    # mmengine keeps global logs by this name, which else is the time in seconds.
    sizes = {**fashion.overrides(data, epochs=1), 'experiment_name': work.parent.name}

    def options(teacher=f'{data}/teacher.pth', **more):
        changes = {**sizes, 'model.teacher.checkpoint': teacher, **more}
        return ['--cfg-options', *(f'{key}={value}' for key, value in changes.items())]

    here = ['--work-dir', work]
    timm = [
        images, '--model', 'vit_tiny_patch16_224', '--model-kwargs', *TIMM,
        '--teacher', 'vit_tiny_patch16_224', '--teacher-kwargs', *TIMM, '--batch-size', '4',
        '--epochs', '1', '--warmup-epochs', '0', '--workers', '0', '--img-size', '32',
        '--output', work, '--device', 'cpu',
    ]  # fmt: skip
    taught = ['--teacher-path', images / 'teacher.pth']
    return {
        'resume': ('train', [config, '--resume', file, *here, *options()]),
        'load_from': ('train', [config, *here, *options(load_from=file)]),
        'teacher': ('train', [config, *here, *options(teacher=file)]),
        'student': ('train', [config, *here, *options(**{'model.student.checkpoint': file})]),
        'test': ('test', [config, file, *here, *options()]),
        'export': ('export_student', [file, work / 'out.pth']),
        'export to timm': ('export_student', [file, work / 'out.pth', '--to', 'timm']),
        'convert': ('convert_weights', [file, work / 'out.pth', '--to', 'timm']),
        'alphas': ('analysis/alpha_distribution', [config, file, *options()]),
        'maps': ('analysis/attention_maps', [config, f'a={file}', *options()]),
        'maps of a teacher': ('analysis/attention_maps', [config, '--teacher', file, *options()]),
        'reconstruction': ('analysis/reconstruction', [config, file, *options()]),
        'timm resume': ('timm_train', [*timm, *taught, '--resume', file]),
        'timm teacher': ('timm_train', [*timm, '--teacher-path', file]),
        'timm start': ('timm_train', [*timm, *taught, '--initial-checkpoint', file]),
    }


ENTRIES = sorted(commands('', '', Path(), Path()))


@pytest.mark.parametrize('entry', ENTRIES)
def test_no_entry_runs_what_a_checkpoint_holds(entry, data, images, tmp_path, monkeypatch):
    # As versions of torch before 2.6, and mmengine with them, read files that are not ours.
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    work = tmp_path / 'work'
    work.mkdir()
    bombs = files(tmp_path)
    # One shows that the entry reads by safe_load, which tests/checkpoint/ tries with all there are.
    for kind in BOMBS if entry in ('convert', 'timm start') else BOMBS[:1]:
        file = save(bombs[kind], tmp_path / f'{kind}.pth')
        tool, arguments = commands(file, data, images, work)[entry]
        with pytest.raises(CheckpointError, match=rf"{kind}\.pth'") as caught:
            run_tool(tool, monkeypatch, *arguments)
        assert '\n' not in str(caught.value)
    assert not (tmp_path / 'exploded').exists()
    assert not (work / 'out.pth').exists()


@pytest.mark.parametrize('entry', [name for name in ENTRIES if name.startswith('timm')])
@pytest.mark.parametrize(
    'kind, error, message',
    [
        ('missing', ConfigError, 'does not exist'),
        ('truncated', CheckpointError, 'damaged'),
        ('pointer', CheckpointError, 'Git LFS pointer'),
        ('unfitting', CheckpointError, 'does not fit'),
        ('nothing', CheckpointError, 'state_dict of .* is None'),
    ],
)
def test_timms_script_names_files_that_do_not_do(
    entry, kind, error, message, images, tmp_path, monkeypatch
):
    file = tmp_path / 'x.pth'
    if kind == 'truncated':
        file.write_bytes((images / 'teacher.pth').read_bytes()[:5000])
    elif kind == 'pointer':
        file.write_text('version https://git-lfs.github.com/spec/v1\n')
    elif kind == 'unfitting':
        torch.save(dict(state_dict=dict(weight=torch.ones(2)), epoch=1), file)
    elif kind == 'nothing':
        torch.save(dict(state_dict=None, epoch=1), file)
    tool, arguments = commands(str(file), '', images, tmp_path / 'work')[entry]
    with pytest.raises(error, match=message) as caught:
        run_tool(tool, monkeypatch, *arguments)
    assert '\n' not in str(caught.value)


def test_timms_saver_removes_its_own_checkpoints_alone(images, tmp_path, monkeypatch):
    """A resumed checkpoint says which files the saver has kept, and it removes the worst."""
    precious = tmp_path / 'precious.pth.tar'
    precious.write_text('precious')
    own = 'checkpoint-7.pth.tar'
    _, arguments = commands('', '', images, tmp_path)['timm resume']
    arguments = [*arguments[:-2], '--experiment', 'run', '--checkpoint-hist', '1']
    tool = load_tool('timm_train')
    run_tool(tool, monkeypatch, *arguments)
    last = tmp_path / 'run/last.pth.tar'
    checkpoint = torch.load(last, weights_only=False)
    (tmp_path / 'run' / own).write_text('of this run')
    names = [str(precious), '../precious.pth.tar', own]
    checkpoint['saver'] = dict(
        checkpoint_files=[(name, -1.0) for name in names], best_epoch='x', best_metric=-1.0,
        pending=(None, None),
    )  # fmt: skip
    torch.save(checkpoint, last)
    run_tool(tool, monkeypatch, *arguments, '--epochs', '2', '--resume', last)
    assert precious.read_text() == 'precious'
    assert not (tmp_path / 'run' / own).exists()
