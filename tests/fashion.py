"""The Fashion-MNIST configs on a few made images, with everything small."""

import itertools
import struct

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmpretrain.registry import MODELS

import shd_vit.hosts.mmpretrain  # noqa: F401  (registers)

CONFIGS = 'configs/fashion_mnist'
TRAIN, TEST = 64, 20
_runs = itertools.count()


def write_images(folder):
    """Four IDX files, classes apart in brightness and position, and a teacher's checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, count in (('train', TRAIN), ('t10k', TEST)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 40, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 6] += np.uint8(100 + 10 * label)
        for part, array in (('images-idx3', images), ('labels-idx1', labels)):
            header = struct.pack(f'>{1 + array.ndim}i', 0x0800 + array.ndim, *array.shape)
            (folder / f'{name}-{part}-ubyte').write_bytes(header + array.tobytes())
    teacher = MODELS.build(Config.fromfile(f'{CONFIGS}/teacher.py').model)
    torch.save(dict(state_dict=teacher.state_dict()), folder / 'teacher.pth')
    return folder


def overrides(data, workers=0, epochs=2, batch_size=16):
    """--cfg-options that make a run take a second."""
    return {
        'train_dataloader.dataset.data_root': str(data),
        'val_dataloader.dataset.data_root': str(data),
        'test_dataloader.dataset.data_root': str(data),
        'train_dataloader.batch_size': batch_size,
        'train_dataloader.num_workers': workers,
        'val_dataloader.num_workers': 0,
        'test_dataloader.num_workers': 0,
        'auto_scale_lr.base_batch_size': 16,
        'train_cfg.max_epochs': epochs,
        'param_scheduler.1.begin': 0,  # warm-up would fill a run of one epoch
        'env_cfg.mp_cfg.mp_start_method': 'fork',
        'default_hooks.logger.interval': 1,
    }


def config(name, work_dir, data, **kwargs):
    cfg = Config.fromfile(f'{CONFIGS}/{name}.py')
    cfg.merge_from_dict(overrides(data, **kwargs))
    cfg.work_dir = str(work_dir)
    # mmengine keeps global logs by this name.
    cfg.experiment_name = f'test{next(_runs)}'
    cfg.launcher = 'none'
    if cfg.model.type == 'ViTDistiller':
        cfg.model.teacher.checkpoint = f'{data}/teacher.pth'
    return cfg


class Interrupted(Exception):
    pass


class StopAt(Hook):
    """Stands for a kill in the middle of an epoch."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, **kwargs):
        if runner.iter == self.iteration:
            raise Interrupted


def runner(name, work_dir, data, options=None, **kwargs):
    cfg = config(name, work_dir, data, **kwargs)
    cfg.merge_from_dict(options or {})
    return RUNNERS.build(cfg)
