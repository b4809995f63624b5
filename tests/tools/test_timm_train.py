"""tools/timm_train.py on folders of plain colours."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset
from timm.models import create_model
from tooling import load_tool

from shd_vit.errors import ConfigError, DatasetError
from shd_vit.hosts.timm.folders import image_folders

SIZES = dict(img_size=32, patch_size=16, depth=2)
COLOURS = dict(blue=(0, 0, 255), green=(0, 255, 0), red=(255, 0, 0))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """12 training and 5 validation images of each of 3 classes, and a teacher's weights."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for split, count in (('train', 12), ('val', 5)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 40, (32, 32, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{i}.png')
    torch.manual_seed(0)
    teacher = create_model(
        'vit_tiny_patch16_224', num_classes=3, embed_dim=24, num_heads=6, **SIZES
    )
    torch.save(teacher.state_dict(), root / 'teacher.pth')
    return root


@pytest.fixture
def train(folder, tmp_path, monkeypatch):
    tool = load_tool('timm_train')

    def run(*options):
        sizes = [f'{key}={value}' for key, value in SIZES.items()]
        arguments = [
            str(folder), '--model', 'vit_tiny_patch16_224', '--model-kwargs', *sizes,
            'embed_dim=12', 'num_heads=3', '--teacher', 'vit_tiny_patch16_224', '--teacher-path',
            str(folder / 'teacher.pth'), '--teacher-kwargs', *sizes, 'embed_dim=24', 'num_heads=6',
            '--img-size', '32', '--batch-size', '8', '--warmup-epochs', '0', '--lr', '5e-3',
            '--workers', '0', '--output', str(tmp_path), '--experiment', 'run', '--device', 'cpu',
            *options,
        ]  # fmt: skip
        monkeypatch.setattr('sys.argv', ['timm_train.py', *arguments])
        tool.main()
        with open(tmp_path / 'run/summary.csv') as file:
            return list(csv.DictReader(file))

    return run


def test_trains_validates_and_goes_on(train, tmp_path):
    options = ['--epochs', '4', '--vitkd', '--nkd', '--no-aug', '--model-ema', '--clip-grad', '1']
    whole = train(*options, '--model-ema-decay', '0.5')
    assert [row['epoch'] for row in whole] == ['0', '1', '2', '3']
    assert float(whole[-1]['train_loss']) < float(whole[0]['train_loss'])
    assert {'train_shd_loss', 'train_vitkd_loss', 'train_nkd_loss', 'eval_top1_ema'} <= whole[
        0
    ].keys()

    # The checkpoint is the plain student, which a plain loop finds as good as the tool says.
    student = create_model(
        'vit_tiny_patch16_224', num_classes=3, embed_dim=12, num_heads=3, **SIZES,
        checkpoint_path=str(tmp_path / 'run/last.pth.tar'),
    )  # fmt: skip
    saved = torch.load(tmp_path / 'run/last.pth.tar', weights_only=False)
    assert saved['epoch'] == 3 and saved['task_state']['losses']
    assert all(saved['state_dict_ema'][k].equal(v) for k, v in student.state_dict().items())

    # Epochs 2 and 3 once more, from the checkpoint of epoch 1: no row twice.
    again = train(
        *options, '--model-ema-decay', '0.5', '--resume', str(tmp_path / 'run/checkpoint-1.pth.tar')
    )
    assert [row['epoch'] for row in again] == ['0', '1', '2', '3']
    assert again[:2] == whole[:2]
    assert [row['lr'] for row in again] == [row['lr'] for row in whole]


def test_augmented_mixed_accumulated_and_in_half_precision(train, monkeypatch):
    rows = train(
        '--epochs', '1', '--mixup', '0.8', '--cutmix', '1', '--amp', '--grad-accum-steps', '3',
        '--shd-strategy', 'head_matching', '--layer-decay', '0.7', '--task-loss-weight', '0.5',
    )  # fmt: skip
    terms = {key: float(value) for key, value in rows[0].items()}
    expected = 0.5 * terms['train_task_loss'] + 0.5 * terms['train_shd_loss']
    assert terms['train_loss'] == pytest.approx(expected, rel=1e-3)
    assert 'train_nkd_loss' not in terms


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--teacher-path', 'nowhere.pth'], "--teacher-path 'nowhere.pth' does not exist"),
        (['--resume', 'nowhere.pth'], "--resume 'nowhere.pth' does not exist"),
        (['--batch-size', '64'], '--batch-size=64 is more'),
        (['--no-shd'], 'nothing to distil'),
        (['--shd-temperature', '0'], 'temperature=0.0 must be a finite number, above 0'),
    ],
)
def test_what_cannot_work_is_refused(train, options, message):
    with pytest.raises(ConfigError, match=message):
        train('--epochs', '1', *options)


