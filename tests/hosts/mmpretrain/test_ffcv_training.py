"""FFCVLoader in training and in evaluation, in one process and in two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import fashion
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from torch.testing import assert_close

pytest.importorskip('ffcv', reason='FFCV is an optional extra')

from shd_vit.data.writer import write_beton
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.hosts.mmpretrain import DistillRunner
from shd_vit.hosts.mmpretrain.ffcv_config import train_from_ffcv

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """Fashion-MNIST's files and, of the same images, train.beton and test.beton."""
    folder = fashion.write_images(tmp_path_factory.mktemp('fashion'))
    for split, name, count in (('train', 'train', fashion.TRAIN), ('test', 't10k', fashion.TEST)):
        pixels = np.fromfile(folder / f'{name}-images-idx3-ubyte', np.uint8, offset=16)
        labels = np.fromfile(folder / f'{name}-labels-idx1-ubyte', np.uint8, offset=8)
        samples = list(zip(pixels.reshape(count, 28, 28), labels.tolist(), strict=True))
        write_beton(folder / f'{split}.beton', samples, proportion=0.0)
    return folder


def runner(data, work_dir, **options):
    cfg = fashion.config('shd', work_dir, data, epochs=3)
    train_from_ffcv(cfg, str(data / 'train.beton'))
    cfg.merge_from_dict(options)
    return RUNNERS.build(cfg)


@pytest.mark.parametrize('seed', [0, None])
def test_interrupted_and_resumed_is_bit_identical(data, tmp_path, seed):
    stopped = runner(data, tmp_path / 'stopped', **{'randomness.seed': seed})
    stopped.register_hook(fashion.StopAt(iteration=6))  # 4 steps an epoch: in the second
    with pytest.raises(fashion.Interrupted):
        stopped.train()
    options = {'randomness.seed': seed, 'resume': True, 'train_dataloader.num_workers': 3}
    runner(data, tmp_path / 'stopped', **options).train()
    runner(data, tmp_path / 'whole', **{'randomness.seed': stopped.seed}).train()
    resumed, whole = (
        torch.load(tmp_path / name / 'epoch_3.pth')['state_dict'] for name in ('stopped', 'whole')
    )
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_a_loader_that_starts_at_epoch_0_again_differs(data, tmp_path, monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr('mmengine.hooks.DistSamplerSeedHook.before_train_epoch', lambda *a: None)
    with pytest.raises(AssertionError):
        test_interrupted_and_resumed_is_bit_identical(data, tmp_path, 0)


def test_the_preprocessor_makes_the_same_of_both_loaders(data, tmp_path):
    """Images, labels and order, with nothing drawn: as mmpretrain's own loader gives them."""
    seen = []
    for from_ffcv in (False, True):
        cfg = fashion.config('baseline', tmp_path, data, epochs=1)
        cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
        if from_ffcv:
            train_from_ffcv(cfg, str(data / 'train.beton'))
        run = RUNNERS.build(cfg)
        loader = run.build_dataloader(cfg.train_dataloader, seed=0)
        batch = run.model.data_preprocessor(next(iter(loader)), training=False)
        seen.append((batch['inputs'], torch.cat([s.gt_label for s in batch['data_samples']])))
    assert_close(*seen)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def run(*command, **env):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_two_processes_train_and_count_every_test_image_once(data, tmp_path):
    """An uneven number of test images, read by FFCVLoader: one process and two agree on each."""
    config = tmp_path / 'config.py'
    test = dict(
        _delete_=True,
        type='FFCVLoader',
        beton=str(data / 'test.beton'),
        batch_size=3,
        sampler=dict(type='DefaultSampler', shuffle=False),
        channel_order='grayscale',
    )
    changes = fashion.overrides(data, epochs=1, batch_size=8)
    changes = {k: v for k, v in changes.items() if not k.startswith(('val', 'test'))}
    config.write_text(
        f"_base_ = '{ROOT}/{fashion.CONFIGS}/baseline.py'\n"
        f'val_dataloader = {test}\ntest_dataloader = val_dataloader\n'
    )
    options = ['--work-dir', tmp_path, '--cfg-options', *(f'{k}={v}' for k, v in changes.items())]
    output = run(
        'bash', 'tools/dist_train.sh', config, '2', '--ffcv', data / 'train.beton', *options,
        PORT=free_port(),
    )  # fmt: skip
    assert '[1][4/4]' in output
    checkpoint = tmp_path / 'epoch_1.pth'
    out = tmp_path / 'one.json', tmp_path / 'two.json', tmp_path / 'folder.json'
    run(sys.executable, 'tools/test.py', config, checkpoint, '--out', out[0], *options)
    run(
        'bash', 'tools/dist_test.sh', config, checkpoint, '2', '--out', out[1], *options,
        PORT=free_port(),
    )  # fmt: skip
    folder = [f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')]
    run(
        sys.executable, 'tools/test.py', f'{fashion.CONFIGS}/baseline.py', checkpoint, '--out',
        out[2], '--work-dir', tmp_path, '--cfg-options', *folder,
    )  # fmt: skip
    one, two, from_folder = (json.loads(path.read_text()) for path in out)
    assert one == two == from_folder


@pytest.mark.parametrize('order, to_rgb', [('rgb', True), ('bgr', False)])
def test_swapped_colours_are_refused(tmp_path, order, to_rgb):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    write_beton(tmp_path / 'rgb.beton', [(image, 0) for image in images], proportion=0.0)
    cfg = fashion.config('baseline', tmp_path, tmp_path, epochs=1, batch_size=4)
    cfg.model.backbone.in_channels = 3
    cfg.model.backbone.img_size = 32
    cfg.model.backbone.patch_size = 16
    cfg.data_preprocessor = dict(num_classes=10, mean=[0.0] * 3, std=[1.0] * 3, to_rgb=to_rgb)
    cfg.auto_scale_lr.base_batch_size = 4
    cfg.train_dataloader = dict(
        type='FFCVLoader', beton=str(tmp_path / 'rgb.beton'), batch_size=4, channel_order=order
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.pop('save_best')
    with pytest.raises(ConfigError, match='would see red and blue swapped'):
        RUNNERS.build(cfg).train()
    cfg.data_preprocessor.to_rgb = not to_rgb
    cfg.experiment_name += 'b'
    RUNNERS.build(cfg).train()


def test_the_papers_config_says_how_to_write_what_it_reads(tmp_path, monkeypatch):
    cfg = Config.fromfile(ROOT / 'configs/deit_tiny_shd.py')
    assert cfg.train_dataloader.type == 'FFCVLoader'
    assert cfg.val_dataloader.dataset.type == 'ImageNet', 'evaluated from the folder'
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r'tools/data/write_ffcv\.py.*train\.beton'):
        DistillRunner.build_dataloader(cfg.train_dataloader)


def test_the_papers_config_from_a_folder_differs_in_the_loader_alone():
    ffcv = Config.fromfile(ROOT / 'configs/deit_tiny_shd.py').to_dict()
    folder = Config.fromfile(ROOT / 'configs/deit_tiny_shd_folder.py').to_dict()
    loaders = [cfg.pop('train_dataloader') for cfg in (ffcv, folder)]
    assert ffcv == folder
    assert loaders[0]['pipeline'] == loaders[1]['dataset']['pipeline']
    for field in ('batch_size', 'drop_last', 'sampler'):
        assert loaders[0][field] == loaders[1][field]


def test_a_config_without_a_pipeline_cannot_be_taken_over():
    with pytest.raises(ConfigError, match='pipeline is missing'):
        train_from_ffcv(Config(dict(train_dataloader=dict(dataset=dict()))), 'x.beton')
