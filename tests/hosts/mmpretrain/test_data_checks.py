"""Data whose labels do not mean what the model's outputs do, refused before training."""

import logging
import shutil
import time

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS, init_default_scope
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import get_samples
from mmpretrain.registry import DATASETS
from PIL import Image

import shd_vit  # noqa: F401  (repairs)
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.hosts.mmpretrain.data_checks import check_data, number_of_classes

CLASSES = ('ant', 'bee', 'cat')


@pytest.fixture
def images(tmp_path):
    """2 training and 1 validation images of each of 3 classes."""
    root = tmp_path / 'images'
    for split, count in (('train', 2), ('val', 1)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new('RGB', (32, 32), (9 * i, 9, 9)).save(root / split / name / f'{i}.png')
    return root


def runner(work_dir, train, val, classes=3):
    """A run of a tiny classifier on two data sets, given by their configs."""
    cfg = Config.fromfile('configs/deit_tiny_baseline.py')
    cfg.model.backbone.update(
        arch=dict(embed_dims=12, num_layers=1, num_heads=3, feedforward_channels=12),
        img_size=32,
        patch_size=16,
    )
    cfg.model.head.update(num_classes=classes, in_channels=12)
    cfg.data_preprocessor.num_classes = classes
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    for split, dataset in (('train', train), ('val', val)):
        loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler'))
        cfg[f'{split}_dataloader'] = dict(**loader, dataset=dict(**dataset, pipeline=pipeline))
    cfg.test_dataloader = cfg.val_dataloader
    cfg.merge_from_dict(
        {
            'auto_scale_lr.base_batch_size': 2,
            'train_cfg.max_epochs': 1,
            'param_scheduler.1.begin': 0,
            'val_evaluator.topk': 1,
            'test_evaluator.topk': 1,
        }
    )
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.experiment_name = f'data{time.monotonic_ns()}'  # mmengine keeps global logs by this name
    return RUNNERS.build(cfg)


def folder(root, **more):
    return dict(type='CustomDataset', data_root=str(root), **more)


def build(dataset):
    init_default_scope('mmpretrain')
    return DATASETS.build(dataset)


# --- What a folder's classes are ------------------------------------------------------------


def test_samples_are_mmpretrains(images):
    (images / 'train/ant/below/deeper').mkdir(parents=True)
    shutil.copy(images / 'train/ant/0.png', images / 'train/ant/below/deeper/0.PNG')
    dataset = build(folder(images / 'train'))
    backend = LocalBackend()
    theirs, empty = get_samples(
        str(images / 'train'), {name: i for i, name in enumerate(CLASSES)},
        dataset.is_valid_file, backend,
    )  # fmt: skip
    assert not empty and len(theirs) == 7
    ours = [dataset.get_data_info(i) for i in range(len(dataset))]
    prefix = dataset.img_prefix
    assert [(i['img_path'], i['gt_label']) for i in ours] == [
        (backend.join_path(prefix, path), label) for path, label in theirs
    ]
    assert dataset.CLASSES == CLASSES


def test_hidden_folders_are_no_classes(images):
    shutil.copytree(images / 'train/cat', images / 'train/.ipynb_checkpoints')
    shutil.copytree(images / 'train/cat', images / 'train/bee/.ipynb_checkpoints')
    (images / 'train/.empty').mkdir()
    dataset = build(folder(images / 'train'))
    assert dataset.CLASSES == CLASSES
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]


def test_what_is_not_read_is_said_once(images, caplog):
    (images / 'train/ant/x.webp').touch()
    (images / 'train/cat/gone.png').symlink_to(images / 'gone.png')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        build(folder(images / 'train'))
    finally:
        logger.removeHandler(caplog.handler)
    (record,) = [r for r in caplog.records if 'left out' in r.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(str(images / 'train'))
    assert 'left out 1 .webp (ant 1); left out 1 broken links (cat 1)' in record.getMessage()


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (['ant', 'bee'], 'has also cat'),
        (['bee', 'ant', 'cat'], "has 'ant' where 'bee' is expected"),
        (['x', 'y'], r'has 3 class folders \(ant, bee, cat\), but CustomDataset has 2 classes'),
    ],
)
def test_names_that_are_not_the_folders(classes, message, images):
    with pytest.raises(DatasetError, match=message):
        build(folder(images / 'train', classes=classes))
    assert build(folder(images / 'train', classes=['x', 'y', 'z'])).CLASSES == ('x', 'y', 'z')


def test_a_data_set_that_chooses_its_own_files_is_left_alone(images):
    class Webp(CustomDataset):
        def is_valid_file(self, filename):
            return filename.endswith('1.png')

    assert len(Webp(data_root=str(images / 'train'))) == 3


# --- In a run -------------------------------------------------------------------------------