@pytest.fixture
def images(folder, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(folder, tmp_path / 'images')


def found(images, *options):
    """The tool's data sets: (path, label) of each image, and the number of classes."""
    tool = load_tool('timm_train')
    args = tool.parse_args([str(images), '--teacher', 'deit_tiny_patch16_224', *options])
    sets = tool.datasets(args)
    samples = [
        {(Path(path).relative_to(images).as_posix(), label) for path, label in s.reader.samples}
        for s in sets
    ]
    return *samples, args.num_classes


def expected(split, count):
    return {
        (f'{split}/{name}/{i}.png', label)
        for label, name in enumerate(sorted(COLOURS))
        for i in range(count)
    }


def test_only_images_in_class_folders_are_read(images, caplog):
    for split in ('train', 'val'):
        for hidden in (f'{split}/.ipynb_checkpoints', f'{split}/blue/.ipynb_checkpoints'):
            shutil.copytree(images / split / 'red', images / hidden)
        shutil.copy(images / split / 'red/0.png', images / split / 'montage.png')
        (images / split / 'red/._0.png').write_bytes(b'AppleDouble')
    (images / 'train/green/gone.png').symlink_to(images / 'nowhere.png')
    (images / 'train/green/x.webp').touch()
    assert found(images) == (expected('train', 12), expected('val', 5), 3)
    (warning,) = [r.message for r in caplog.records if 'train: ' in r.message]
    for kind in ('1 images in no class folder', '1 .webp (green 1)', '1 broken links (green 1)'):
        assert f'left out {kind}' in warning


def test_classes_and_images_are_timms(images):
    """The reader's own, where nothing is amiss: order of classes, of images, nested folders."""
    for name in ('n2', 'n10', 'B'):
        for split in ('train', 'val'):
            shutil.copytree(images / split / 'red', images / split / 'more' / name)
    train, val = image_folders(str(images))
    for ours, split in ((train, 'train'), (val, 'validation')):
        theirs = create_dataset('', root=str(images), split=split)
        assert ours.reader.class_to_idx == theirs.reader.class_to_idx
        assert ours.reader.samples == theirs.reader.samples
        assert ours.filename(3) == theirs.filename(3)
        assert (np.asarray(ours[5][0]) == np.asarray(theirs[5][0])).all()


def remove(images, name):
    shutil.rmtree(images / name)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda root: remove(root, 'val/blue'), r'val.* lacks blue: its labels'),
        (lambda root: remove(root, 'train/blue'), r'val.* has also blue'),
        (lambda root: (root / 'val/red').rename(root / 'val/ruby'), r'lacks red and .* ruby'),
        (lambda root: (remove(root, 'val/red'), (root / 'val/red').mkdir()),
         r'val.* without an image: red'),
        (lambda root: [p.rename(p.with_suffix('.webp')) for p in (root / 'train/red').iterdir()],
         r'train.* without an image: red, left out 12 \.webp'),
        (lambda root: remove(root, 'val'), r'looked for validation/, val/'),
        (lambda root: remove(root, 'train'), r'looked for train/, training/'),
    ],
)  # fmt: skip
def test_folders_whose_labels_would_shift_are_refused(spoil, message, images):
    spoil(images)
    with pytest.raises(DatasetError, match=message) as caught:
        found(images)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['torch/image_folder', 'torch/folder', 'whatever'])
def test_other_names_of_folders_are_held_to_the_same(name, images):
    tool = load_tool('timm_train')
    args = tool.parse_args([str(images), '--teacher', 'x', '--dataset', name])
    assert len(tool.datasets(args)[1]) == 15 and args.num_classes == 3
    (images / 'val/red').rename(images / 'val/ruby')
    with pytest.raises(DatasetError, match='lacks red and has also ruby'):
        tool.datasets(args)
    remove(images, 'val')
    with pytest.raises(DatasetError, match='looked for validation/, val/'):
        tool.datasets(args)


def test_another_number_of_classes_is_refused(images):
    with pytest.raises(ConfigError, match=r'--num-classes=2, but .* 3 classes: blue, green, red'):
        found(images, '--num-classes', '2')
    with pytest.raises(ConfigError, match=r"data_dir '.*nowhere' does not exist"):
        found(images / 'nowhere')