def test_a_run_on_folders(images, tmp_path):
    shutil.copytree(images / 'train/cat', images / 'train/.ipynb_checkpoints')
    run = runner(tmp_path, folder(images / 'train'), folder(images / 'val'))
    run.train()
    assert number_of_classes(run.model) == 3


def spoilt(images, kind):
    if kind == 'lacks':
        shutil.rmtree(images / 'val/bee')
    elif kind == 'more':
        shutil.copytree(images / 'val/bee', images / 'val/dog')
    elif kind == 'other':
        (images / 'val/bee').rename(images / 'val/dog')
    elif kind == 'empty':
        (images / 'val/bee/0.png').rename(images / 'val/bee/0.webp')
    elif kind == 'missing':
        shutil.rmtree(images / 'val')


@pytest.mark.parametrize(
    ('kind', 'error', 'message'),
    [
        (
            'lacks',
            DatasetError,
            r'val_dataloader \(.*val/?\) lacks bee: .* train_dataloader',
        ),
        ('more', DatasetError, r'val_dataloader \(.*val/?\) has also dog'),
        (
            'other',
            DatasetError,
            r'val_dataloader \(.*val/?\) lacks bee and has also dog: its labels',
        ),
        (
            'empty',
            DatasetError,
            r'images/val/?. has classes without an image: bee, .* 1 \.webp',
        ),
        ('missing', (ConfigError, DatasetError), r'images/val/?. .*does not exist'),
    ],
)
@pytest.mark.parametrize('prefix', [False, True])
def test_validation_with_other_classes_is_refused(kind, error, message, prefix, images, tmp_path):
    spoilt(images, kind)
    val = folder(images, data_prefix='val') if prefix else folder(images / 'val')
    with pytest.raises(error, match=message) as caught:
        runner(tmp_path, folder(images / 'train'), val).train()
    assert '\n' not in str(caught.value)


def test_another_number_of_classes_than_the_heads_is_refused(images, tmp_path):
    data = folder(images / 'train'), folder(images / 'val')
    with pytest.raises(ConfigError, match=r'num_classes=10, but train_dataloader .* has 3 classes'):
        runner(tmp_path / 'train', *data, classes=10).train()
    with pytest.raises(ConfigError, match=r'num_classes=10, but test_dataloader .* has 3 classes'):
        runner(tmp_path / 'test', *data, classes=10).test()


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('ant/0.png 0\nbee/0.png 3\n', r'sample 1 \(.*bee/0\.png\) has label 3, but .* 3 classes'),
        ('ant/0.png 0\nbee/0.png -1\n', r'sample 1 \(.*bee/0\.png\) has label -1'),
        ('ant/0.png 0\nbee/0.png\n', r"CustomDataset of '.*list\.txt' cannot be read: ValueError"),
        ('ant/0.png zero\n', r"CustomDataset of '.*list\.txt' cannot be read: ValueError"),
        (None, r"ann_file='.*list\.txt' of CustomDataset does not exist"),
    ],
)
def test_labels_of_an_annotation_file(lines, message, images, tmp_path):
    file = tmp_path / 'list.txt'
    if lines is not None:
        file.write_text(lines)
    train = folder(images / 'train', ann_file=str(file))
    with pytest.raises((ConfigError, DatasetError), match=message) as caught:
        runner(tmp_path, train, folder(images / 'val')).train()
    assert '\n' not in str(caught.value)


class Labels:
    """Stands for a .beton file."""

    path = 'a.beton'

    def __init__(self, labels, classes=None):
        self.labels, self.metainfo = (
            np.array(labels),
            {} if classes is None else dict(classes=classes),
        )


class Folders(Labels):
    def __init__(self, names, classes=None):
        super().__init__([0], classes or names)
        self.folder_to_idx = {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ('train', 'val', 'message'),
    [
        (Labels([0, 2]), Labels([1]), None),
        (Labels([0, 3]), Labels([1]), r"train_dataloader: sample 1 of 'a\.beton' has label 3"),
        (Labels([0], [*'abc']), Folders('abc'), None),
        (Labels([0], [*'abd']), Folders('abc'), r'val_dataloader \(.*\) lacks d and has also c'),
        (Labels([0], [*'acb']), Folders('abc'), "has 'b' where 'c' is expected"),
        # A file that was written by folders' names, and ImageNet's own names of them.
        (Labels([0], [*'abc']), Folders('abc', classes=('tench', 'cock', 'hen')), None),
        (Folders('abc', classes=('x', 'y', 'z')), Folders('abc'), None),
        (Labels([0], [*'abcd']), Folders('abc'), r'num_classes=3, but train_dataloader .* has 4'),
    ],
)
def test_files_beside_folders(train, val, message):
    data = dict(train_dataloader=train, val_dataloader=val)
    if message is None:
        check_data(data, 3)
    else:
        with pytest.raises((ConfigError, DatasetError), match=message):
            check_data(data, 3)
